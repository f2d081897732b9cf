"""The step: microbatches, devices and padding change nothing; frozen leaves stay; bad updates too.

Gradients are compared at equal parameters, to 1e-5 of the tensor's largest entry (of the model's
where a gradient vanishes), and the losses of ten updates to 1e-4.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import objectives
from models.config import ModelConfig
from objectives.base import Setting
from objectives.vocabulary import Vocabulary
from training import mesh as meshes
from training import optimizer, rules, step
from training import state as states
from training.algorithms import AdamW
from training.config import ConfigError
from training.mesh import MeshConfig

VOCABULARY = Vocabulary(
    size=200, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 113)), ordinary=((113, 200),),
)  # fmt: skip
PAIRS = [
    ("encoder", "masked_lm"),
    ("decoder", "causal_lm"),
    ("encoder_decoder", "span_corruption"),
    pytest.param("encoder", "next_sentence", marks=pytest.mark.slow),
    pytest.param("encoder", "replaced_token_detection", marks=pytest.mark.slow),
]
# The newer choices of the network ride along, one or two with each architecture.
CHOICES = {
    "encoder": {"embedding_size": 8, "qk_norm": True},
    "decoder": {"kv_heads": 1},
    "encoder_decoder": {"shared_stacks": True},
}
BATCH = 8


@functools.cache
def setup(architecture, name, dropout=0.0):
    objective = objectives.build(name, {})
    config = ModelConfig(architecture=architecture, vocab_size=200, max_length=24, layers=1, width=16,
                         heads=2, mlp_size=32, positions="rotary", dropout=dropout,
                         token_types=objective.token_types)  # fmt: skip
    model = models.build(config)
    make_batch = step.Corruption(objective, Setting(architecture, VOCABULARY, 24))
    raw = objective.shapes(make_batch.setting).raw
    rows = documents(architecture, raw)
    batch = jax.eval_shape(make_batch, keys(), rows)
    params = states.initialiser(objective, model, batch)(step.stream_key(0, "init"))
    return model, objective, make_batch, rows, params


def documents(architecture, raw):
    random = np.random.default_rng(0)
    rows = random.integers(113, 200, (BATCH, raw)).astype(np.int32)
    for row in rows:
        ends = random.choice(np.arange(5, raw - 1), 2, replace=False)
        row[ends] = 3 if architecture == "encoder" else 4
        if architecture == "encoder":
            row[0] = 2
            row[ends + 1] = 2
    rows[-1, raw // 2 :] = 0  # the end of the corpus
    return rows


def keys():
    return step.row_keys(step.stream_key(0, "corruption"), step.row_numbers(0, BATCH))


def batch_of(make_batch, rows):
    return jax.jit(make_batch)(keys(), rows)


def assert_gradients_equal(ours, theirs):
    model_scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    for name, expected in rules.paths(theirs).items():
        scale = float(np.abs(expected).max())
        scale = scale if scale > 1e-3 * model_scale else model_scale
        np.testing.assert_allclose(rules.paths(ours)[name], expected, rtol=0, atol=1e-5 * scale,
                                   err_msg=name)  # fmt: skip


@pytest.mark.parametrize(("architecture", "name"), PAIRS)
def test_law_4_k_microbatches_equal_one_batch(architecture, name):
    model, objective, make_batch, rows, params = setup(architecture, name)
    batch = batch_of(make_batch, rows)
    gradient = functools.partial(step.gradients, objective, model)
    one, sums_one = jax.jit(lambda p: gradient(p, {}, batch, None, 1))(params)
    four, sums_four = jax.jit(lambda p: gradient(p, {}, batch, None, 4))(params)
    assert_gradients_equal(four, one)
    for loss in sums_one:
        np.testing.assert_allclose(sums_four[loss], sums_one[loss], rtol=1e-5)


def test_law_4_with_dropout_on_microbatches_differ():
    model, objective, make_batch, rows, params = setup("decoder", "causal_lm", dropout=0.5)
    same = np.repeat(rows[:1], BATCH, 0)  # causal_lm draws nothing: equal rows are equal batches
    batch = batch_of(make_batch, same)
    key = step.stream_key(0, "dropout")

    def part(number):
        one = jax.tree.map(lambda x: x[:2], batch)
        return objective.losses(model, params, one, jax.random.fold_in(key, number))["lm"][0]

    both = jax.jit(lambda p: step.gradients(objective, model, p, {}, batch, key, 4))(params)[1][
        "lm"
    ][0]
    parts = [float(part(number)) for number in range(4)]
    assert len({round(p, 3) for p in parts}) == 4
    np.testing.assert_allclose(float(both), sum(parts), rtol=1e-5)


def test_law_5_padding_rows_change_no_gradient():
    model, objective, make_batch, rows, params = setup("decoder", "causal_lm")
    padded = np.concatenate([rows, np.zeros_like(rows)])
    numbers = step.row_numbers(0, 2 * BATCH)
    more = make_batch(step.row_keys(step.stream_key(0, "corruption"), numbers), padded)
    gradient = jax.jit(lambda p, b: step.gradients(objective, model, p, {}, b, None, 1)[0])
    assert_gradients_equal(gradient(params, more), gradient(params, batch_of(make_batch, rows)))


def trained(architecture, name, mesh_config, devices, updates=10, count=1):
    """Losses of ten updates and the gradient of the first, on a mesh of `devices` devices."""
    model, objective, make_batch, rows, params = setup(architecture, name)
    mesh = meshes.make(mesh_config, jax.devices()[:devices])
    tx = optimizer.build(AdamW(), params)
    abstract = states.abstract(jax.eval_shape(lambda: params), tx, frozenset())
    placement = step.Placement(states.shardings(mesh, abstract))
    program = step.compiled_update(objective, model, make_batch, AdamW(), optimizer.build,
                                   frozenset(), count, mesh, placement)  # fmt: skip
    roots = (step.stream_key(0, "corruption"), step.stream_key(0, "dropout"))
    losses = []
    with meshes.use(mesh):
        numbers = meshes.global_array(mesh, step.row_numbers(0, BATCH))
        source = meshes.global_array(mesh, rows)
        gradient = jax.jit(
            lambda p: step.gradients(objective, model, p, {}, make_batch(
                step.row_keys(roots[0], numbers), source), None, count)[0]
        )(jax.device_put(params, placement.tree.params))  # fmt: skip
        state = states.create(jax.tree.map(jnp.array, params), tx, frozenset(), placement.tree)
        for _ in range(updates):
            state, sums = program(state, source, numbers, roots, np.float32(1e-2))
            losses.append(float(sums["lm"][0] / sums["lm"][1]))
    assert int(state.step) == updates
    return losses, jax.device_get(gradient)


@pytest.mark.parametrize(("architecture", "name"), PAIRS)
def test_law_11_one_device_equals_four_devices(architecture, name):
    one, gradient_one = trained(architecture, name, MeshConfig(), 1)
    four, gradient_four = trained(architecture, name, MeshConfig(data=2, fsdp=1, tensor=2), 4)
    assert_gradients_equal(gradient_four, gradient_one)
    np.testing.assert_allclose(four, one, rtol=1e-4)
    assert one[-1] < one[0] - 0.1


def test_law_11_sharded_parameters_and_microbatches_equal_one_device():
    one, gradient_one = trained("decoder", "causal_lm", MeshConfig(), 1)
    four, gradient_four = trained("decoder", "causal_lm", MeshConfig(data=1, fsdp=4), 4, count=2)
    assert_gradients_equal(gradient_four, gradient_one)
    np.testing.assert_allclose(four, one, rtol=1e-4)


def test_law_9_frozen_leaves_stay_and_the_rest_moves():
    model, objective, make_batch, rows, params = setup("decoder", "causal_lm")
    mesh = meshes.make(MeshConfig(), jax.devices()[:1])
    frozen = rules.frozen_paths((r"embed/.*",), rules.paths(params))
    trainable, _ = rules.split(params, frozen)
    tx = optimizer.build(AdamW(), trainable)
    placement = step.Placement(states.shardings(
        mesh, states.abstract(jax.eval_shape(lambda: params), tx, frozen)))  # fmt: skip
    program = step.compiled_update(objective, model, make_batch, AdamW(), optimizer.build,
                                   frozen, 1, mesh, placement)  # fmt: skip
    roots = (step.stream_key(0, "corruption"), step.stream_key(0, "dropout"))
    with meshes.use(mesh):
        state = states.create(jax.tree.map(jnp.array, params), tx, frozen, placement.tree)
        state, _ = program(state, rows, step.row_numbers(0, BATCH), roots, np.float32(1e-2))
    after = rules.paths(jax.device_get(state.params))
    for name, before in rules.paths(params).items():
        moved = not np.array_equal(after[name], before)
        assert moved == (name not in frozen), name


def test_a_non_finite_update_is_skipped_and_its_number_recorded():
    model, objective, make_batch, rows, params = setup("decoder", "causal_lm")
    tx = optimizer.build(AdamW(), params)
    batch = batch_of(make_batch, rows)
    bad = dataclasses.replace(batch, weights=batch.weights * jnp.nan)
    update = jax.jit(functools.partial(step.update, objective, model, tx, frozenset(), 1))
    state = states.fresh(tx, frozenset(), params)
    key, rate = step.stream_key(0, "dropout"), jnp.float32(1e-2)
    good, _ = update(state, batch, key, rate)
    after, _ = update(good, bad, key, rate)
    later, _ = update(after, batch, key, rate)
    assert (int(good.nonfinite), int(after.nonfinite), int(later.nonfinite)) == (-1, 2, 2)
    assert int(later.step) == 3
    for name, before in rules.paths(good.params).items():
        np.testing.assert_array_equal(rules.paths(after.params)[name], before, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, after.optimizer, good.optimizer)


def test_row_keys_depend_on_the_global_row_number_alone():
    key = step.stream_key(3, "corruption")
    all_rows = jax.random.key_data(step.row_keys(key, step.row_numbers(2**32 - 4, 8)))
    tail = jax.random.key_data(step.row_keys(key, step.row_numbers(2**32, 4)))
    np.testing.assert_array_equal(all_rows[4:], tail)
    assert len({tuple(k) for k in np.asarray(all_rows)}) == 8


def test_a_batch_that_does_not_divide_is_refused():
    mesh = meshes.make(MeshConfig(), jax.devices()[:4])
    with pytest.raises(ConfigError, match="batch_size=6 does not divide.*multiple of 8"):
        step.check_batch(6, 2, mesh)
    with pytest.raises(ConfigError, match="does not fit 4 devices"):
        meshes.make(MeshConfig(data=3), jax.devices()[:4])
