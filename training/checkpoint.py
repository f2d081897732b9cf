"""Orbax checkpoints of a run: what is kept, how a save is checked, how a broken one is stepped over.

Used by the loop (save) and by the entry points (restore). Items `params`, `average` (of runs that keep
one), `optimizer` and `state` lie apart, so that finetuning reads no moments.
"""

import dataclasses
import logging
import math
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from training import mesh as meshes
from training import paths, rules
from training.config import ConfigError

log = logging.getLogger("triptych")


def torn(error):
    """True for what Orbax and TensorStore raise for a file that is missing, cut short or altered.

    Trouble with the storage or the memory, or a mistake of our own, is none of these: a checkpoint
    is not set aside for it.
    """
    return type(error) is Exception or isinstance(error, (ValueError, KeyError, FileNotFoundError))


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep; durations as everywhere ('500 steps', '10 %', 'never')."""

    every: str = dataclasses.field(default="10 %", metadata={"help": "cadence of saves"})
    keep: int = dataclasses.field(default=2, metadata={"min": 1, "help": "newest ones kept"})
    keep_every: str = dataclasses.field(
        default="never", metadata={"help": "cadence of checkpoints kept for good"}
    )
    asynchronous: bool = dataclasses.field(default=True, metadata={"help": "save in background"})


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
      directory: `<workdir>/checkpoints`.
      config: CheckpointConfig.
      keep_every: updates between checkpoints kept for good (0 = none).
      best: name of the metric whose best checkpoint is kept, with sign '+' (larger) or '-' in front;
        '' keeps none. Of equals the newest is the best.
    """

    def __init__(self, directory, config, keep_every=0, best=""):
        kept = [policies.LatestN(config.keep), policies.CustomSteps([0])]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        self._score = None
        if best:
            sign, name = (-1.0 if best[0] == "-" else 1.0), best[1:]
            self._score = lambda metrics: sign * metrics[name]
            kept.append(
                policies.BestN(
                    get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
                )
            )
        self.directory = paths.absolute(directory)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                best_fn=self._score,  # without it Orbax writes no metrics
                enable_async_checkpointing=config.asynchronous,
                cleanup_tmp_directories=True,
            ),
        )

    def steps(self):
        """Steps on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state, metrics=None):
        """Saves checkpoint k = state.step, which holds k updates.

        Raises RuntimeError if Orbax declines, and whatever an earlier asynchronous save failed with.
        """
        step = int(state.step)
        clock = {"step": step, "nonfinite": int(state.nonfinite)}
        if clock["nonfinite"] >= 0:
            raise FloatingPointError(
                f"update {clock['nonfinite']} was not finite; this state is not saved as good"
            )
        trees = {item: ocp.args.PyTreeSave(getattr(state, item)) for item in items(state)}
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(**trees, state=ocp.args.JsonSave(clock)),
            metrics=metrics,
        )
        if not saved:
            raise RuntimeError(
                f"checkpoint {step} was not saved to {self.directory}: one of that or a later step "
                f"exists ({self.steps()}); remove it or choose another --workdir"
            )

    def restore(self, target):
        """The newest intact checkpoint as a state like `target`, or None if there is none.

        A step that cannot be read is renamed `<step>.broken`, on all processes alike, and the one
        before it is tried. A readable one whose names, shapes or dtypes differ from `target` is an
        error, never stepped over.

        Args:
          target: TrainState of ShapeDtypeStructs with shardings.

        Raises:
          ConfigError: a readable checkpoint that does not fit, or none of several can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            shapes, problem = self._attempt(self._shapes, step, items(target))
            if not meshes.any_process(problem):
                for item, found in shapes.items():
                    wanted = getattr(target, item)
                    compare(found, wanted, f"checkpoint {self.directory / str(step) / item}")
                state, problem = self._attempt(self._read, step, target)
                if not meshes.any_process(problem):
                    return state
            self._set_aside(step, problem)
        if steps:
            raise ConfigError(
                f"none of the checkpoints {steps} in {self.directory} can be read; they are renamed "
                f"*.broken: bring one back, or start anew in another --workdir"
            )
        return None

    def restore_params(self, step, target):
        """Parameters that were evaluated at one step of this run, for the best one after training."""
        return read_params(self.directory, step, target)

    def best_step(self):
        """Step of the best checkpoint by the metric, or the newest if none has metrics."""
        steps = self.steps()
        measured = {step: self._manager.metrics(step) for step in steps}
        scored = [(self._score(metrics), step) for step, metrics in measured.items() if metrics]
        return max(scored)[1] if scored else steps[-1]

    def wait(self):
        """Blocks until asynchronous saves are on disk; raises what they failed with."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Waits and releases the threads."""
        self._manager.close()

    def _attempt(self, read, *arguments):
        """(result, None), or (None, the error) if it says that a file is torn."""
        try:
            return read(*arguments), None
        except Exception as error:
            if not torn(error):
                raise
            return None, error

    def _shapes(self, step, names):
        folder = self.directory / str(step)
        return {item: _metadata(folder / item) for item in names}

    def _read(self, step, target):
        folder = self.directory / str(step)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.JsonRestore())
        )
        clock, whole = restored.state, target.step.sharding
        return target.replace(
            step=jax.device_put(np.int32(clock["step"]), whole),
            nonfinite=jax.device_put(np.int32(clock["nonfinite"]), whole),
            **{item: _read_tree(folder / item, getattr(target, item)) for item in items(target)},
        )

    def _set_aside(self, step, problem):
        broken = self.directory / f"{step}.broken"
        if meshes.main_process():
            epath.Path(broken).rmtree(missing_ok=True)
            (self.directory / str(step)).rename(broken)
        words = " ".join(str(problem).split())[:200]
        log.warning(f"checkpoint {step} cannot be restored ({words}); renamed {broken.name}, "
                    f"the one before it is used")  # fmt: skip
        meshes.any_process(False)  # nobody lists the directory before it is renamed
        self._manager.reload()


def items(state):
    """Names of the trees that a checkpoint of `state` holds: `average` is there if it is kept."""
    return ("params", "optimizer", "average")[: 3 if state.average else 2]


def locate(run, step=""):
    """('runs/enc', 'runs/enc@2000' or any of them with a step) -> (run directory, step).

    Raises ConfigError when there is no such run or step; names the steps that there are.
    """
    path, at = str(run), ""
    if path.rpartition("@")[2].isdigit():
        path, _, at = path.rpartition("@")
    folder = paths.of(path)
    found = folder / "checkpoints"
    if not found.is_dir():
        raise ConfigError(
            f"{path!r} is not a run directory (no checkpoints/ in it); expected the --workdir of a "
            f"train.py run, such as runs/enc or runs/enc@2000"
        )
    # In a bucket an unfinished save lies under its final name.
    steps = sorted(
        int(p.name)
        for p in found.iterdir()
        if p.name.isdigit() and ocp.utils.is_checkpoint_finalized(epath.Path(p))
    )
    at = str(step) or at
    if not steps or (at and (not at.isdigit() or int(at) not in steps)):
        raise ConfigError(f"{path!r} has no checkpoint {at or 'at all'}; it has {steps or 'none'}")
    return folder, int(at) if at else steps[-1]


def params_metadata(run, step):
    """{path: ShapeDtypeStruct} of the parameters in checkpoint `step`, without reading an array.

    Raises ConfigError naming the folder when it is torn."""
    return _flat(_or_say(_metadata, paths.of(run) / "checkpoints" / str(step) / "params"))


def averaged_paths(run, step):
    """Paths of the parameters that checkpoint `step` keeps an average of, as a frozenset."""
    return _averages(paths.of(run) / "checkpoints" / str(step))


def _averages(folder):
    kept = (folder / "average").exists()
    return frozenset(_flat(_or_say(_metadata, folder / "average")) if kept else ())


def read_params(checkpoints, step, target, weights="average"):
    """Reads the subtree `target` (ShapeDtypeStructs with shardings) of a checkpoint's parameters.

    weights: 'average' reads the averaged ones where the run kept them, 'raw' those of the step."""
    folder = paths.of(checkpoints) / str(step)
    parts = rules.split(target, _averages(folder) if weights == "average" else ())
    return rules.merge(*(
        _or_say(_read_tree, folder / item, part, True) if part else {}
        for item, part in zip(("params", "average"), parts, strict=True)
    ))  # fmt: skip


def write_params(run, step, params):
    """Writes checkpoint `step` of `run` with parameters alone, for what was not trained here.

    Leaves are arrays, or Deferred ones of which one is in memory at a time."""
    types = ((np.ndarray, ocp.type_handlers.NumpyHandler()),
             (jax.Array, ocp.type_handlers.ArrayHandler()), (Deferred, _OneByOne()))  # fmt: skip
    registry = ocp.type_handlers.create_type_handler_registry(*types)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    directory = paths.absolute(paths.of(run) / "checkpoints")
    with ocp.CheckpointManager(directory, item_handlers={"params": handler}) as manager:
        manager.save(step, args=ocp.args.Composite(params=ocp.args.PyTreeSave(params)))


@dataclasses.dataclass(frozen=True)
class Deferred:
    """A float32 leaf that `write_params` makes when its turn comes: `read()` gives the array."""

    shape: tuple
    read: Callable[[], np.ndarray]
    dtype: np.dtype = np.dtype(np.float32)


class _OneByOne(ocp.type_handlers.NumpyHandler):
    """Writes Deferred leaves one after another; Orbax's own handler copies all of them first."""

    def memory_size(self, values):
        sizes = [math.prod(value.shape) * value.dtype.itemsize for value in values]
        return [(size, size) for size in sizes]

    async def serialize(self, values, infos, args=None):
        args = args or [ocp.SaveArgs()] * len(values)
        written = self._background_serialize(values, infos, args)
        return [ocp.future.CommitFutureAwaitingContractedSignals(written, name="deferred")]

    async def _background_serialize(self, values, infos, args=None):
        for value, info, each in zip(values, infos, args, strict=True):
            await super()._background_serialize([value.read()], [info], [each])


def _or_say(read, folder, *arguments):
    try:
        return read(paths.absolute(folder), *arguments)
    except Exception as error:
        if not torn(error):
            raise
        words = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"checkpoint {folder} cannot be read ({words}); use another step of that run (RUN@STEP)"
        ) from error


def compare(found, target, what):
    """Raises ConfigError unless names, shapes and dtypes of two trees of leaves are the same."""
    found, wanted = _flat(found), _flat(target)
    lines = [f"missing {p}" for p in sorted(wanted.keys() - found.keys())]
    lines += [f"unexpected {p}" for p in sorted(found.keys() - wanted.keys())]
    for path in sorted(found.keys() & wanted.keys()):
        have, want = found[path], wanted[path]
        if tuple(have.shape) != tuple(want.shape) or have.dtype != want.dtype:
            lines.append(f"{path} is {have.dtype}{list(have.shape)}, "
                         f"expected {want.dtype}{list(want.shape)}")  # fmt: skip
    if lines:
        raise ConfigError(
            f"{what} does not fit this config: {'; '.join(lines[:3])}"
            f"{f' and {len(lines) - 3} more' if len(lines) > 3 else ''}; "
            f"use the config it was made with, or another --workdir"
        )


def _flat(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(rules.key_name(key) for key in path): leaf for path, leaf in leaves}


# The handler itself, without Orbax's Checkpointer around it: that waits for all processes, and would
# wait for ever if a file is torn for one of them alone.
def _metadata(folder):
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(tuple(m.shape), m.dtype), tree)


def _read_tree(folder, target, partial=False):
    arguments = ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=partial,
    )
    return ocp.PyTreeCheckpointHandler().restore(epath.Path(folder), args=arguments)
