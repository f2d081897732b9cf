"""The memory of a train step: one state, small losses, small moments; and runs that change how their
layers are computed."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_configs

import finetune
import models
import train
from models import LayerLoop
from objectives.loss import chunked_cross_entropy
from tasks import TASKS
from training import config as config_lib
from training import init_from, replica_axis, sharding
from training.config import ConfigError
from training.optimizers import AdamW, Lion, Muon, Optimizer
from training.param_rules import find_all_frozen, flatten_params, split_params
from training.schema import FinetuneConfig, MeshConfig, PretrainConfig, PretrainingSteps
from training.state import TrainState
from training.train_step import check_batch_layout, init_params, rng_streams


def compiled_step(program, folder, mesh, axes=None, **overrides):
    """(the state's bytes, the memory of the compiled train step) of a tiny run."""
    tiny = tiny_configs.pretraining if program is train else tiny_configs.finetuning
    arguments = (folder,) if program is train else (folder, folder / "source")
    schema = PretrainConfig if program is train else FinetuneConfig
    config = config_lib.resolve(schema, tiny(*arguments, **overrides))
    load = functools.partial(TASKS["pretraining"]().load, config, config.model)
    tokenizer_file = ""
    if program is finetune:
        source = init_from.resolve_for_finetuning(config, folder / "new", lambda path: path)
        load = functools.partial(config.task.load, config, source.config.model)
        tokenizer_file = source.tokenizer_file
    task = load(tokenizer_file, lambda line: None, **sharding.process_args(mesh))
    model = models.build(
        task.model_config, getattr(config, "adapter", None), config.training.layer_loop
    )
    rngs = rng_streams(config.seed)
    params = jax.eval_shape(functools.partial(init_params, task, model), rngs)
    fixed = find_all_frozen(config, flatten_params(params)) if axes else {}
    params, frozen = split_params(params, fixed)
    optimizer = Optimizer(config.optimizer, config.training.ema_decay)
    state = jax.eval_shape(lambda p: TrainState.create(p, optimizer), params)
    inputs, rate = task.train_inputs(0), np.float32(0)
    if axes is not None and axes.size:

        def lead(x):
            x = (
                jax.eval_shape(lambda: x)
                if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
                else x
            )
            return jax.ShapeDtypeStruct((axes.size, *x.shape), x.dtype)

        state, rngs, inputs = jax.tree.map(lead, (state, rngs, inputs))
        rate = jax.ShapeDtypeStruct((axes.size,), jnp.float32)
    static = (task, model) if axes is None else (task, model, axes)
    with sharding.use_mesh(mesh):
        lowered = program.train_step.lower(*static, state, frozen, rngs, inputs, rate)
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    return size, lowered.compile().memory_analysis()


def test_a_train_step_writes_its_new_state_over_the_old_one(tmp_path):
    tiny_configs.untrained(tmp_path / "source", "encoder")
    one = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    size, memory = compiled_step(train, tmp_path, one, training__ema_decay=0.9)
    assert memory.alias_size_in_bytes == size > 100_000
    size, memory = compiled_step(
        finetune, tmp_path, one, replica_axis.ReplicaAxis(), adapter__name="lora"
    )
    assert memory.alias_size_in_bytes == size
    two = sharding.make_mesh(MeshConfig(), jax.devices()[:1], replicas=2)
    size, memory = compiled_step(finetune, tmp_path, two, replica_axis.ReplicaAxis(2))
    assert memory.alias_size_in_bytes == size > 200_000
    # The other outputs are small: metrics of the step.
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1000


def test_the_loss_of_a_large_vocabulary_takes_an_eighth_of_the_memory_of_all_logits():
    rows, positions, features, vocabulary = 8, 1024, 64, 128_000

    def plain(features, table, targets):
        logits = jnp.einsum("BNE,VE->BNV", features, table)
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, targets[..., None], axis=-1).mean()

    def chunked(features, table, targets):
        weights = jnp.ones(targets.shape, jnp.float32)
        total, weight, _ = chunked_cross_entropy(
            features, table, None, targets, weights, vocabulary
        )
        return total / weight

    arguments = (
        jax.ShapeDtypeStruct((rows, positions, features), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, features), jnp.float32),
        jax.ShapeDtypeStruct((rows, positions), jnp.int32),
    )
    peaks = [
        jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arguments).compile().memory_analysis()
        for loss in (plain, chunked)
    ]
    assert peaks[0].temp_size_in_bytes >= rows * positions * vocabulary * 4
    assert peaks[1].temp_size_in_bytes <= peaks[0].temp_size_in_bytes / 8


@pytest.mark.parametrize("kind", [AdamW, Lion, Muon])
def test_the_first_moment_is_stored_in_its_dtype_and_the_second_in_float32(kind):
    random = np.random.default_rng(0)
    matrix = jnp.asarray(random.normal(size=(8, 4)), jnp.float32)
    params = {"embed": {"embedding": matrix}, "mlp": {"kernel": matrix, "bias": jnp.zeros(4)}}
    grads = [jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), jnp.float32), params)
             for _ in range(3)]  # fmt: skip
    ends = {}
    for dtype in ("float32", "bfloat16"):
        state = TrainState.create(params, Optimizer(kind(mu_dtype=dtype)))
        for each in grads:
            state, _ = state.apply_gradients(each, {}, {}, jnp.float32(0.1))
        ends[dtype] = flatten_params(state.params)
        for path, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]:
            name = jax.tree_util.keystr(path)
            if jnp.issubdtype(leaf.dtype, jnp.floating) and ".ns_coeffs" not in name:
                assert leaf.dtype == jnp.dtype(dtype if ".mu" in name else "float32"), name
    for name, value in ends["float32"].items():
        np.testing.assert_allclose(ends["bfloat16"][name], value, atol=0.02)


def test_offloading_without_a_host_memory_is_an_error():
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    with pytest.raises(ConfigError, match="remat='offload'.*use remat='dots' or 'full'") as error:
        check_batch_layout(PretrainingSteps(remat="offload"), mesh)
    assert "\n" not in str(error.value)


def test_a_run_resumes_with_another_loop_over_its_layers(tmp_path):
    """Two updates in one way and two in the other, both ways round: the same losses, parameters, averages
    and moments; then the moments become bfloat16."""
    loops = {"scanned": LayerLoop("full", True), "unrolled": LayerLoop("dots")}
    values = {"model__num_layers": 3, "training__ema_decay": 0.9, "evaluation__every": "2 steps",
              "optimizer__schedule": "constant"}  # fmt: skip

    def run(name, loop, steps, **more):
        loop = {f"training__{key}": value for key, value in dataclasses.asdict(loop).items()}
        overrides = {**values, **loop, "training__duration": f"{steps} steps", **more}
        return train.run(tiny_configs.pretraining(tmp_path, **overrides), f"{tmp_path}/{name}")

    for first, second in (("scanned", "unrolled"), ("unrolled", "scanned")):
        run(first, loops[first], 2)
        run(first, loops[second], 4)
    lines = [tiny_configs.metrics(tmp_path / name) for name in loops]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for one, other in zip(*lines, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    for use_ema in (True, False):
        one, other = (tiny_configs.read_params(tmp_path / name, 4, use_ema) for name in loops)
        assert one.keys() == other.keys() and "decoder/layer_2/mlp/in/kernel" in one
        for path, value in one.items():
            np.testing.assert_allclose(value, other[path], atol=2e-5, err_msg=path)
    result = run("unrolled", loops["scanned"], 5, resume_from=4, optimizer__mu_dtype="bfloat16")
    assert result.step == 5 and np.isfinite(result.metrics["validation/loss"])
