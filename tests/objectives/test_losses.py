"""Laws 3, 4 and 5 of the default losses, on one small network per architecture."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import objectives
from objectives.base import Objective, Setting, hidden_states
from objectives.named import NAMED
from objectives.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    size=60, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 19)), ordinary=((19, 60),),
    joins=bytes(3 if piece % 2 else 2 for piece in range(60)),
)  # fmt: skip
LENGTH, ROWS = 24, 4
PAIRS = [
    (a, name)
    for a, names in objectives.pairs_by_architecture().items()
    for name in names
    if objectives.REGISTRY[name].losses is Objective.losses  # others: tests of their own
]
# Denoisers and mixtures share one loss: those of `make test` stand for the others.
FIRST = {("encoder", "masked_lm"), ("decoder", "prefix_lm"), ("encoder_decoder", "span_corruption")}
KIN = {*NAMED, "denoising", "mixture", "ul2", "prefix_lm", "fill_in_the_middle"}
each_pair = pytest.mark.parametrize(
    "architecture, name",
    [
        pytest.param(a, n, marks=[pytest.mark.slow] * (n in KIN and (a, n) not in FIRST))
        for a, n in PAIRS
    ],
)


def rows_of(architecture, raw, seed):
    """Rows of two documents, the second one cut; the last row is padding but for one document."""
    random = np.random.default_rng(seed)
    rows = random.integers(19, 60, (ROWS, raw))
    end = min(12, raw // 2)  # of the first document: a row may be half as long as what is read
    rows[:, end - 1] = VOCABULARY.closing(architecture)
    rows[-1, end:] = VOCABULARY.pad
    if architecture == "encoder":
        rows[:, 0] = rows[:-1, end] = VOCABULARY.cls
    return jnp.asarray(rows, jnp.int32)


@functools.cache
def made(architecture, name):
    """(objective, model, params, rows, batch, jitted losses)."""
    objective = objectives.build(name)
    setting = Setting(architecture, VOCABULARY, LENGTH)
    model = models.build(models.ModelConfig(
        architecture=architecture, vocab_size=60, max_length=LENGTH + 1, layers=1, width=16,
        heads=2, mlp_size=32, dropout=0.1, init_std=0.2,
    ))  # fmt: skip
    rows = rows_of(architecture, objective.shapes(setting).raw, 0)
    corrupt = jax.jit(jax.vmap(functools.partial(objective.corrupt, setting)))
    batch = corrupt(jax.random.split(jax.random.key(1), ROWS), rows)
    params = jax.jit(functools.partial(objective.initialise, model))(jax.random.key(2), batch)
    losses = jax.jit(functools.partial(objective.losses, model))
    return objective, model, params, corrupt, batch, losses


def run(losses, *arguments):
    with jax.numpy_dtype_promotion("strict"):
        return jax.tree.map(np.asarray, losses(*arguments))


@each_pair
def test_law_05_losses_are_sums_and_weights_recomputed_by_hand(architecture, name):
    objective, model, params, _, batch, losses = made(architecture, name)
    sums = run(losses, params, batch, None)

    @jax.jit
    def all_logits(params):
        hidden = model.apply({"params": params}, batch.inputs, batch.decoder)
        features = model.apply({"params": params}, hidden, method="readout")
        return features @ model.apply({"params": params}, method="unembedding")[0].T

    logits = np.asarray(all_logits(params), np.float64)[..., : VOCABULARY.size]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = hits = 0
    for b, n in zip(*np.nonzero(batch.weights), strict=True):
        position = n if batch.indices is None else batch.indices[b, n]
        loss -= logs[b, position, batch.targets[b, n]]
        hits += logs[b, position].argmax() == batch.targets[b, n]
    np.testing.assert_allclose(sums["lm"][0], loss, rtol=1e-5)
    assert sums["accuracy"][0] == hits
    assert sums["lm"][1] == sums["accuracy"][1] == np.count_nonzero(batch.weights)
    assert set(objective.coefficients()) <= set(sums)


@each_pair
def test_law_04_weights_are_those_of_the_losses_and_microbatches_add_up(architecture, name):
    objective, _, params, _, batch, losses = made(architecture, name)
    whole = run(losses, params, batch, None)
    for loss, weight in objective.weights(batch).items():
        assert weight == whole[loss][1] > 0
    single = [
        run(losses, params, jax.tree.map(lambda x, r=r: x[jnp.full(ROWS, r)], batch), None)
        for r in range(ROWS)
    ]
    for loss, pair in whole.items():
        parts = np.sum([one[loss] for one in single], axis=0) / ROWS
        np.testing.assert_allclose(parts, pair, rtol=1e-5)


@each_pair
def test_law_05_rows_of_padding_change_nothing(architecture, name):
    objective, _, params, corrupt, batch, losses = made(architecture, name)
    setting = Setting(architecture, VOCABULARY, LENGTH)
    empty = corrupt(
        jax.random.split(jax.random.key(9), ROWS),
        jnp.zeros((ROWS, objective.shapes(setting).raw), jnp.int32),
    )
    padded = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, empty)
    together, alone = run(losses, params, padded, None), run(losses, params, batch, None)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), together, alone)


@each_pair
def test_law_03_what_a_document_predicts_does_not_depend_on_its_neighbour(architecture, name):
    _, model, params, _, batch, _ = made(architecture, name)
    states = jax.jit(lambda batch: hidden_states(model, params, batch, None))
    inputs = batch.inputs
    other = jnp.where(inputs.segments == 2, 19 + (inputs.tokens * 7) % 41, inputs.tokens)
    assert (other != inputs.tokens).any()
    before = np.asarray(states(batch))
    after = np.asarray(states(batch.replace(inputs=inputs.replace(tokens=other))))
    side = batch.decoder or inputs
    segments = np.asarray(side.segments)
    if batch.indices is not None:
        segments = np.take_along_axis(segments, np.asarray(batch.indices), 1)
    mine = (segments == 1) & (np.asarray(batch.weights) > 0)
    assert mine.any() and np.abs(before[mine] - after[mine]).max() == 0
    theirs = (segments == 2) & (np.asarray(batch.weights) > 0)
    assert np.abs(before[theirs] - after[theirs]).max() > 1e-3


def test_dropout_is_driven_by_the_key():
    _, _, params, _, batch, losses = made("decoder", "causal_lm")
    keys = jax.random.split(jax.random.key(0))
    first, again, second = (run(losses, params, batch, k)["lm"][0] for k in (keys[0], *keys))
    assert first == again != second and first != run(losses, params, batch, None)["lm"][0]


def test_z_loss_is_added_while_training_and_left_out_of_what_is_measured():
    objective, model, params, _, batch, losses = made("decoder", "causal_lm")
    regularised = dataclasses.replace(objective, z_loss=0.5)
    assert regularised.measured() == objective and regularised != objective
    sums = run(losses, params, batch, None)
    more = run(functools.partial(regularised.losses, model), params, batch, None)
    hidden = hidden_states(model, params, batch, None)
    table = model.apply({"params": params}, method="unembedding")[0][: VOCABULARY.size]
    log_z = np.log(np.exp(np.asarray(hidden @ table.T, np.float64)).sum(-1))
    added = 0.5 * (log_z**2 * np.asarray(batch.weights)).sum()
    np.testing.assert_allclose(more["lm"][0] - sums["lm"][0], added, rtol=1e-4)
    assert added > 1 and more["accuracy"] == sums["accuracy"]


def test_z_loss_of_an_objective_without_a_softmax_is_refused():
    class Pairs(type(objectives.build("causal_lm"))):
        def coefficients(self):
            return {"pair": 1.0}

    with pytest.raises(ValueError, match="z_loss=0.1 is of a softmax over the vocabulary"):
        objectives.check(Pairs(z_loss=0.1), "decoder")
    objectives.check(Pairs(), "decoder")
