"""Replicas: runs of finetune.py that differ in seed or learning rate, trained together in one program.

`--config.seeds=(0, 1, 2)` and a tuple of learning rates add a leading axis to what differs: trained
parameters, moments, batches, dropout, learning rate. What does not, such as a frozen base, is held once.
Each replica has a complete run directory below the workdir: that of the run made alone.

A run without these axes is one replica whose arrays have no such axis (`Axes.size` 0).
"""

import dataclasses
import functools
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from training import run_directory, sharding
from training.sharding import REPLICA

log = logging.getLogger("triptych")


@dataclasses.dataclass(frozen=True)
class Replica:
    """One run: its name ('' for a run alone), its resolved config, its run directory."""

    name: str
    config: object
    folder: object

    @classmethod
    def of(cls, config, workdir, **axes):
        """The run at a point of the axes `seed` and `learning_rate`, those that there are."""
        name = ",".join(f"{axis}={value:g}" for axis, value in axes.items())
        if "seed" in axes:
            names = [field.name for field in dataclasses.fields(config.seed)]
            seeds = dataclasses.replace(config.seed, **dict.fromkeys(names, axes["seed"]))
            config = dataclasses.replace(config, seeds=(), seed=seeds)
        if "learning_rate" in axes:
            optimizer = dataclasses.replace(
                config.optimizer, learning_rate=axes["learning_rate"]
            )
            config = dataclasses.replace(config, optimizer=optimizer)
        folder = run_directory.open_run(workdir / name if name else workdir, "finetune")
        return cls(name, config, folder)


def expand(config, workdir) -> list[list[Replica]]:
    """The replicas of a resolved config, in groups that are trained together; [[the run]] without axes.

    Replicas that have begun are one group, and those that were added to the config later another.
    """
    rates, axes = config.optimizer.learning_rate, {}
    if isinstance(rates, tuple):
        axes["learning_rate"] = rates
    if config.seeds:
        axes["seed"] = config.seeds
    if not axes:
        return [[Replica.of(config, workdir)]]
    workdir = run_directory.open_run(workdir, "replicas")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    replicas = [Replica.of(config, workdir, **point) for point in points]
    begun = [run_directory.is_started(replica.folder) for replica in replicas]
    groups = [[r for r, b in zip(replicas, begun, strict=True) if b is kind] for kind in (True, False)]
    return [group for group in groups if group]


@dataclasses.dataclass(frozen=True)
class Axes:
    """The leading axis of the arrays of a program; `jax.jit` takes it as a static argument.

    Attributes:
      size: number of replicas; 0: the arrays have no such axis.
      shares_frozen: all replicas have the same frozen parameters, which have no such axis.
    """

    size: int = 0
    shares_frozen: bool = True

    def map(self, function, shared=()):
        """`function` of arrays of one replica -> of all replicas. The arguments of the numbers `shared`
        are the same for all."""
        if not self.size:
            return function

        def mapped(*arguments):
            axes = [None if n in shared else 0 for n in range(len(arguments))]
            return jax.vmap(function, in_axes=axes, spmd_axis_name=REPLICA)(*arguments)

        return mapped

    @property
    def frozen(self) -> tuple[int, ...]:
        """The number of the argument `frozen` of the steps, where it is shared."""
        return (1,) if self.shares_frozen else ()

    def stack(self, trees, mesh, shardings=None):
        """One tree of arrays [R, ...] from a tree for each replica.

        shardings: those of one replica's tree; None: the arrays are small and on every device.
        """
        if not self.size:
            return trees[0]
        if shardings is None:
            shardings = jax.tree.map(lambda _: sharding.replicated(mesh), trees[0])
        places = jax.tree.map(lambda place: stacked(mesh, place), shardings)
        return jax.jit(_stack, out_shardings=places)(*trees)

    def take(self, state, number: int):
        """The TrainState of one replica."""
        return _take(state, number) if self.size else state

    def place(self, mesh, inputs):
        """A global array [R, B, ...] from each replica's global batch [B, ...] of NumPy arrays; for a run
        alone, from this process's rows."""
        if not self.size:
            return sharding.global_array(mesh, inputs[0])
        batch = sharding.batch_sharding(mesh)
        return jax.tree.map(lambda *x: _whole(np.stack(x), stacked(mesh, batch)), *inputs)

    def place_shared(self, mesh, inputs):
        """A global array [B, ...] that all replicas read."""
        if not self.size:
            return sharding.global_array(mesh, inputs)
        batch = sharding.batch_sharding(mesh)
        return jax.tree.map(lambda x: _whole(x, batch), inputs)


def stacked(mesh, place) -> NamedSharding:
    """The sharding of arrays [R, ...] of replicas, each placed like `place`."""
    return NamedSharding(mesh, PartitionSpec(REPLICA, *place.spec))


def _stack(*trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


@jax.jit
def _take(state, number):
    def one(x):
        return jax.lax.dynamic_index_in_dim(x, number, keepdims=False)

    return sharding.constrain_state(jax.tree.map(one, state))


def _whole(x, place):
    return jax.make_array_from_callback(x.shape, place, lambda index: x[index])


class Metrics:
    """The MetricWriters of the replicas as one: a value may be an array of one number per replica."""

    def __init__(self, writers):
        self._writers = writers

    def open(self, step):
        for writer in self._writers:
            writer.open(step)

    def write(self, step, split, values):
        for number, writer in enumerate(self._writers):
            writer.write(step, split, one_of(values, number))

    def flush(self):
        for writer in self._writers:
            writer.flush()


def one_of(values, number):
    """{name: number} of one replica from {name: number or one number per replica}."""
    return {
        name: float(value[number]) if np.ndim(value) else value for name, value in values.items()
    }


def restore(checkpoints, restore_one):
    """The results of `restore_one(number)` for each replica, all of the same step.

    A program that was killed while it saved leaves some replicas a checkpoint ahead: it is removed, and
    its updates are made again. A corrupt checkpoint does the same to the others.

    Args:
      checkpoints: Checkpoints of each replica.
      restore_one: function of a replica's number that returns (state or None, frozen).
    """
    while True:
        common = set.intersection(*({*each.steps()} for each in checkpoints))
        if len(checkpoints) > 1:
            for each in checkpoints:
                each.move_after(max(common, default=-1), None)
        found = [restore_one(number) for number in range(len(checkpoints))]
        steps = {-1 if state is None else int(state.step) for state, _ in found}
        if len(steps) == 1:
            return found


def share(trees) -> tuple[list, bool]:
    """(the trees, or the first alone if all are equal; whether they are)."""
    equal = all(
        np.array_equal(x, y)
        for tree in trees[1:]
        for x, y in zip(jax.tree.leaves(trees[0]), jax.tree.leaves(tree), strict=True)
    )
    return (trees[:1] if equal else trees), equal


def summarize(scores: dict[str, dict], points: list[dict], metric: str, floor: dict) -> dict:
    """The summary of finished replicas.

    Args:
      scores: {name of a replica: {'test/accuracy': value, ...}}.
      points: {'seed': ..., 'learning_rate': ...} of each replica, in the same order.
      metric: the validation metric that chooses the best learning rate, such as 'validation/accuracy'.
      floor: {metric: score of the constant prediction}; a replica that is not above it has degenerated.

    Returns:
      {'replicas': {name: scores}, 'groups': [{'learning_rate': ..., 'seeds': n, metric: {'mean', 'sd',
      'interval95', 'min', 'max'}, 'degenerate': {metric: n}}], 'best': index of the group}.
    """
    groups = {}
    for point, (name, values) in zip(points, scores.items(), strict=True):
        groups.setdefault(point.get("learning_rate"), []).append(values)
    found = []
    for rate, members in groups.items():
        names = list(dict.fromkeys(key for values in members for key in values))
        columns = {key: [values[key] for values in members if key in values] for key in names}
        entry = {} if rate is None else {"learning_rate": rate}
        entry |= {"replicas": len(members), **{k: statistics(v) for k, v in columns.items()}}
        entry["degenerate"] = {
            key: sum(value <= floor[key] for value in column)
            for key, column in columns.items()
            if key in floor
        }
        found.append(entry)
    chosen = [entry[metric]["mean"] if metric in entry else -np.inf for entry in found]
    return {"replicas": scores, "groups": found, "best": int(np.argmax(chosen))}


def statistics(values) -> dict:
    """{'mean', 'sd', 'interval95': half of Student's 95 % interval of the mean, 'min', 'max'}.

    sd and interval95 are 0 for one value.
    """
    from scipy import stats

    count, sd = len(values), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    half = float(stats.t.ppf(0.975, count - 1)) * sd / count**0.5 if count > 1 else 0.0
    return {
        "mean": float(np.mean(values)), "sd": sd, "interval95": half,
        "min": float(min(values)), "max": float(max(values)),
    }  # fmt: skip


def describe(summary) -> list[str]:
    """Lines about a summary for the log."""
    lines = []
    for number, group in enumerate(summary["groups"]):
        rate = f"learning_rate {group['learning_rate']:g}: " if "learning_rate" in group else ""
        for key, value in group.items():
            if isinstance(value, dict) and "mean" in value:
                lines.append(
                    f"{rate}{key} {value['mean']:.4f} ± {value['interval95']:.4f} (95 %), s.d. "
                    f"{value['sd']:.4f}, {value['min']:.4f} to {value['max']:.4f}, "
                    f"{group['replicas']} replicas"
                )
        for key, count in group["degenerate"].items():
            if count:
                lines.append(
                    f"{rate}{count} of {group['replicas']} replicas have degenerated: {key} is not above "
                    "that of the most frequent label"
                )
        if number == summary["best"] and len(summary["groups"]) > 1:
            lines.append(f"{rate}best on validation")
    return lines
