"""Invariants 3, 4 and 5 of the default loss, on one small network per architecture."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import objectives
from objectives.base import ObjectiveSpec
from objectives.lm_loss import LMLoss, TrainingLoss, target_hidden_states
from objectives.named import NAMED
from objectives.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    size=60, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 19)),
    regular_token_ranges=((19, 60),),
    word_continuation=bytes(3 if token % 2 else 2 for token in range(60)),
)  # fmt: skip
LENGTH, ROWS = 24, 4
PAIRS = [
    (a, name)
    for a, names in objectives.names_by_architecture().items()
    for name in names
    if isinstance(objectives.loss_of(objectives.build(name)), LMLoss)  # others: in their own tests
]
# Denoisers and mixtures share one loss; `make test` runs one of them per architecture.
FIRST = {
    ("encoder", "masked_lm"),
    ("decoder", "prefix_lm"),
    ("decoder", "mntp"),
    ("encoder_decoder", "span_corruption"),
}
SIMILAR = {*NAMED, "denoising", "mixture", "ul2", "hybrid", "prefix_lm", "fill_in_the_middle"}
each_pair = pytest.mark.parametrize(
    "architecture, name",
    [
        pytest.param(a, n, marks=[pytest.mark.slow] * (n in SIMILAR and (a, n) not in FIRST))
        for a, n in PAIRS
    ],
)


def rows_of(architecture, raw, seed):
    """Rows of two documents, the second one cut; the last row has one document and padding."""
    random = np.random.default_rng(seed)
    rows = random.integers(19, 60, (ROWS, raw))
    end = min(12, raw // 2)  # of the first document: a raw row may be half as long as the inputs
    rows[:, end - 1] = VOCABULARY.closing(architecture)
    rows[-1, end:] = VOCABULARY.pad
    if architecture == "encoder":
        rows[:, 0] = rows[:-1, end] = VOCABULARY.cls
    return jnp.asarray(rows, jnp.int32)


@functools.cache
def make(architecture, name):
    """(objective, model, params, jitted corruption, batch, jitted losses)."""
    objective = objectives.build(name)
    loss = objectives.loss_of(objective)
    spec = ObjectiveSpec(architecture, VOCABULARY, LENGTH)
    model = models.build(models.ModelConfig(
        architecture=architecture, vocab_size=60, max_length=LENGTH + 1, num_layers=1, emb_dim=16,
        num_heads=2, mlp_dim=32, dropout_rate=0.1, init_std=0.2,
    ))  # fmt: skip
    rows = rows_of(architecture, objective.lengths(spec).raw, 0)
    corrupt = jax.jit(functools.partial(objective.corrupt_batch, spec))
    batch = corrupt(jax.random.split(jax.random.key(1), ROWS), rows)
    params = jax.jit(functools.partial(loss.init, model))(jax.random.key(2), batch)
    return objective, model, params, corrupt, batch, jax.jit(functools.partial(loss.losses, model))


def run(losses, *arguments):
    with jax.numpy_dtype_promotion("strict"):
        return jax.tree.map(np.asarray, losses(*arguments))


@each_pair
def test_invariant_05_losses_are_sums_and_weights_recomputed_by_hand(architecture, name):
    objective, model, params, _, batch, losses = make(architecture, name)
    sums = run(losses, params, batch, None)

    @jax.jit
    def all_logits(params):
        hidden = model.apply({"params": params}, batch.inputs, batch.decoder_inputs)
        features = model.apply({"params": params}, hidden, method="lm_features")
        return features @ model.apply({"params": params}, method="output_embedding")[0].T

    logits = np.asarray(all_logits(params), np.float64)[..., : VOCABULARY.size]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = hits = 0
    for b, n in zip(*np.nonzero(batch.loss_weights), strict=True):
        position = n if batch.target_positions is None else batch.target_positions[b, n]
        loss -= log_probs[b, position, batch.targets[b, n]]
        hits += log_probs[b, position].argmax() == batch.targets[b, n]
    np.testing.assert_allclose(sums["lm"][0], loss, rtol=1e-5)
    assert sums["accuracy"][0] == hits
    assert sums["lm"][1] == sums["accuracy"][1] == np.count_nonzero(batch.loss_weights)
    assert set(objectives.loss_of(objective).loss_coefficients()) <= set(sums)


@pytest.mark.parametrize("architecture, name", sorted(FIRST))
def test_the_loss_is_that_of_the_capped_logits(architecture, name):
    objective, model, params, _, batch, losses = make(architecture, name)
    cap = 0.5
    capped = models.build(dataclasses.replace(model.config, final_logit_softcap=cap))
    sums = run(functools.partial(objectives.loss_of(objective).losses, capped), params, batch, None)
    hidden = target_hidden_states(model, params, batch, None)
    table = model.apply({"params": params}, method="output_embedding")[0][: VOCABULARY.size]
    logits = cap * np.tanh(np.asarray(hidden @ table.T, np.float64) / cap)
    picked = np.take_along_axis(logits, np.asarray(batch.targets)[..., None], -1)[..., 0]
    expected = (np.log(np.exp(logits).sum(-1)) - picked) * np.asarray(batch.loss_weights)
    np.testing.assert_allclose(sums["lm"][0], expected.sum(), rtol=1e-5)
    assert abs(sums["lm"][0] - run(losses, params, batch, None)["lm"][0]) > 1


@each_pair
def test_invariant_04_denominators_match_the_losses_and_microbatches_add_up(architecture, name):
    objective, _, params, _, batch, losses = make(architecture, name)
    whole = run(losses, params, batch, None)
    for loss, denominator in objectives.loss_of(objective).loss_denominators(batch).items():
        assert denominator == whole[loss][1] > 0
    single = [
        run(losses, params, jax.tree.map(lambda x, r=r: x[jnp.full(ROWS, r)], batch), None)
        for r in range(ROWS)
    ]
    for loss, pair in whole.items():
        summed = np.sum([each[loss] for each in single], axis=0) / ROWS
        np.testing.assert_allclose(summed, pair, rtol=1e-5)


@each_pair
def test_invariant_05_rows_of_padding_change_nothing(architecture, name):
    objective, _, params, corrupt, batch, losses = make(architecture, name)
    spec = ObjectiveSpec(architecture, VOCABULARY, LENGTH)
    empty = corrupt(
        jax.random.split(jax.random.key(9), ROWS),
        jnp.zeros((ROWS, objective.lengths(spec).raw), jnp.int32),
    )
    padded = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, empty)
    together, alone = run(losses, params, padded, None), run(losses, params, batch, None)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), together, alone)


@each_pair
def test_invariant_03_predictions_do_not_depend_on_a_neighboring_document(architecture, name):
    _, model, params, _, batch, _ = make(architecture, name)
    states = jax.jit(lambda batch: target_hidden_states(model, params, batch, None))
    inputs = batch.inputs
    changed = jnp.where(inputs.segment_ids == 2, 19 + (inputs.tokens * 7) % 41, inputs.tokens)
    assert (changed != inputs.tokens).any()
    before = np.asarray(states(batch))
    after = np.asarray(states(batch.replace(inputs=inputs.replace(tokens=changed))))
    segment_ids = np.asarray((batch.decoder_inputs or inputs).segment_ids)
    if batch.target_positions is not None:
        segment_ids = np.take_along_axis(segment_ids, np.asarray(batch.target_positions), 1)
    first = (segment_ids == 1) & (np.asarray(batch.loss_weights) > 0)
    assert first.any() and np.abs(before[first] - after[first]).max() == 0
    second = (segment_ids == 2) & (np.asarray(batch.loss_weights) > 0)
    assert np.abs(before[second] - after[second]).max() > 1e-3


def test_dropout_depends_only_on_its_rng():
    _, _, params, _, batch, losses = make("decoder", "causal_lm")
    rngs = jax.random.split(jax.random.key(0))
    first, again, second = (run(losses, params, batch, k)["lm"][0] for k in (rngs[0], *rngs))
    assert first == again != second and first != run(losses, params, batch, None)["lm"][0]


def test_z_loss_is_added_in_training_and_left_out_of_evaluation():
    objective, model, params, _, batch, losses = make("decoder", "causal_lm")
    regularized = dataclasses.replace(objective, z_loss=0.5)
    assert regularized.for_evaluation() == objective and regularized != objective
    assert objectives.loss_of(regularized) == LMLoss(z_loss=0.5)
    sums = run(losses, params, batch, None)
    loss = objectives.loss_of(regularized)
    with_z = run(functools.partial(loss.losses, model), params, batch, None)
    hidden = target_hidden_states(model, params, batch, None)
    table = model.apply({"params": params}, method="output_embedding")[0][: VOCABULARY.size]
    log_z = np.log(np.exp(np.asarray(hidden @ table.T, np.float64)).sum(-1))
    added = 0.5 * (log_z**2 * np.asarray(batch.loss_weights)).sum()
    np.testing.assert_allclose(with_z["lm"][0] - sums["lm"][0], added, rtol=1e-4)
    assert added > 1 and with_z["accuracy"] == sums["accuracy"]


def test_z_loss_is_an_error_for_an_objective_without_a_softmax_over_the_vocabulary():
    pairs = objectives.build("sentence_order", {"mlm_loss_weight": 0.0, "z_loss": 0.1})
    with pytest.raises(ValueError, match="z_loss=0.1: sentence_order has no softmax over the voc"):
        objectives.check(pairs, "encoder")
    objectives.check(dataclasses.replace(pairs, z_loss=0.0), "encoder")
    objectives.check(dataclasses.replace(pairs, mlm_loss_weight=1.0), "encoder")


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_an_objective_with_its_own_loss_is_that_loss(name):
    objective = objectives.build(name)
    loss = objectives.loss_of(objective)
    assert isinstance(loss, TrainingLoss)
    assert (loss is objective) == issubclass(type(objective), TrainingLoss)
    for method in ("init", "losses", "loss_coefficients", "loss_denominators", "target_classes",
                   "flops_spec"):  # fmt: skip
        assert getattr(type(loss), method) is not getattr(TrainingLoss, method)
