"""The train step: microbatches, devices and padding change nothing; frozen parameters stay; a
non-finite update is skipped.

Gradients are compared at equal parameters, to 1e-5 of the tensor's largest entry (of the model's where
a gradient vanishes), and the losses of ten updates to 1e-4.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import models
import objectives
from models import chunked_attention
from models.config import ModelConfig
from objectives.base import ObjectiveSpec
from objectives.vocabulary import Vocabulary
from tasks.pretraining import LoadedPretraining, example_ids, example_rngs
from train import train_step
from training import sharding
from training.config import ConfigError
from training.optimizers import AdamW, Optimizer
from training.param_rules import find_frozen, flatten_params, split_params
from training.schema import MeshConfig, PretrainingSteps, Seeds
from training.state import TrainState, eval_params, init_output_bias
from training.train_step import accumulate_gradients, check_batch_layout, rng_stream, rng_streams

VOCABULARY = Vocabulary(
    size=200, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 113)), regular_token_ranges=((113, 200),),
)  # fmt: skip
PAIRS = [
    ("encoder", "masked_lm"),
    ("decoder", "causal_lm"),
    ("encoder_decoder", "span_corruption"),
    ("decoder", "hybrid"),
    pytest.param("encoder", "next_sentence", marks=pytest.mark.slow),
    pytest.param("encoder", "replaced_token_detection", marks=pytest.mark.slow),
]
# One or two options of the model that a default run does not reach, with each architecture.
OPTIONS = {
    "encoder": {"embedding_size": 8, "qk_norm": True},
    "decoder": {"num_kv_heads": 1},
    "encoder_decoder": {"share_encoder_decoder": True},
}
BATCH, SEQ_LEN = 8, 24
RNGS = rng_streams(Seeds())


@functools.cache
def setup(architecture, name, dropout_rate=0.0, kernel="auto"):
    """(task, model, params) without a corpus: the traced half of a pretraining task."""
    objective = objectives.build(name, {})
    config = ModelConfig(
        architecture=architecture, vocab_size=200, max_length=SEQ_LEN, num_layers=1, emb_dim=16,
        num_heads=2, mlp_dim=32, positions="rope", dropout_rate=dropout_rate,
        num_token_types=objective.num_token_types, attention_kernel=kernel, **OPTIONS[architecture],
    )  # fmt: skip
    task = LoadedPretraining(
        objective, ObjectiveSpec(architecture, VOCABULARY, SEQ_LEN), BATCH, config, tokenizer=None,
        corpus=None, train=[], validation=[], order=None, read_ahead=(1, 1), num_batches=0, process={},
    )  # fmt: skip
    model = models.build(config)
    return task, model, jax.jit(lambda rngs: task.init(rngs, model))(RNGS)


def rows_of(task):
    """Rows of documents; the last one is half empty, as at the end of a corpus."""
    random, raw = np.random.default_rng(0), task.lengths.raw
    rows = random.integers(113, 200, (BATCH, raw)).astype(np.int32)
    for row in rows:
        ends = random.choice(np.arange(5, raw - 1), 2, replace=False)
        row[ends] = 4
        if task.spec.architecture == "encoder":
            row[ends], row[ends + 1], row[0] = 3, 2, 2
    rows[-1, raw // 2 :] = 0
    return rows


def inputs_of(task, rows=None):
    rows = rows_of(task) if rows is None else rows
    return example_ids(0, len(rows)), rows


def batch_of(task, rows=None):
    return jax.jit(task.prepare)(RNGS["corruption"], inputs_of(task, rows))


def state_of(params, grad_accum_steps=1):
    # Copied, since a train step donates its state.
    params = jax.tree.map(jnp.array, params)
    return TrainState.create(params, Optimizer(AdamW(grad_clip_norm=0.0), 0.0, grad_accum_steps))


def gradients(task, model, state, batch, dropout_rng=None):
    return jax.jit(functools.partial(accumulate_gradients, task, model))(
        state, {}, batch, dropout_rng
    )


def assert_gradients_equal(found, expected):
    found, expected = flatten_params(found), flatten_params(expected)
    model_scale = max(float(np.abs(leaf).max()) for leaf in expected.values())
    for name, leaf in expected.items():
        scale = float(np.abs(leaf).max())
        scale = scale if scale > 1e-3 * model_scale else model_scale
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=1e-5 * scale, err_msg=name)


@functools.cache
def run_updates(architecture, name, mesh=(1, 1, 1), grad_accum_steps=1, kernel="auto"):
    """Ten updates by train.py's step on a mesh: (their losses, sums and gradients of the first)."""
    task, model, params = setup(architecture, name, kernel=kernel)
    mesh = sharding.make_mesh(MeshConfig(*mesh), jax.devices()[: math.prod(mesh)])
    state, steps = state_of(params, grad_accum_steps=grad_accum_steps), []
    with sharding.use_mesh(mesh):
        state = jax.device_put(state, sharding.state_shardings(mesh, state))
        inputs = sharding.global_array(mesh, inputs_of(task))
        for update in range(10):
            state, sums = train_step(task, model, state, {}, RNGS, inputs, np.float32(1e-2))
            steps.append(jax.device_get(sums))
            if not update:  # Adam's first moment is (1 - beta1) times the gradient
                moment = jax.device_get(optax.tree_utils.tree_get(state.opt_state, "mu"))
                grads = jax.tree.map(lambda m: m / (1 - AdamW.beta1), moment)
    assert int(state.step) == 10
    return [float(sums["lm"][0] / sums["lm"][1]) for sums in steps], steps[0], grads


def assert_same_updates(architecture, name, **change):
    losses, sums, grads = run_updates(architecture, name, **change)
    expected_losses, expected_sums, expected_grads = run_updates(architecture, name)
    assert_gradients_equal(grads, expected_grads)
    assert sums.keys() == expected_sums.keys()
    for loss in sums:
        np.testing.assert_allclose(sums[loss], expected_sums[loss], rtol=1e-5, err_msg=loss)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(("architecture", "name"), PAIRS)
def test_invariant_04_k_microbatches_equal_one_batch(architecture, name):
    assert_same_updates(architecture, name, grad_accum_steps=4)


@pytest.mark.parametrize(("architecture", "name"), PAIRS)
def test_invariant_11_one_device_equals_four_devices(architecture, name):
    assert_same_updates(architecture, name, mesh=(2, 1, 2))


# Two key heads: a kernel splits them over two devices, and the queries over four.
@pytest.mark.parametrize("kernel", ["dense", "chunked"])
@pytest.mark.parametrize("sequence", [2, 4])
@pytest.mark.parametrize("architecture", OPTIONS)
def test_invariant_11_positions_split_over_devices_equal_one_device(
    architecture, sequence, kernel, monkeypatch
):
    monkeypatch.setattr(chunked_attention, "BLOCK", 4)
    mesh, name = (1, 4 // sequence, 1, sequence), dict(PAIRS[:3])[architecture]
    assert_same_updates(architecture, name, mesh=mesh, kernel=kernel)


def test_invariant_11_sharded_parameters_and_microbatches_equal_one_device():
    assert_same_updates("decoder", "causal_lm", mesh=(1, 4, 1), grad_accum_steps=2)


def test_invariant_04_with_dropout_microbatches_differ():
    task, model, params = setup("decoder", "causal_lm", dropout_rate=0.5)
    # causal_lm draws nothing at random: equal rows are equal batches.
    batch = batch_of(task, np.repeat(rows_of(task)[:1], BATCH, 0))
    rng = RNGS["dropout"]
    part = jax.tree.map(lambda x: x[: BATCH // 4], batch)
    losses = jax.jit(lambda rng: task.losses(model, params, part, rng)["lm"][0])
    parts = [float(losses(jax.random.fold_in(rng, number))) for number in range(4)]
    assert len({round(part, 3) for part in parts}) == 4
    _, sums = gradients(task, model, state_of(params, grad_accum_steps=4), batch, rng)
    np.testing.assert_allclose(float(sums["lm"][0]), sum(parts), rtol=1e-5)


def test_invariant_05_padding_rows_change_no_gradient():
    task, model, params = setup("decoder", "causal_lm")
    rows = rows_of(task)
    padded = batch_of(task, np.concatenate([rows, np.zeros_like(rows)]))
    state = state_of(params)
    more, fewer = (gradients(task, model, state, batch)[0] for batch in (padded, batch_of(task)))
    assert_gradients_equal(more, fewer)


def test_invariant_09_frozen_parameters_stay_and_the_rest_moves():
    task, model, params = setup("decoder", "causal_lm")
    frozen = find_frozen((r"embed/.*",), flatten_params(params))
    inputs, learning_rate = inputs_of(task), np.float32(1e-2)
    trainable, rest = split_params(params, frozen)
    state, _ = train_step(task, model, state_of(trainable), rest, RNGS, inputs, learning_rate)
    after = flatten_params(jax.device_get(eval_params(state, rest)))
    for name, before in flatten_params(params).items():
        moved = not np.array_equal(after[name], before)
        assert moved == (name not in frozen), name


def test_replicas_of_the_trainable_state_share_the_frozen_parameters():
    """vmap over the state, with the frozen parameters and the batch once: each replica is as alone."""
    task, model, params = setup("decoder", "causal_lm")
    trainable, rest = split_params(params, find_frozen((r"embed/.*",), flatten_params(params)))
    inputs, learning_rate = inputs_of(task), jnp.float32(1e-2)
    states = [state_of(trainable), state_of(jax.tree.map(lambda x: x * 1.5, trainable))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step = functools.partial(train_step.__wrapped__, task, model)
    found, _ = jax.jit(jax.vmap(step, in_axes=(0, None, None, None, None)))(
        stacked, rest, RNGS, inputs, learning_rate
    )
    for number, state in enumerate(states):
        alone, _ = jax.jit(step)(state, rest, RNGS, inputs, learning_rate)
        for path, leaf in flatten_params(alone.params).items():
            row = flatten_params(found.params)[path][number]
            np.testing.assert_allclose(row, leaf, rtol=1e-4, atol=1e-5, err_msg=path)


def test_a_non_finite_update_is_skipped_and_its_number_recorded():
    task, model, params = setup("decoder", "causal_lm")
    batch = batch_of(task)
    bad = batch.replace(loss_weights=batch.loss_weights * jnp.nan)

    @jax.jit
    def step(state, batch):
        grads, sums = accumulate_gradients(task, model, state, {}, batch, None)
        return state.apply_gradients(grads, sums, task.loss_coefficients(), jnp.float32(1e-2))[0]

    good = step(state_of(params), batch)
    after = step(good, bad)
    later = step(after, batch)
    recorded = [int(state.first_nonfinite_step) for state in (good, after, later)]
    assert recorded == [-1, 2, 2] and int(later.step) == 3
    jax.tree.map(np.testing.assert_array_equal, after.params, good.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, good.opt_state)


def test_output_biases_start_at_the_log_frequencies_of_their_targets():
    """A softmax head, a head below `generator`, a single logit; other biases stay."""
    bias = jnp.full(6, 7.0)
    params = {
        "heads": {
            "lm": {"bias": bias},
            "discriminator": {"output": {"bias": jnp.full(1, 7.0)}},
            "pair": {"output": {"bias": jnp.full(2, 7.0)}},
            "other": {"bias": bias},
        },
        "generator": {"heads": {"lm": {"bias": bias}}},
        "decoder": {"layer_0": {"mlp": {"in": {"bias": bias}}}},
    }
    counts = {
        "lm": (np.array([0.0, 1.0, 3.0, 0.0, 7.0]), 11.0),
        "discriminator": (np.array([20.0, 4.0]), 24.0),
        "pair": (np.array([2.0, 2.0]), 4.0),
    }
    found = flatten_params(init_output_bias(params, counts))
    by_hand = {
        "heads/lm/bias": np.log([1, 2, 4, 1, 8, 1]),
        "generator/heads/lm/bias": np.log([1, 2, 4, 1, 8, 1]),
        "heads/discriminator/output/bias": [np.log(5 / 21)],
        "heads/pair/output/bias": np.log([3, 3]),
        "heads/other/bias": np.full(6, 7),
        "decoder/layer_0/mlp/in/bias": np.full(6, 7),
    }
    assert found.keys() == by_hand.keys()
    for name, expected in by_hand.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)


def test_invariant_01_the_key_of_an_example_depends_on_its_global_number_alone():
    rng = rng_stream(3, "corruption")
    rows = jax.random.key_data(example_rngs(rng, example_ids(2**32 - 4, 8)))
    tail = jax.random.key_data(example_rngs(rng, example_ids(2**32, 4)))
    np.testing.assert_array_equal(rows[4:], tail)
    assert len({tuple(key) for key in np.asarray(rows)}) == 8


def test_every_stream_has_its_own_key_and_follows_its_own_seed():
    def keys(**seeds):
        rngs = rng_streams(Seeds(**seeds))
        return {name: jax.random.key_data(rng).tolist() for name, rng in rngs.items()}

    zero = keys()
    assert len(set(map(tuple, zero.values()))) == len(zero) == 5
    follows = {"init": ["init"], "data": ["corruption", "evaluation"], "dropout": ["dropout"],
               "head": ["head"]}  # fmt: skip
    for seed, streams in follows.items():
        other = keys(**{seed: 1})
        assert [name for name in zero if other[name] != zero[name]] == streams


def test_a_batch_that_does_not_divide_is_an_error():
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:4])
    with pytest.raises(ConfigError, match="batch_size=6 does not divide.*multiple of 8"):
        check_batch_layout(PretrainingSteps(batch_size=6, grad_accum_steps=2), mesh)
    with pytest.raises(ConfigError, match="does not fit 4 devices"):
        sharding.make_mesh(MeshConfig(data=3), jax.devices()[:4])
