"""Laws 2, 4 and 11 for every optimizer and for averaged parameters, in one process: a checkpoint in
between changes no bit; four devices, sharded moments and microbatches change no loss.
"""

import functools

import jax
import numpy as np
import pytest

import models
import objectives
from models.config import ModelConfig
from objectives.base import Setting
from objectives.vocabulary import Vocabulary
from training import checkpoint, optimizer, rules, step
from training import mesh as meshes
from training import state as states
from training.algorithms import Adafactor, AdamW, Lion, Muon
from training.checkpoint import CheckpointConfig, Checkpoints
from training.mesh import MeshConfig

VOCABULARY = Vocabulary(
    size=200, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 113)), ordinary=((113, 200),),
)  # fmt: skip
BATCH, EMA = 8, 0.7
ONE = MeshConfig()
KINDS = {
    "adamw": (AdamW(), 1e-2),
    "lion": (Lion(), 1e-3),
    "muon": (Muon(), 1e-2),
    "adafactor": (Adafactor(factored_size=8), 3e-2),
}


@functools.cache
def setup():
    config = ModelConfig(architecture="decoder", vocab_size=200, max_length=16, layers=1, width=16,
                         heads=2, mlp_size=32, positions="rotary")  # fmt: skip
    model = models.build(config)
    objective = objectives.build("causal_lm", {})
    make_batch = step.Corruption(objective, Setting("decoder", VOCABULARY, 16))
    raw = objective.shapes(make_batch.setting).raw
    rows = np.random.default_rng(0).integers(113, 200, (BATCH, raw)).astype(np.int32)
    batch = jax.eval_shape(
        make_batch,
        step.row_keys(step.stream_key(0, "corruption"), step.row_numbers(0, BATCH)),
        rows,
    )
    params = states.initialiser(objective, model, batch)(step.stream_key(0, "init"))
    return model, objective, make_batch, rows, jax.device_get(params)


class Run:
    """A training run by hand: `advance` makes updates; equal settings share one program."""

    def __init__(self, name, mesh_config=ONE, devices=1, count=1, ema=EMA, frozen=()):
        config, self.rate = KINDS[name]
        model, objective, make_batch, self.rows, params = setup()
        self.mesh = meshes.make(mesh_config, jax.devices()[:devices])
        self.frozen = rules.frozen_paths(frozen, rules.paths(params))
        trainable, _ = rules.split(params, self.frozen)
        tx = optimizer.build(config, trainable)
        self.abstract = states.abstract(jax.eval_shape(lambda: params), tx, self.frozen, ema)
        self.placement = step.Placement(states.shardings(self.mesh, self.abstract))
        self.program = step.compiled_update(
            objective, model, make_batch, config, optimizer.build, self.frozen, count, self.mesh,
            self.placement, ema,
        )  # fmt: skip
        with meshes.use(self.mesh):
            self.state = states.create(params, tx, self.frozen, self.placement.tree)
        self.losses, self.raw = [], []

    def advance(self, updates):
        roots = (step.stream_key(0, "corruption"), step.stream_key(0, "dropout"))
        with meshes.use(self.mesh):
            for _ in range(updates):
                numbers = step.row_numbers(int(self.state.step) * BATCH, BATCH)
                self.state, sums = self.program(
                    self.state, meshes.global_array(self.mesh, self.rows),
                    meshes.global_array(self.mesh, numbers), roots, np.float32(self.rate),
                )  # fmt: skip
                self.losses.append(float(sums["lm"][0] / sums["lm"][1]))
                self.raw.append(jax.device_get(self.state.params))
        return self


# Lion's state is Adam's without the second moment; AdamW: tests/training/test_step.py, tests/test_resume.py.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "lion")]


@functools.cache
def whole(name):
    """Ten updates that nothing interrupted."""
    return Run(name).advance(10)


@pytest.mark.parametrize("name", ["muon", "adafactor", *SLOW])
def test_law_2_a_checkpoint_in_between_changes_no_bit(name, tmp_path):
    uninterrupted = whole(name)
    begun = Run(name).advance(4)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(begun.state)
        checkpoints.wait()
        assert (tmp_path / "4" / "average").is_dir()
        again = Run(name)
        again.state = checkpoints.restore(states.target(again.abstract, again.placement.tree))
    assert jax.tree.structure(again.state) == jax.tree.structure(uninterrupted.state)
    again.advance(6)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(again.state),
        jax.device_get(uninterrupted.state),
    )


@pytest.mark.parametrize("name", ["adafactor", pytest.param("muon", marks=pytest.mark.slow), *SLOW])
def test_laws_4_and_11_sharded_moments_and_microbatches_equal_one_device(name):
    one = whole(name)
    four = Run(name, MeshConfig(data=1, fsdp=2, tensor=2), devices=4, count=2).advance(10)
    np.testing.assert_allclose(four.losses, one.losses, rtol=1e-4)
    assert one.losses[-1] < one.losses[0] - 0.1
    kernel = four.state.params["decoder"]["layer_0"]["mlp"]["in"]["kernel"].sharding.spec
    assert tuple(kernel) == ("fsdp", "tensor")
    found = jax.tree_util.tree_leaves_with_path(four.state.optimizer)
    specs = [
        tuple(leaf.sharding.spec)
        for path, leaf in found
        if "['mlp']['in']['kernel']" in jax.tree_util.keystr(path) and leaf.size > 1
    ]
    if name == "adafactor":
        assert specs == [("fsdp",), ("tensor",)]
    else:
        assert specs == [("fsdp", "tensor")] * (2 if name == "adamw" else 1)
    average = four.state.average["decoder"]["layer_0"]["mlp"]["in"]["kernel"]
    assert tuple(average.sharding.spec) == ("fsdp", "tensor")


def test_the_average_weighs_update_s_by_the_decay_to_the_power_of_its_age():
    run = Run("muon").advance(5)
    weights = EMA ** np.arange(4, -1, -1.0)
    weights /= weights.sum()
    trees = [rules.paths(params) for params in run.raw]
    for path, found in rules.paths(jax.device_get(run.state.average)).items():
        expected = sum(
            w * np.asarray(t[path], np.float64) for w, t in zip(weights, trees, strict=True)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=path)
    evaluated = rules.paths(states.averaged(run.state))
    np.testing.assert_array_equal(evaluated[path], found)


def test_law_9_frozen_leaves_have_no_average_and_evaluation_sees_them_as_they_are(tmp_path):
    run = Run("adamw", frozen=("embed/.*",))
    half = jax.tree.map(lambda x: x / 2, run.state.average)
    run.state = run.state.replace(average=half)
    assert "embed" not in half and set(half) == set(run.state.params) - {"embed"}
    raw = rules.paths(run.state.params)
    seen = {p: x if p.startswith("embed/") else x / 2 for p, x in raw.items()}
    with Checkpoints(tmp_path / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(run.state)
        checkpoints.wait()
    target = states.target(run.abstract, run.placement.tree).params
    average = checkpoint.read_params(tmp_path / "checkpoints", 0, target)
    for found, expected in (
        (states.averaged(run.state), seen),
        (average, seen),
        (checkpoint.read_params(tmp_path / "checkpoints", 0, target, "raw"), raw),
    ):
        for path, leaf in rules.paths(found).items():
            np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    assert checkpoint.averaged_paths(tmp_path, 0) == rules.paths(half).keys()


@pytest.mark.parametrize("name", ["muon", "adafactor", *SLOW])
def test_a_non_finite_update_leaves_the_average_and_every_moment_as_they_were(name):
    run = Run(name).advance(1)
    broken = jax.tree.map(lambda x: x * np.nan, run.state.params)
    run.state = run.state.replace(params=broken)
    before = jax.device_get(run.state)
    run.advance(1)
    assert int(run.state.nonfinite) == 2 and int(before.nonfinite) == -1
    for item in ("params", "optimizer", "average"):
        after = jax.device_get(getattr(run.state, item))
        jax.tree.map(np.testing.assert_array_equal, after, getattr(before, item))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.state.average))


def test_without_a_decay_nothing_is_averaged_and_nothing_is_saved_for_it(tmp_path):
    plain = Run("adamw", ema=0.0)
    assert plain.state.average == {} and checkpoint.items(plain.state) == ("params", "optimizer")
    with Checkpoints(tmp_path / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(plain.state)
        checkpoints.wait()
    assert checkpoint.averaged_paths(tmp_path, 0) == frozenset()
