"""Invariants 2, 4, 9 and 11 for every optimizer and for averaged parameters, in one process.

A checkpoint in between changes no bit; four devices, sharded moments and microbatches change no loss.
"""

import functools

import jax
import numpy as np
import pytest

import models
import objectives
from models.config import ModelConfig
from objectives.base import ObjectiveSpec
from objectives.vocabulary import Vocabulary
from tasks.pretraining import example_ids, example_rngs
from training import checkpoint, sharding
from training.checkpoint import Checkpoints
from training.optimizers import Adafactor, AdamW, Lion, Muon, Optimizer
from training.param_rules import (
    find_frozen,
    flatten_params,
    merge_params,
    split_params,
    unflatten_params,
)
from training.schema import CheckpointConfig, MeshConfig
from training.state import TrainState, abstract_state, eval_params
from training.train_step import accumulate_gradients, rng_stream

VOCABULARY = Vocabulary(
    size=200, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 113)), regular_token_ranges=((113, 200),),
)  # fmt: skip
SPEC = ObjectiveSpec("decoder", VOCABULARY, 16)
BATCH, EMA = 8, 0.7
ONE = MeshConfig()
KINDS = {
    "adamw": (AdamW(), 1e-2),
    "lion": (Lion(), 1e-3),
    "muon": (Muon(), 1e-2),
    "adafactor": (Adafactor(factored_size=8), 3e-2),
}


def make_batch(ids, rows):
    rngs = example_rngs(rng_stream(0, "corruption"), ids)
    return objectives.build("causal_lm", {}).corrupt_batch(SPEC, rngs, rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def train_step(loss, model, state, frozen, ids, rows, learning_rate):
    dropout_rng = jax.random.fold_in(rng_stream(0, "dropout"), state.step)
    grads, sums = accumulate_gradients(
        loss, model, state, frozen, make_batch(ids, rows), dropout_rng
    )
    return state.apply_gradients(grads, sums, loss.loss_coefficients(), learning_rate)


@functools.cache
def setup():
    """(model, loss, rows, initial parameters on the host)."""
    config = ModelConfig(architecture="decoder", vocab_size=200, max_length=16, num_layers=1,
                         emb_dim=16, num_heads=2, mlp_dim=32, positions="rope")  # fmt: skip
    model, objective = models.build(config), objectives.build("causal_lm", {})
    loss = objectives.loss_of(objective)
    shape = (BATCH, objective.lengths(SPEC).raw)
    rows = np.random.default_rng(0).integers(113, 200, shape).astype(np.int32)
    params = loss.init(model, rng_stream(0, "init"), make_batch(example_ids(0, BATCH), rows))
    return model, loss, rows, jax.device_get(params)


class Run:
    """A training run without a loop: `advance` makes updates; equal runs share one program."""

    def __init__(self, name, mesh_config=ONE, devices=1, count=1, ema=EMA, frozen=()):
        config, self.learning_rate = KINDS[name]
        self.model, self.loss, self.rows, params = setup()
        self.mesh = sharding.make_mesh(mesh_config, jax.devices()[:devices])
        params, self.frozen = split_params(params, find_frozen(frozen, flatten_params(params)))
        optimizer = Optimizer(config, ema, count)
        self.abstract = abstract_state(self.mesh, jax.eval_shape(lambda: params), optimizer)
        state = TrainState.create(params, optimizer)
        self.state = jax.device_put(state, sharding.state_shardings(self.mesh, state))
        self.losses, self.raw = [], []

    def advance(self, updates):
        with sharding.use_mesh(self.mesh):
            for _ in range(updates):
                ids = example_ids(int(self.state.step) * BATCH, BATCH)
                inputs = sharding.global_array(self.mesh, (ids, self.rows))
                self.state, sums = train_step(
                    self.loss,
                    self.model,
                    self.state,
                    self.frozen,
                    *inputs,
                    np.float32(self.learning_rate),
                )
                self.losses.append(float(sums["lm"][0] / sums["lm"][1]))
                self.raw.append(jax.device_get(self.state.params))
        return self


# Lion's state is Adam's without the second moment; AdamW: test_step.py, tests/test_resume.py.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "lion")]


@functools.cache
def uninterrupted(name):
    return Run(name).advance(10)


@pytest.mark.parametrize("name", ["muon", "adafactor", *SLOW])
def test_invariant_02_a_checkpoint_in_between_changes_no_bit(name, tmp_path):
    stopped = Run(name).advance(4)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(stopped.state)
        checkpoints.wait()
        assert (tmp_path / "4" / "ema_params").is_dir()
        resumed = Run(name)
        resumed.state = checkpoints.restore(resumed.abstract)
    expected = uninterrupted(name).state
    assert jax.tree.structure(resumed.state) == jax.tree.structure(expected)
    resumed.advance(6)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(resumed.state), jax.device_get(expected)
    )


@pytest.mark.parametrize("name", ["adafactor", pytest.param("muon", marks=pytest.mark.slow), *SLOW])
def test_invariants_4_and_11_sharded_moments_and_microbatches_equal_one_device(name):
    one = uninterrupted(name)
    four = Run(name, MeshConfig(data=1, fsdp=2, tensor=2), devices=4, count=2).advance(10)
    np.testing.assert_allclose(four.losses, one.losses, rtol=1e-4)
    assert one.losses[-1] < one.losses[0] - 0.1
    kernel = four.state.params["decoder"]["layer_0"]["mlp"]["in"]["kernel"].sharding.spec
    assert tuple(kernel) == ("fsdp", "tensor")
    specs = [
        tuple(leaf.sharding.spec)
        for path, leaf in jax.tree_util.tree_leaves_with_path(four.state.opt_state)
        if "['mlp']['in']['kernel']" in jax.tree_util.keystr(path) and leaf.size > 1
    ]
    if name == "adafactor":
        assert specs == [("fsdp",), ("tensor",)]
    else:
        assert specs == [("fsdp", "tensor")] * (2 if name == "adamw" else 1)
    average = four.state.ema_params["decoder"]["layer_0"]["mlp"]["in"]["kernel"]
    assert tuple(average.sharding.spec) == ("fsdp", "tensor")


def test_the_average_weighs_update_s_by_the_decay_to_the_power_of_its_age():
    run = Run("muon").advance(5)
    weights = EMA ** np.arange(4, -1, -1.0)
    weights /= weights.sum()
    trees = [flatten_params(params) for params in run.raw]
    for path, found in flatten_params(jax.device_get(run.state.ema_params)).items():
        expected = sum(
            w * np.asarray(t[path], np.float64) for w, t in zip(weights, trees, strict=True)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=path)
    evaluated = flatten_params(eval_params(run.state, run.frozen))
    np.testing.assert_array_equal(evaluated[path], found)


def test_invariant_09_frozen_parameters_have_no_average_and_evaluation_uses_them_unchanged(
    tmp_path,
):
    run = Run("adamw", frozen=("embed/.*",))
    half = jax.tree.map(lambda x: x / 2, run.state.ema_params)
    run.state = run.state.replace(ema_params=half)
    assert "embed" not in half and set(half) == set(run.state.params)
    raw = flatten_params(merge_params(run.state.params, run.frozen))
    expected = {p: x if p.startswith("embed/") else x / 2 for p, x in raw.items()}
    with Checkpoints(tmp_path / "checkpoints", CheckpointConfig()) as checkpoints:
        (line,) = checkpoints.save_frozen(run.frozen)
        assert "saved once" in line
        checkpoints.save(run.state)
        checkpoints.wait()
    target, folder = checkpoint.params_metadata(tmp_path, 0), tmp_path / "checkpoints"
    assert target.keys() == raw.keys()
    target = sharding.placed(run.mesh, unflatten_params(target))
    for found, wanted in (
        (eval_params(run.state, run.frozen), expected),
        (checkpoint.read_params(folder, 0, target), expected),
        (checkpoint.read_params(folder, 0, target, use_ema=False), raw),
    ):
        for path, leaf in flatten_params(found).items():
            np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)
    assert checkpoint.ema_paths(tmp_path, 0) == flatten_params(half).keys()


@pytest.mark.parametrize("name", ["muon", "adafactor", *SLOW])
def test_a_non_finite_update_leaves_the_average_and_every_moment_unchanged(name, tmp_path):
    run = Run(name).advance(1)
    broken = jax.tree.map(lambda x: x * np.nan, run.state.params)
    run.state = run.state.replace(params=broken)
    before = jax.device_get(run.state)
    run.advance(1)
    assert int(run.state.first_nonfinite_step) == 2 and int(before.first_nonfinite_step) == -1
    for item in ("params", "opt_state", "ema_params"):
        after = jax.device_get(getattr(run.state, item))
        jax.tree.map(np.testing.assert_array_equal, after, getattr(before, item))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.state.ema_params))
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        with pytest.raises(FloatingPointError, match="update 2 was not finite"):
            checkpoints.save(run.state)


def test_without_a_decay_nothing_is_averaged_and_no_average_is_saved(tmp_path):
    plain = Run("adamw", ema=0.0)
    assert plain.state.ema_params == {}
    assert checkpoint.items(plain.state) == ("params", "opt_state")
    with Checkpoints(tmp_path / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(plain.state)
        checkpoints.wait()
    assert checkpoint.ema_paths(tmp_path, 0) == frozenset()


def test_the_best_checkpoint_is_kept_and_found_and_of_equals_the_newest(tmp_path):
    state = Run("adamw", ema=0.0).state
    losses = {0: 9.0, 1: 2.0, 2: 3.0, 3: 2.0, 4: 5.0, 5: 6.0}
    config = CheckpointConfig(max_to_keep=1)
    with Checkpoints(tmp_path, config, keep_period=2, best="-loss") as checkpoints:
        assert checkpoints.best_step() is None
        for step, loss in losses.items():
            checkpoints.save(state.replace(step=np.int32(step)), {"loss": loss})
        checkpoints.wait()
        assert checkpoints.best_step() == 3
    with Checkpoints(tmp_path, config, keep_period=2, best="-loss") as checkpoints:
        assert checkpoints.best_step() == 3
    kept = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert kept == [0, 2, 3, 4, 5]
