"""Masked next-token prediction, and the hybrid that trains one decoder on it and on causal_lm.

An update of the hybrid is the update of the component that its step draws.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_configs
from documents import REGULAR_TOKENS, VOCABULARY, make_row, words_of
from hooks import crash_after_save

import models
import objectives
import train
from objectives.base import ObjectiveSpec
from training import config as config_lib
from training.config import ConfigError
from training.param_rules import flatten_params

LENGTH, ROWS = 48, 8
SPEC = ObjectiveSpec("decoder", VOCABULARY, LENGTH)
CONFIG = models.ModelConfig(
    architecture="decoder", vocab_size=VOCABULARY.size, max_length=LENGTH, num_layers=2, emb_dim=16,
    num_heads=2, mlp_dim=32, init_std=0.2,
)  # fmt: skip


def rows_of(raw):
    return np.stack([make_row("decoder", raw, [9, 20, 3, 30], 7 * i, i) for i in range(ROWS)])


def corrupt(name, seed=0):
    """(rows, Batch) of an objective, as NumPy."""
    objective = objectives.parse(name)
    rows = rows_of(objective.lengths(SPEC).raw)
    run = jax.jit(functools.partial(objective.corrupt_batch, SPEC))
    return rows, jax.device_get(run(jax.random.split(jax.random.key(seed), ROWS), rows))


@pytest.mark.parametrize("options", ["", ":whole_word=True"])
def test_a_masked_token_is_predicted_at_the_position_before_it(options):
    rows, batch = corrupt(f"mntp{options}")
    assert batch.inputs.attention == "bidirectional"
    for row, tokens, segment_ids, weights, targets, at in zip(
        rows, batch.inputs.tokens, batch.inputs.segment_ids, batch.loss_weights, batch.targets,
        batch.target_positions, strict=True,
    ):  # fmt: skip
        at, targets = at[weights > 0], targets[weights > 0]
        np.testing.assert_array_equal(row[at + 1], targets)
        assert np.isin(targets, REGULAR_TOKENS).all()
        # Both positions are of one document, so its first token is neither a target nor masked.
        np.testing.assert_array_equal(segment_ids[at], segment_ids[at + 1])
        assert {*np.flatnonzero(tokens != row)} <= {*(at + 1).tolist()}
        if options:
            for word in words_of(row):
                first = word[0] == 0 or segment_ids[word[0]] != segment_ids[word[0] - 1]
                noise = np.isin(word, at + 1)
                assert noise.all() or not noise.any()
                assert not (noise.any() and first)


def test_the_loss_is_the_masked_lm_loss_of_the_shifted_states():
    """Recomputed from the model's logits: the state before a position predicts its token."""
    rows, batch = corrupt("mntp")
    model = models.build(CONFIG)
    params = model.init(jax.random.key(0), batch.inputs, method="init_all")["params"]
    loss = objectives.loss_of(objectives.build("mntp"))
    sums = jax.jit(functools.partial(loss.losses, model))(params, batch, None)

    @jax.jit
    def log_probs(params):
        hidden = model.apply({"params": params}, batch.inputs)
        table, _ = model.apply({"params": params}, method="output_embedding")
        features = model.apply({"params": params}, hidden, method="lm_features")
        return jax.nn.log_softmax((features @ table.T)[..., : VOCABULARY.size])

    shifted = np.roll(np.asarray(log_probs(params)), 1, axis=1)  # the prediction of each position
    total = -sum(
        shifted[b, batch.target_positions[b, n] + 1, batch.targets[b, n]]
        for b, n in zip(*np.nonzero(batch.loss_weights), strict=True)
    )
    np.testing.assert_allclose(sums["lm"][0], total, rtol=1e-5)


@functools.cache
def hybrid():
    """(objective, model, params, jitted function (batch) -> (sums, gradients))."""
    objective, model = objectives.build("hybrid"), models.build(CONFIG)
    _, batch = corrupt("mntp")
    params = model.init(jax.random.key(0), batch.inputs, method="init_all")["params"]
    loss = objectives.loss_of(objective)

    @jax.jit
    def step(params, batch):
        def mean(params):
            sums = loss.losses(model, params, batch, None)
            return sums["lm"][0] / sums["lm"][1], sums

        return jax.grad(mean, has_aux=True)(params)

    return objective, params, step


def test_an_update_of_the_hybrid_equals_the_update_of_its_component():
    objective, params, step = hybrid()
    rows = rows_of(objective.lengths(SPEC).raw)
    assert objective.lengths(SPEC) == objectives.build("causal_lm").lengths(SPEC)  # the same rows
    run = jax.jit(functools.partial(objective.corrupt_batch, SPEC))
    drawn = set()
    for seed in range(6):
        rngs = jax.random.split(jax.random.key(seed), ROWS)
        batch = run(rngs, rows)
        assert batch.inputs.attention == "prefix" and batch.slot_shares == ((7, 0.5), (48, 0.5))
        name = "mntp" if np.asarray(batch.inputs.prefix).any() else "causal_lm"
        drawn.add(name)
        component = objectives.build(name)
        own_rngs = jax.vmap(lambda rng: jax.random.split(rng)[1])(rngs)
        own_rows = jnp.asarray(rows[:, : component.lengths(SPEC).raw])
        own = jax.jit(functools.partial(component.corrupt_batch, SPEC))(own_rngs, own_rows)
        np.testing.assert_array_equal(own.inputs.tokens, batch.inputs.tokens)
        with jax.numpy_dtype_promotion("strict"):
            found, expected = step(params, batch), step(params, own)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert drawn == {"mntp", "causal_lm"}


def test_the_share_of_causal_updates_is_the_configured_one():
    objective = objectives.build("hybrid", {"causal_share": 0.0625, "masked": "span_corruption"})
    assert [(c.share, c.text) for c in objective.parsed] == [
        (0.0625, "causal_lm"), (0.9375, "span_corruption"),
    ]  # fmt: skip
    drawn = jax.vmap(objective._draw)(jax.random.split(jax.random.key(0), 4096))[0]
    assert abs(float((drawn == 0).mean()) - 0.0625) < 5 * (0.0625 * 0.9375 / 4096) ** 0.5
    alone = objectives.build("hybrid", {"causal_share": 0.0})
    assert [c.text for c in alone.parsed] == ["mntp"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"masked": "mtnp"}, "did you mean 'mntp'"),
        ({"masked": "mntp:z_loss=0.1"}, "set z_loss on the mixture"),
        ({"masked": "next_sentence"}, "has its own loss"),
        ({"masked": "ul2:sample_per=batch"}, "list its components here"),
    ],
)
def test_an_invalid_component_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        objectives.build("hybrid", options)


def test_a_component_for_another_architecture_is_an_error():
    with pytest.raises(ValueError, match="masked_lm does not support it"):
        objectives.check(objectives.build("hybrid", {"masked": "masked_lm"}), "decoder")


def test_a_tokenizer_without_a_mask_is_an_error():
    fields = {**vars(VOCABULARY), "mask": -1}
    spec = ObjectiveSpec("decoder", type(VOCABULARY)(**fields), LENGTH)
    for name in ("mntp", "hybrid"):
        with pytest.raises(ValueError, match="no token for mask: train a tokenizer"):
            objectives.build(name).lengths(spec)


def test_invariant_02_a_crashed_hybrid_run_resumes_to_the_same_bits_and_evaluates_both_components(
    tmp_path, monkeypatch
):
    def config(**changes):
        return tiny_configs.pretraining(
            tmp_path, "configs/decoder.py:objective=hybrid", training__duration="6 steps",
            evaluation__every="3 steps", **{"objective__causal_share": 0.4, **changes},
        )  # fmt: skip

    result = train.run(config(), str(tmp_path / "whole"))
    with crash_after_save(monkeypatch, train, 2), pytest.raises(RuntimeError, match="crash"):
        train.run(config(), str(tmp_path / "crashed"))
    train.run(config(), str(tmp_path / "crashed"))
    runs = tmp_path / "crashed", tmp_path / "whole"
    assert tiny_configs.metrics(runs[0]) == tiny_configs.metrics(runs[1])
    first, second = (flatten_params(tiny_configs.read_params(run, 6)) for run in runs)
    for path, array in second.items():
        np.testing.assert_array_equal(first[path], array, err_msg=path)
    # Every component reads all validation rows; the loss has the shares of the updates.
    scores = {name.removeprefix("validation/"): value for name, value in result.metrics.items()}
    expected = 0.4 * scores["causal_lm"] + 0.6 * scores["mntp"]
    assert scores["loss"] == pytest.approx(expected)
    assert {"causal_lm_accuracy", "mntp_accuracy", "causal_lm_bits_per_byte"} <= scores.keys()
    with pytest.raises(ConfigError, match="causal_share"):
        config_lib.resolve(train.PretrainConfig, config(objective__causal_share=1.5))
