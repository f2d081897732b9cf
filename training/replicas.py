"""Replicas: runs of finetune.py that differ in seed or learning rate, trained together in one program.

Each has parameters of its own: it is a trial, not a data-parallel copy of one model.

`--config.seeds='(0, 1, 2)'` and a tuple of learning rates add a leading axis to what differs: trained
parameters, moments, batches, dropout, learning rate. What does not, such as a frozen base, is held once.
Each replica has a complete run directory below the workdir: that of the run made alone.

A run without these axes is one replica whose arrays have no such axis (`replica_axis.ReplicaAxis.size` 0).
"""

import contextlib
import dataclasses
import itertools
import logging

import jax
import numpy as np

from training import config as config_lib
from training import continuation, generated, hosts, run_directory, sharding
from training.checkpoint import Checkpoints
from training.config import ConfigError
from training.metric_writer import MetricWriter
from training.replica_axis import share_frozen, stack_replicas

log = logging.getLogger("triptych")

FAILED = "failed.json"  # in the run directory of a replica with an update that was not finite


@dataclasses.dataclass(frozen=True)
class Replica:
    """One run: its name ('' for a run alone), its resolved config, its run directory."""

    name: str
    config: object
    folder: object

    @classmethod
    def of(cls, config, workdir, **axes):
        """The run at a point of the grid over `seed` and `learning_rate`; either may be absent."""
        name = replica_name(axes)
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
        """This replica with the resolved config of the first of its group, and its own seed and optimizer."""
        own = {"seed": self.config.seed, "optimizer": self.config.optimizer}
        return dataclasses.replace(self, config=dataclasses.replace(config, **own))


def replica_name(axes) -> str:
    """'learning_rate=0.001,seed=3' of {'learning_rate': 0.001, 'seed': 3}: exact, so that names differ."""
    texts = {axis: f"{value:g}" for axis, value in axes.items()}
    texts |= {axis: repr(value) for axis, value in axes.items() if float(texts[axis]) != value}
    return ",".join(f"{axis}={text}" for axis, text in texts.items())


def expand(config, workdir) -> list[list[Replica]]:
    """The replicas of a resolved config, in groups that are trained together; [[the run]] without axes.

    Those that have scores are a group, those that have started another, and new ones a third: seeds may
    be added to the config.
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
        resolved = config_lib.to_dict(config)
        record = {"kind": "replicas", "config": resolved, "model": resolved["model"]}
        run_directory.write_json(folder / "config.json", record)
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    replicas = [Replica.of(config, workdir, **point) for point in points]
    failed = [replica.name for replica in replicas if (replica.folder / FAILED).exists()]
    replicas = [replica for replica in replicas if replica.name not in failed]
    if failed:
        log.warning(
            f"not trained, because an earlier update was not finite: {', '.join(failed)}; delete the "
            "directory of one to train it again"
        )
    if not replicas:
        raise ConfigError(f"every replica in {folder} has failed; lower the learning rate")
    groups = {"finished": [], "started": [], "new": []}
    for replica in replicas:
        resumes = run_directory.resumes(replica.folder)
        finished = resumes and (replica.folder / "scores.json").exists()
        state = "finished" if finished else "started" if resumes else "new"
        groups[state].append(replica)
    return [group for group in groups.values() if group]


class ReplicaWriters:
    """The metrics and checkpoints of replicas, a context manager.

    Args:
      group: [Replica].
      converter: StepConverter.
      best: '+metric' or '-metric' that the best checkpoint is chosen by, '' for none.
    """

    def __init__(self, group, converter, best):
        self.group = group
        self.failed = set()  # numbers of replicas with an update that was not finite
        config, self._opened = group[0].config, contextlib.ExitStack()
        keep_period = converter.steps(config.checkpoint.keep_period, "checkpoint.keep_period")
        options, logs = config.checkpoint, (config.logging.tensorboard, config.logging.wandb)
        # Two, so that after a kill during a save all replicas still have one common step.
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
            if number in self.failed:
                continue
            own = {
                name: float(value[number]) if np.ndim(value) else value
                for name, value in values.items()
            }
            writer.write(step, split, own)

    def write_samples(self, step, task, split, predictions):
        """Shows generated texts: all of them in event files, some of the first replica in the log."""
        kept = [number for number in range(len(self.group)) if number not in self.failed]
        found = [(self._metrics[n], task.samples(split, predictions[n])) for n in kept]
        generated.show(found, f"{split}/generated", step)

    def write_runs(self, continued, start, task, manifest):
        """run_directory.write_run for each replica; continued: the continuation.Continuation of each."""
        for replica, each in zip(self.group, continued, strict=True):
            resolved, record = config_lib.to_dict(replica.config), each.record(start)
            run_directory.write_run(replica.folder, resolved, "finetune", task, record, manifest)

    def flush(self):
        """Puts the metrics on disk."""
        for writer in self._metrics:
            writer.flush()

    def save(self, axis, state, values):
        """Saves a checkpoint of each replica; values: [{metric: value}] of its evaluation, or None."""
        self.wait()  # so that after a kill no replica is more than one checkpoint ahead
        for number, checkpoints in enumerate(self._checkpoints):
            if number not in self.failed:
                checkpoints.save(axis.take_replica(state, number), values and values[number])
                # Orbax's barriers are not named by directory: saves at the same time would collide.
                if jax.process_count() > 1:
                    checkpoints.wait()

    def mark_failed(self, number, update):
        """Records that an update of a replica was not finite; the others continue without it."""
        if number in self.failed:
            return
        self.failed.add(number)
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

    def restore_or_init(self, restore, init, size, mesh):
        """(whether the replicas were restored, their step, *replica_axis.stack_replicas(...)).

        All have the same step. A program that is killed while it saves leaves some replicas a checkpoint
        ahead: it is set aside, and its updates are made again. Raises ConfigError if more would be lost.

        Args:
          restore, init: functions of (number, Checkpoints) that return (TrainState, frozen); the
            state is None if there is nothing to restore.
        """
        numbered = list(enumerate(self._checkpoints))
        while True:
            if len(numbered) > 1:
                self._align()
            found = list(share_frozen(restore(*pair) for pair in numbered))
            steps = {-1 if state is None else int(state.step) for state, _ in found}
            if len(steps) == 1:
                break
        resumed, start = steps != {-1}, max(0, *steps)
        if not resumed:
            found = list(share_frozen(init(*pair) for pair in numbered))
        return resumed, start, *stack_replicas(found, size, mesh)

    def _align(self):
        """Sets aside the checkpoints that some replicas lack, so that all have the same newest step.

        Raises ConfigError if a kill during a save or one damaged checkpoint is not the reason."""
        kept = [each.steps() for each in self._checkpoints]
        common = max(set.intersection(*kept), default=-1)
        newest = [max(steps, default=-1) for steps in kept]
        later = [path.name for each in self._checkpoints for path in each.after(common)]
        broken = any(name.endswith(".broken") for name in later)
        # If no checkpoint is damaged, a replica with step 0 alone stopped before its first update.
        ahead = [
            sorted(n for n in each if n > (common if broken else max(common, 0))) for each in kept
        ]
        lost = max(map(len, ahead)) > 2 or common < max(min(newest), int(broken))
        if any(ahead) and lost:
            first, last = (newest.index(pick(newest)) for pick in (max, min))
            front, back = (self._checkpoints[n].directory.parent for n in (first, last))
            raise ConfigError(
                f"{front} has checkpoints {ahead[first]} that {back} lacks, and replicas continue from the "
                f"same one: restore those that are renamed *.broken, move {back} away to train it again "
                f"from its start, or continue {front} alone, with --workdir={front}"
            )
        for replica, each, steps in zip(self.group, self._checkpoints, ahead, strict=True):
            if steps:
                continuation.set_aside(replica.folder, common, each)
            elif not broken:  # unfinished saves in a bucket
                each.move_after(common, None)


def tasks_of(group, task) -> list:
    """The LoadedTask of each replica: `task` with its seed. Raises ConfigError if their programs differ."""
    tasks = [task.with_seed(replica.config.seed.data) for replica in group]
    for replica, each in zip(group, tasks, strict=True):
        if each != task or each.epoch_size != task.epoch_size:
            raise ConfigError(
                f"the label subsets of {replica.name!r} and {group[0].name!r} give other class weights, and "
                "replicas share one program: set task.class_weights to numbers, or run one seed at a time"
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
