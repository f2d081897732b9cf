"""Orbax checkpoints of a run: what is kept, how a save is checked, how a corrupt one is skipped.

The loop saves, the entry files restore. The items `params` (those that are trained), `ema_params` (if
the run averages), `opt_state` and `state` are separate, so that finetuning does not read the optimizer
state. `params_metadata` and `read_params` add the frozen parameters (training/frozen.py).
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from training import checkpoint_trees as trees
from training import frozen, paths
from training.config import ConfigError
from training.param_rules import (
    flatten_params,
    merge_params,
    split_params,
    unflatten_params,
)
from training.sharding import any_across_processes, is_main_process

log = logging.getLogger("triptych")


class Checkpoints:
    """The checkpoints of one run directory.

    Kept: step 0, the newest `config.max_to_keep`, every `keep_period`-th step and the best one.

    Args:
      directory: `<workdir>/checkpoints`.
      config: CheckpointConfig.
      keep_period: steps between checkpoints that are kept forever (0: none).
      best: '+metric' (larger is better) or '-metric' keeps the best checkpoint, the newest of equals.
    """

    def __init__(self, directory, config, keep_period=0, best=""):
        kept = [policies.LatestN(config.max_to_keep), policies.CustomSteps([0])]
        if keep_period:
            kept.append(policies.EveryNSteps(keep_period))
        score = None
        if best:
            sign, name = (-1.0 if best[0] == "-" else 1.0), best[1:]
            score = lambda metrics: sign * metrics[name]  # noqa: E731
            kept.append(
                policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
            )
        self.directory = paths.absolute(directory)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                best_fn=score,  # without it Orbax writes no metrics
                enable_async_checkpointing=config.asynchronous,
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, state, metrics=None):
        """Saves checkpoint k = state.step, which holds k updates, with the metrics of its evaluation.

        Raises FloatingPointError if an update of the state was not finite, RuntimeError if Orbax does not
        save it, and what an earlier asynchronous save failed with.
        """
        numbers = {name: int(getattr(state, name)) for name in ("step", "first_nonfinite_step")}
        step, nonfinite = numbers.values()
        if nonfinite >= 0:
            raise FloatingPointError(f"update {nonfinite} was not finite; its state is not saved")
        saved = {item: ocp.args.PyTreeSave(getattr(state, item)) for item in items(state)}
        args = ocp.args.Composite(**saved, state=ocp.args.JsonSave(numbers))
        with paths.naming(self.directory):
            saved = self._manager.save(step, args=args, metrics=metrics)
        if not saved:
            raise RuntimeError(
                f"checkpoint {step} was not saved to {self.directory}: it has this or a later one "
                f"({self._manager.all_steps()}); remove it or choose another --workdir"
            )

    def restore(self, target, step=-1):
        """The newest intact checkpoint as a state like `target`, or None if there is no checkpoint.

        A step that cannot be read is renamed `<step>.broken` on all processes, and the one before it is
        used. A readable step whose names, shapes or dtypes differ from `target` is an error.

        Args:
          target: TrainState of ShapeDtypeStructs with shardings.
          step: read this step alone; -1: the newest.

        Raises:
          ConfigError: a readable checkpoint that does not fit, or none of several can be read.
        """
        named, steps = step >= 0, sorted(self._manager.all_steps())
        for each in [step] if named else reversed(steps):
            folder = self.directory / str(each)
            found, error = trees.attempt(
                lambda at: {i: trees.metadata(at / i) for i in items(target)}, folder
            )
            if not any_across_processes(error):
                for item, tree in found.items():
                    trees.check_fits(tree, getattr(target, item), f"checkpoint {folder / item}")
                state, error = trees.attempt(self._read, each, target)
                if not any_across_processes(error):
                    return state
            if named:
                raise trees.unreadable(folder, error, f"name another one of {steps}") from error
            self._rename_broken(folder, error)
        broken = sorted(path.name for path in self.directory.glob("*.broken"))
        if broken:
            raise ConfigError(
                f"none of the checkpoints {broken} in {self.directory} can be read; they are renamed "
                f"*.broken: restore one, or start again in another --workdir"
            )
        return None

    def restore_params(self, step, target):
        """The parameters that the evaluation at `step` used, such as the best ones after training: those
        of the tree `target`."""
        return read_params(self.directory, step, target)

    def save_frozen(self, params, base=None):
        """Saves where the frozen `params` of a new run are, and those that no other run has; returns lines.

        base: the frozen.Reference to what init_from brought; None for nothing that can be referenced."""
        flat, run, found, lines = flatten_params(params), self.directory.parent, [], []
        there = {path: x for path, x in flat.items() if base and path in base.names}
        own = {path: x for path, x in flat.items() if path not in there}
        if there:
            found.append(base.of(run, there))
            lines.append(
                f"{len(there)} frozen tensors remain in {base.places[0]}@{base.step}: keep that checkpoint"
            )
        if own:
            write_params(run / frozen.OWN, 0, unflatten_params(own))
            names = {path: path for path in own}
            found.append(frozen.Reference((frozen.OWN,), 0, False, names).of(run, own))
            lines.append(f"{len(own)} frozen tensors are saved once, in {run / frozen.OWN}")
        if found:
            frozen.write(run, found)
        return lines

    def steps(self):
        """The steps of the checkpoints, as a set."""
        return set(self._manager.all_steps())

    def best_step(self):
        """The step with the best metric, or the newest step if none has metrics."""
        best = self._manager.best_step()
        return self._manager.latest_step() if best is None else best

    def after(self, step):
        """The directories of the checkpoints after `step`, broken ones too, newest first."""
        numbered = [(path.name.removesuffix(".broken"), path) for path in self.directory.iterdir()]
        later = [(int(n), path) for n, path in numbered if n.isdigit() and int(n) > step]
        return [path for _, path in sorted(later, key=lambda pair: -pair[0])]

    def move_after(self, step, target):
        """Moves the checkpoints after `step` into the directory `target`, or removes them if it is None.
        Returns their names."""
        moved = self.after(step)
        any_across_processes(False)  # every process has listed the directory
        for path in moved if is_main_process() else ():
            if target is None:
                epath.Path(path).rmtree()
            else:
                target.mkdir(parents=True, exist_ok=True)
                path.rename(target / path.name)
        any_across_processes(False)  # no process lists the directory before the moves
        self._manager.reload()
        return [path.name for path in moved]

    def wait(self):
        """Blocks until asynchronous saves are on disk; raises what they failed with."""
        with paths.naming(self.directory):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self):
        """Waits and releases the threads."""
        self._manager.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _read(self, step, target):
        numbers = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.JsonRestore())
        ).state
        folder, replicated = self.directory / str(step), target.step.sharding
        return target.replace(
            **{name: jax.device_put(np.int32(n), replicated) for name, n in numbers.items()},
            **{
                item: trees.read_tree(folder / item, getattr(target, item))
                for item in items(target)
            },
        )

    def _rename_broken(self, folder, error):
        broken = folder.with_name(f"{folder.name}.broken")
        if is_main_process():
            epath.Path(broken).rmtree(missing_ok=True)
            folder.rename(broken)
        reason = " ".join(str(error).split())[:200]
        log.warning(f"checkpoint {folder.name} cannot be restored ({reason}); renamed it {broken.name}, "
                    f"using the one before it")  # fmt: skip
        any_across_processes(False)  # no process lists the directory before the rename
        self._manager.reload()


def items(state):
    """Names of the trees in a checkpoint of `state`: without `ema_params` if the run has none."""
    return ("params", "opt_state", "ema_params")[: 3 if state.ema_params else 2]


def split_step(run):
    """'runs/enc@2000' -> ('runs/enc', '2000'), 'runs/enc' -> ('runs/enc', '')."""
    path, at, step = str(run).rpartition("@")
    return (path, step) if at and step.isdigit() else (str(run), "")


def resolve_checkpoint(run, step=""):
    """'runs/enc', or 'runs/enc@2000' with its step -> (run directory, step); the newest by default.

    Raises ConfigError if there is no such run or step; names the steps that exist.
    """
    path, at = split_step(run)
    wanted = str(step) or at
    folder = paths.of(path)
    if not (folder / "checkpoints").is_dir():
        below = sorted(each.parent.name for each in folder.glob("*=*/checkpoints"))
        if below:
            raise ConfigError(f"{path!r} holds replicas; name one, such as {path}/{below[0]}")
        runs = sorted(each.parent.name for each in folder.glob("*/checkpoints"))
        raise ConfigError(
            f"{path!r} holds the runs {', '.join(runs[:4])}{', ...' * (len(runs) > 4)}; name one of them, "
            f"such as {path}/{runs[0]}"
            if runs
            else f"{path!r} is not a run directory (no checkpoints/ in it); expected the --workdir of a "
            f"train.py run, such as runs/enc or runs/enc@2000"
        )
    steps = steps_of(folder)
    if not steps:
        raise ConfigError(f"{path!r} has no checkpoints; train it, or choose another run")
    if wanted and (not wanted.isdigit() or int(wanted) not in steps):
        raise ConfigError(f"{path!r} has no checkpoint {wanted}; it has {steps}")
    return folder, int(wanted) if wanted else steps[-1]


def steps_of(run):
    """The steps of a run's finished checkpoints, ascending; [] if it has none."""
    folder = paths.of(run) / "checkpoints"
    # In a bucket an unfinished save has its final name.
    return sorted(
        int(path.name)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name.isdecimal()
        and path.name == str(int(path.name))
        and ocp.utils.is_checkpoint_finalized(epath.Path(path))
    )


def params_metadata(run, step):
    """{path: ShapeDtypeStruct} of all parameters of a run at checkpoint `step`, without reading an array.

    Raises ConfigError if it is corrupt, or if frozen parameters belong to another run that is gone."""
    folder = paths.of(run) / "checkpoints" / str(step) / "params"
    found = trees.flatten(trees.explained(trees.metadata, folder))
    for reference in frozen.references(run):
        with _naming_base(run, reference) as base:
            found |= reference.select(params_metadata(base, reference.step))
    return found


def ema_paths(run, step):
    """Paths of the parameters that checkpoint `step` has averages of, as a frozenset."""
    folder = paths.of(run) / "checkpoints" / str(step) / "ema_params"
    found = trees.explained(trees.metadata, folder) if folder.exists() else {}
    return frozenset(trees.flatten(found))


def read_params(checkpoints, step, target, use_ema=True):
    """The subtree `target` (ShapeDtypeStructs with shardings) of a run's parameters at a checkpoint.

    use_ema: read averaged parameters where the run has them."""
    checkpoints = paths.of(checkpoints)
    untrained = read_frozen(checkpoints.parent, target)
    rest, _ = split_params(target, flatten_params(untrained))
    parts = split_params(rest, ema_paths(checkpoints.parent, step) if use_ema else ())
    trained = merge_params(*(
        trees.explained(trees.read_tree, checkpoints / str(step) / item, part, True) if part else {}
        for item, part in zip(("params", "ema_params"), parts, strict=True)
    ))  # fmt: skip
    return merge_params(trained, untrained)


def read_frozen(run, target):
    """Those of the tree `target` (ShapeDtypeStructs with shardings) that are frozen in a run.

    Raises ConfigError if they belong to another run that is gone or whose arrays have changed."""
    wanted, found = flatten_params(target), {}
    for reference in frozen.references(run):
        part = {path: wanted[path] for path in reference.names if path in wanted}
        if not part:
            continue
        with _naming_base(run, reference) as base:
            shapes = reference.select(params_metadata(base, reference.step))
            tree = {reference.names[path]: leaf for path, leaf in part.items()}
            if all(shapes[path].shape == leaf.shape for path, leaf in part.items()):
                tree = read_params(
                    base / "checkpoints", reference.step, unflatten_params(tree), reference.use_ema
                )
            found |= reference.verified(flatten_params(tree), part)
    return unflatten_params(found)


@contextlib.contextmanager
def _naming_base(run, reference):
    """Gives the run directory of a reference, and says in a ConfigError whose parameters it holds."""
    folder = reference.folder(run)
    try:
        if reference.step not in steps_of(folder):
            raise ConfigError("it is gone")
        yield folder
    except ConfigError as error:
        raise ConfigError(
            f"the frozen parameters of {run} are those of {folder}@{reference.step}, but {error}; restore "
            f"it, or correct its path in {paths.of(run) / frozen.FILE}"
        ) from error


def write_params(run, step, params):
    """Writes checkpoint `step` of `run` with parameters alone, for models that were not trained here.

    Arrays may be LazyArrays: one of them is in memory at a time."""
    types = ((np.ndarray, ocp.type_handlers.NumpyHandler()),
             (jax.Array, ocp.type_handlers.ArrayHandler()), (LazyArray, _LazyHandler()))  # fmt: skip
    registry = ocp.type_handlers.create_type_handler_registry(*types)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    directory = paths.absolute(paths.of(run) / "checkpoints")
    with ocp.CheckpointManager(directory, item_handlers={"params": handler}) as manager:
        manager.save(step, args=ocp.args.Composite(params=ocp.args.PyTreeSave(params)))


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """A float32 array that `write_params` makes when it writes it: `read()` returns it."""

    shape: tuple
    read: Callable[[], np.ndarray]
    dtype: np.dtype = np.dtype(np.float32)


class _LazyHandler(ocp.type_handlers.NumpyHandler):
    """Writes LazyArrays one after another; Orbax's own handler copies all of them first."""

    def memory_size(self, values):
        sizes = [math.prod(value.shape) * value.dtype.itemsize for value in values]
        return [(size, size) for size in sizes]

    async def serialize(self, values, infos, args=None):
        args = args or [ocp.SaveArgs()] * len(values)
        written = self._background_serialize(values, infos, args)
        return [ocp.future.CommitFutureAwaitingContractedSignals(written, name="lazy arrays")]

    async def _background_serialize(self, values, infos, args=None):
        for value, info, each in zip(values, infos, args, strict=True):
            await super()._background_serialize([value.read()], [info], [each])
