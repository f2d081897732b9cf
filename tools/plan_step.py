"""The train step of a pretraining config, traced and compiled for devices that need not be here.

tools/plan.py reports what it finds; no data is read and no array is made.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
import os
import re
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

import models
from huggingface import as_run
from tasks import TASKS
from tools.chips import GIB, Chip, chip_of
from training import flops, init_from, paths, sharding
from training.config import ConfigError
from training.durations import StepConverter
from training.optimizers import Optimizer
from training.param_rules import find_all_frozen, flatten_params, split_params
from training.preflight import check_durations
from training.state import abstract_state
from training.train_step import check_batch_layout, init_params, rng_streams


class DoesNotFit(ConfigError):
    """A program that needs more memory than a chip has.

    Attributes:
      needed: bytes, as far as they are known; 0 if they are not.
    """

    def __init__(self, message: str, needed: int):
        super().__init__(message)
        self.needed = needed


def find_devices(topology: str) -> tuple[list, Chip | None]:
    """(devices, chip) of a topology such as 'v5e:16x16', 'h100:8', 'cpu' or 'cpu:4'.

    The devices of another machine can be compiled for, not used. Raises ConfigError for a topology that
    does not exist, or without the package that knows it.
    """
    name, _, shape = topology.partition(":")
    chip = None if name == "cpu" else chip_of(name)
    if chip is None or chip.is_gpu:  # GPUs are not compiled for: CPU devices give the shapes
        if (shape or chip) and not (shape.isdigit() and int(shape)):
            raise ConfigError(f"--topology={topology!r}: expected {name}:N with N devices")
        devices = jax.devices("cpu")
        if int(shape or 1) > len(devices):
            raise ConfigError(
                f"--topology={topology!r}: JAX has started with {len(devices)} CPU device(s); set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={shape}"
            )
        return devices[: int(shape or 1)], chip
    if not re.fullmatch(r"\d+(x\d+)*", shape):
        raise ConfigError(
            f"--topology={topology!r}: expected {name}:CHIPS along each axis of the slice, such as "
            f"{chip.example}"
        )
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **chip.topology_options
        )
    except Exception as error:  # plugins raise anything
        raise _topology_error(topology, chip, error) from error
    return list(found.devices), chip


def _topology_error(topology, chip, error):
    message = " ".join(str(error).split())
    if importlib.util.find_spec("libtpu") is None:
        remedy = "compiling for a TPU needs libtpu: pip install -e .[tpu]"
    elif "lockfile" in message or "already in use" in message:
        remedy = "another process uses libtpu, or one was killed: remove /tmp/libtpu_lockfile"
    elif importlib.metadata.version("jax") < "0.12":
        remedy = f"JAX {jax.__version__} and libtpu do not fit together: pip install -U -e .[tpu]"
    else:
        remedy = f"expected a slice that exists, such as {chip.example}"
    return ConfigError(f"--topology={topology!r} is not available ({message[:120]}); {remedy}")


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A train step and the shapes and places of its arguments."""

    config: Any  # PretrainConfig
    mesh: jax.sharding.Mesh
    task: Any  # LoadedPretraining without a corpus
    params: dict  # all of them, abstract
    frozen_paths: frozenset  # paths of the frozen ones
    arguments: tuple  # of train_step

    @functools.cached_property
    def state_bytes(self) -> dict[str, int]:
        """Bytes per device of the train state by kind."""
        _, _, state, frozen, *_ = self.arguments
        return {
            "parameters": bytes_per_device((state.params, frozen)),
            "optimizer state": bytes_per_device(state.opt_state),
            "EMA": bytes_per_device(state.ema_params),
        }

    @property
    def attention(self) -> str:
        """A line that names the kernels of attention."""
        with sharding.use_mesh(self.mesh):
            return self.task.describe_attention()

    @functools.cached_property
    def model_flops(self) -> float:
        """Model FLOPs of a step, over all devices."""
        return flops.flops_per_step(self.task, self.params, self.frozen_paths)

    @property
    def unsharded(self) -> list[str]:
        """Lines about the parameters that the mesh should split and does not."""
        return sharding.describe_unsharded(self.mesh, self.params)

    @functools.cached_property
    def traced(self):
        """The traced step, jax.stages.Traced."""
        with sharding.use_mesh(self.mesh):
            return _train_step().trace(*self.arguments)

    @functools.cached_property
    def lowered(self):
        """The step as StableHLO, jax.stages.Lowered."""
        with sharding.use_mesh(self.mesh):
            return self.traced.lower()

    def check_state(self, chip: Chip) -> None:
        """Raises DoesNotFit if the train state alone exceeds the memory of a chip."""
        needed = sum(self.state_bytes.values())
        if needed > chip.hbm_bytes:
            raise DoesNotFit(
                f"parameters and optimizer state alone need {needed / GIB:.1f} GiB per chip, and "
                f"{chip.name} has {chip.hbm_bytes / GIB:.1f}; raise mesh.fsdp or mesh.tensor to sizes that "
                f"divide the model's dimensions (emb_dim, heads, mlp_dim), or let --search choose them",
                needed,
            )

    def compile(self):
        """(the compiled step, seconds). Raises DoesNotFit if the compiler says so."""
        began = time.perf_counter()
        try:
            compiled = self.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            message = " ".join(str(error).split())
            if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
                raise
            state, needed = sum(self.state_bytes.values()), 0
            if used := re.search(r"Used ([\d.]+)([KMGT]?) of", message):
                needed = _bytes(*used.groups())
            elif used := re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message):
                needed = state + _bytes(*used.groups())  # of the temporaries alone
            raise DoesNotFit(
                f"the step does not fit: it needs {needed / GIB:.1f} GiB per chip, {state / GIB:.1f} of "
                f"them for parameters and optimizer state; raise mesh.fsdp, mesh.tensor or "
                f"training.grad_accum_steps, or let --search choose them",
                needed,
            ) from error
        return compiled, time.perf_counter() - began


def _bytes(number, unit):
    return int(float(number) * 1024 ** ("KMGT".find(unit) + 1 if unit else 0))


def bytes_per_device(tree) -> int:
    """Bytes of the shards that one device holds of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _train_step():
    # By name: train.py is a program and no library, but the plan must compile the very step that it runs.
    return importlib.import_module("train").train_step


def plan_step(config, devices, like: PlannedStep | None = None) -> PlannedStep:
    """The train step of a resolved PretrainConfig on `devices`. Raises ConfigError or ValueError if train.py
    would refuse the config whatever the data is.

    like: a step of a config that differs in mesh, microbatches and the loop over layers alone; the parts that
      both have in common are not made again.
    """
    pretrained = init_from.resolve_for_pretraining(config, paths.of(os.devnull), as_run)
    config, model_config = pretrained.config, pretrained.config.model
    mesh = sharding.make_mesh(config.mesh, devices)
    check_batch_layout(config.training, mesh)
    if like is not None:
        task, params = like.task, like.params
    else:
        # trained later: suppose it is full
        if not (pretrained.tokenizer_file or config.tokenizer.path):
            size = model_config.vocab_size or config.tokenizer.vocab_size
            model_config = dataclasses.replace(model_config, vocab_size=size)
        task = TASKS["pretraining"]().load_without_data(
            config, model_config, pretrained.tokenizer_file
        )
    model = models.build(task.model_config, loop=config.training.layer_loop)
    rngs = jax.eval_shape(lambda: rng_streams(config.seed))
    if like is None:
        with sharding.use_mesh(mesh):
            params = jax.eval_shape(functools.partial(init_params, task, model), rngs)
    sharding.check_lengths(mesh, task.row_lengths)
    sharding.describe_unsharded(mesh, params)
    frozen_paths = find_all_frozen(config, flatten_params(params))
    trained, frozen = split_params(params, frozen_paths)
    # The data is not here: an epoch of one step will do, because the step does not depend on it.
    sizes = StepConverter(task.batch_size, task.tokens_per_step, task.batch_size)
    step_flops = flops.flops_per_step(task, params, frozen_paths)
    if like is None:
        check_durations(config, task.tokens_per_step, step_flops)
    optimizer = Optimizer.of(config, StepConverter.of(config, sizes, step_flops))
    if like is not None and like.mesh == mesh:
        state = like.arguments[2].replace(optimizer=optimizer)
    else:
        state = abstract_state(mesh, trained, optimizer)
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    arguments = (
        task, model, state, sharding.placed(mesh, frozen), _placed(rngs, whole),
        _placed(task.abstract_inputs, rows), jax.ShapeDtypeStruct((), np.float32),
    )  # fmt: skip
    return PlannedStep(config, mesh, task, params, frozen_paths, arguments)


def _placed(tree, place):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree
    )
