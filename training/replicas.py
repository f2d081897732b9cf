"""Replicas: runs of finetune.py that differ in seed or learning rate, trained together in one program.

`--config.seeds='(0, 1, 2)'` and a tuple of learning rates add a leading axis to what differs: trained
parameters, moments, batches, dropout, learning rate. What does not, such as a frozen base, is held once.
Each replica has a complete run directory below the workdir: that of the run made alone.

A run without these axes is one replica whose arrays have no such axis (`ReplicaAxis.size` 0).
"""

import contextlib
import dataclasses
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from training import config as configs
from training import generated, hosts, run_directory, sharding
from training.checkpoint import Checkpoints
from training.config import ConfigError
from training.metric_writer import MetricWriter
from training.sharding import REPLICA

log = logging.getLogger("triptych")

FAILED = "failed.json"  # in the run directory of a replica that was left out


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
            optimizer = dataclasses.replace(config.optimizer, learning_rate=axes["learning_rate"])
            config = dataclasses.replace(config, optimizer=optimizer)
        folder = run_directory.open_run(f"{workdir}/{name}" if name else workdir, "finetune")
        return cls(name, config, folder)

    def resolve(self, config):
        """The replica with the config that an init source resolved for another one of its group."""
        own = {"seed": self.config.seed, "optimizer": self.config.optimizer}
        return dataclasses.replace(self, config=dataclasses.replace(config, **own))


def expand(config, workdir) -> list[list[Replica]]:
    """The replicas of a resolved config, in groups that are trained together; [[the run]] without axes.

    Replicas that have started are one group, and those that were added to the config later another.
    """
    hosts.check_config(config)
    rates, axes = config.optimizer.learning_rate, {}
    if isinstance(rates, tuple):
        axes["learning_rate"] = rates
    if config.seeds:
        axes["seed"] = config.seeds
    if not axes:
        return [[Replica.of(config, workdir)]]
    folder = run_directory.open_run(workdir, "replicas")
    hosts.check_config(config)  # all have looked at the directory before one writes into it
    if sharding.is_main_process():
        resolved = configs.to_dict(config)
        record = {"kind": "replicas", "config": resolved, "model": resolved["model"]}
        run_directory.write_json(folder / "config.json", record)
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    replicas = [Replica.of(config, workdir, **point) for point in points]
    failed = [replica.name for replica in replicas if (replica.folder / FAILED).exists()]
    replicas = [replica for replica in replicas if replica.name not in failed]
    if failed:
        log.warning(
            f"left out, since an update was not finite: {', '.join(failed)}; remove a directory to train it "
            "again"
        )
    if not replicas:
        raise ConfigError(f"every replica in {folder} has failed; lower the learning rate")
    started = [replica for replica in replicas if run_directory.resumes(replica.folder)]
    new = [replica for replica in replicas if replica not in started]
    return [group for group in (started, new) if group]


@dataclasses.dataclass(frozen=True)
class ReplicaAxis:
    """The leading axis of the arrays of a program; `jax.jit` takes it as a static argument.

    Attributes:
      size: number of replicas; 0: the arrays have no such axis.
      shares_frozen: all replicas have the same frozen parameters, which have no such axis.
    """

    size: int = 0
    shares_frozen: bool = True

    def vmap(self, function, shared=()):
        """`function` of arrays of one replica -> of all replicas. The arguments of the numbers `shared`
        are the same for all."""
        if not self.size:
            return function

        def mapped(*arguments):
            axes = [None if n in shared else 0 for n in range(len(arguments))]
            return jax.vmap(function, in_axes=axes, spmd_axis_name=REPLICA)(*arguments)

        return mapped

    def replicate_counters(self, state, sums):
        """(state, sums) of a train step; every process can read the sums and the counters of all replicas."""
        if not self.size:
            return state, sums
        counters = {"step": state.step, "first_nonfinite_step": state.first_nonfinite_step}
        counters, sums = sharding.constrain_replicated((counters, sums))
        return state.replace(**counters), sums

    @property
    def shared_args(self) -> tuple[int, ...]:
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
        # Every process reads the counters, so they are whole on every device (`replicate_counters`).
        places = jax.tree.map(
            lambda leaf, place: stacked(mesh, place) if leaf.ndim else sharding.replicated(mesh),
            trees[0],
            shardings,
        )

        def stack(*trees):
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

        return jax.jit(stack, out_shardings=places)(*trees)

    def take_replica(self, state, number: int):
        """The TrainState of one replica."""
        return _take_replica(state, number) if self.size else state

    def global_batch(self, mesh, inputs):
        """A global array [R, B, ...] from each replica's global batch [B, ...] of NumPy arrays; for a run
        alone, from this process's rows."""
        if not self.size:
            return sharding.global_array(mesh, inputs[0])
        batch = sharding.batch_sharding(mesh)
        return jax.tree.map(lambda *x: _whole(np.stack(x), stacked(mesh, batch)), *inputs)

    def stack_values(self, values):
        """One value for all replicas, from one for each: {metric: [R]} of dicts, float32[total, R] of
        learning rates."""
        if not self.size:
            return values[0]
        if isinstance(values[0], dict):
            return {name: np.array([each[name] for each in values]) for name in values[0]}
        return np.stack(values, axis=-1)

    def evaluate(self, task, split, predict, left_out=(), generating=None):
        """([the predictions of each replica], [its {metric: value}]) for a split.

        Args:
          predict: function of evaluation inputs that returns `LoadedTask.outputs` of all replicas.
          left_out: numbers of replicas without scores; theirs are NaN.
          generating: (model, params, frozen, mesh, whether this is the final evaluation), for a task that
            generates.
        """
        outputs = jax.device_get([predict(inputs) for inputs in task.eval_inputs(split)])
        own = [outputs]
        if self.size:
            own = [_index(outputs, number) for number in range(self.size)]
        predictions = [task.collect(split, task.in_order(split, each)) for each in own]
        count = generating and task.generates(split, generating[-1])
        for number in sorted({*range(len(own))}.difference(left_out)) if count else ():
            found = generated.generate(self, task, split, number, count, *generating)
            predictions[number] = task.with_generated(predictions[number], found)
        scores = [
            {} if number in left_out else task.score(split, each)
            for number, each in enumerate(predictions)
        ]
        names = next(filter(None, scores), {})
        return predictions, [each or dict.fromkeys(names, np.nan) for each in scores]

    def global_shared_batch(self, mesh, inputs):
        """A global array [B, ...] that all replicas read."""
        if not self.size:
            return sharding.global_array(mesh, inputs)
        batch = sharding.batch_sharding(mesh)
        return jax.tree.map(lambda x: _whole(x, batch), inputs)


def stacked(mesh, place) -> NamedSharding:
    """The sharding of arrays [R, ...] of replicas, each placed like `place`."""
    return NamedSharding(mesh, PartitionSpec(REPLICA, *place.spec))


@jax.jit
def _take_replica(state, number):
    def one(x):
        return jax.lax.dynamic_index_in_dim(x, number, keepdims=False)

    return sharding.constrain_state(jax.tree.map(one, state))


def _index(tree, number):
    return jax.tree.map(lambda x: x[number], tree)


def _whole(x, place):
    return jax.make_array_from_callback(x.shape, place, lambda index: x[index])


class Runs:
    """The metrics and checkpoints of replicas, a context manager.

    Args:
      group: [Replica].
      converter: StepConverter.
      best: '+metric' or '-metric' that the best checkpoint is chosen by, '' for none.
    """

    def __init__(self, group, converter, best):
        self.group = group
        self.left_out = set()  # numbers of replicas with an update that was not finite
        config, self._opened = group[0].config, contextlib.ExitStack()
        keep_period = converter.steps(config.checkpoint.keep_period, "checkpoint.keep_period")
        options, logs = config.checkpoint, (config.logging.tensorboard, config.logging.wandb)
        # A replica that is cut off in a save continues from the checkpoint of the others.
        if len(group) > 1:
            options = dataclasses.replace(options, max_to_keep=max(2, options.max_to_keep))
        with contextlib.ExitStack() as opened:
            enter, folders = opened.enter_context, [each.folder for each in group]
            self._metrics = [enter(MetricWriter(folder, *logs)) for folder in folders]
            self._checkpoints = [
                enter(Checkpoints(folder / "checkpoints", options, keep_period, best))
                for folder in folders
            ]
            self._opened = opened.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._opened.__exit__(*error)

    def open(self, step):
        """Opens the metrics; see MetricWriter."""
        for writer in self._metrics:
            writer.open(step)

    def write(self, step, split, values):
        """Writes metrics; a value may be an array of one number per replica."""
        for number, writer in enumerate(self._metrics):
            if number in self.left_out:
                continue
            own = {
                name: float(value[number]) if np.ndim(value) else value
                for name, value in values.items()
            }
            writer.write(step, split, own)

    def write_samples(self, step, task, split, predictions):
        """Shows generated texts: all of them in event files, some of the first replica in the log."""
        kept = [number for number in range(len(self.group)) if number not in self.left_out]
        found = [(self._metrics[n], task.samples(split, predictions[n])) for n in kept]
        generated.show(found, f"{split}/generated", step)

    def flush(self):
        """Puts the metrics on disk."""
        for writer in self._metrics:
            writer.flush()

    def save(self, axis, state, values):
        """Saves a checkpoint of each replica; values: [{metric: value}] of its evaluation, or None."""
        for number, checkpoints in enumerate(self._checkpoints):
            if number not in self.left_out:
                checkpoints.save(axis.take_replica(state, number), values and values[number])
                # Orbax's barriers have no name of their own per directory.
                if jax.process_count() > 1:
                    checkpoints.wait()

    def leave_out(self, number, update):
        """Records that an update of a replica was not finite; the others continue without it."""
        if number in self.left_out:
            return
        self.left_out.add(number)
        replica = self.group[number]
        log.warning(
            f"{replica.name}: update {update} had a loss or gradient that is not finite; the others continue "
            "without it"
        )
        if sharding.is_main_process():
            run_directory.write_json(replica.folder / FAILED, {"update": update})

    def wait(self):
        """Blocks until all checkpoints are on disk."""
        for checkpoints in self._checkpoints:
            checkpoints.wait()

    def best_params(self, target):
        """([the step of each replica's best checkpoint], [its parameters, like the tree `target`])."""
        steps = [checkpoints.best_step() for checkpoints in self._checkpoints]
        pairs = zip(self._checkpoints, steps, strict=True)
        return steps, [checkpoints.restore_params(step, target) for checkpoints, step in pairs]

    def restore_or_initialize(self, restore, initialize):
        """(whether the replicas were restored, their step, [(state, frozen) of each]).

        All have the same step. A program that is killed while it saves leaves some replicas a checkpoint
        ahead: it is removed, and its updates are made again.

        Args:
          restore, initialize: functions of (number, Checkpoints) that return (TrainState, frozen); the
            state is None if there is nothing to restore.
        """
        numbered = list(enumerate(self._checkpoints))
        while True:
            common = max(
                set.intersection(*(each.steps() for each in self._checkpoints)), default=-1
            )
            for each in self._checkpoints if len(numbered) > 1 else ():
                ahead = sorted(step for step in each.steps() if step > max(common, 0))
                if len(ahead) > 2:
                    raise ConfigError(
                        f"{each.directory.parent} has checkpoints {ahead} that other replicas lack: continue "
                        f"it alone, with --workdir={each.directory.parent}, or move it away"
                    )
                each.move_after(common, None)
            found = [restore(*pair) for pair in numbered]
            steps = {-1 if state is None else int(state.step) for state, _ in found}
            if len(steps) == 1:
                break
        if steps != {-1}:
            return True, steps.pop(), found
        return False, 0, [initialize(*pair) for pair in numbered]


def stack_replicas(pairs, size, mesh):
    """(ReplicaAxis, TrainState, frozen) of [(TrainState, frozen)]: arrays [size, ...]; unchanged for 0."""
    states, frozen = [state for state, _ in pairs], [params for _, params in pairs]
    shares = all(
        np.array_equal(x, y)
        for tree in frozen[1:]
        for x, y in zip(jax.tree.leaves(frozen[0]), jax.tree.leaves(tree), strict=True)
    )
    axis = ReplicaAxis(size, shares)
    placed = jax.tree.map(lambda x: x.sharding, states[0])
    state = axis.stack(states, mesh, placed)
    if shares:
        return axis, state, frozen[0]
    return axis, state, axis.stack(frozen, mesh, jax.tree.map(lambda x: x.sharding, frozen[0]))


def tasks_of(group, task) -> list:
    """The LoadedTask of each replica: `task` with its seed. Raises ConfigError if their programs differ."""
    tasks = [task.with_seed(replica.config.seed.data) for replica in group]
    for replica, each in zip(group, tasks, strict=True):
        if each != task or each.epoch_size != task.epoch_size:
            raise ConfigError(
                f"the label subset of {replica.name!r} gives other weights to the classes than that of "
                f"{group[0].name!r}, and replicas share one program: set task.class_weights to numbers, or "
                "run one seed at a time"
            )
    return tasks


def check_data(group, task) -> None:
    """Raises ConfigError if the data differ between hosts, or from those that a replica was started with."""
    hosts.check_data(group[0].config, task, [replica.folder for replica in group])
    for replica in group:
        run_directory.check_unchanged(replica.folder, **task.identities)


def batches(tasks, start):
    """Iterates over the training inputs of all tasks, a list for each step from `start` on."""
    if len(tasks) == 1:
        return ([inputs] for inputs in tasks[0].iterate(start))
    return tasks[0].iterate_together(tasks, start)


def describe_group(group) -> str:
    """The directories of replicas, for the log."""
    if not group[0].name:
        return str(group[0].folder)
    return f"{group[0].folder.parent}, {len(group)} replicas: {', '.join(r.name for r in group)}"
