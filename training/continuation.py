"""How a command continues the run in its directory: as it is, with a new length, or from a checkpoint.

Resuming never changes an update that the run holds. `resume_from` names the checkpoint from which the
optimizer may change; later checkpoints and metrics are set aside. Used by the entry files.
"""

import dataclasses
import logging
import math

import jax
import numpy as np
from etils import epath

from training import checkpoint, metric_writer, paths, run_directory, schedules
from training import config as config_lib
from training.config import ConfigError
from training.frozen import FILE, OWN
from training.param_rules import flatten_params, split_params
from training.sharding import any_across_processes, is_main_process, placed
from training.state import abstract_state

log = logging.getLogger("triptych")

RESULTS = (
    "predictions_*",
    "nbest_*",
    "null_odds_*",
    "report_*",
)  # of finetuning, beside scores.json
# Fields that may change between a stop and the next start: none of them changes a parameter.
CHANGEABLE = ("checkpoint.", "logging.", "evaluation.", "mesh.", "data.cache_dir", "data.workers",
              "data.threads", "data.prefetch", "task.num_generated", "task.final_generation",
              "task.generation_metrics", "task.num_beams", "task.length_penalty", "resume_from",
              "profile", "training.stop_after", "training.remat", "training.scan_layers",
              "training.max_hours")  # fmt: skip
# Fields that may change if the learning rates of all updates in the run stay the same.
SCHEDULE = ("training.duration", "optimizer.learning_rate", "optimizer.schedule", "optimizer.warmup",
            "optimizer.cooldown", "optimizer.final_lr_frac")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Continuation:
    """The plan for a command in its run directory: a new run, a resume, or a return to a checkpoint.

    Attributes:
      folder: the run directory.
      step: the checkpoint to restore; -1: the newest.
      changes: {key: (old value, new value)} of the fields that change from here on.
      schedule: one line about the learning rates.
      optimizer: the OptimizerConfig that the checkpoints were saved with; None for a new run.
    """

    folder: object
    step: int
    changes: dict
    schedule: str
    optimizer: object = None

    @classmethod
    def of(cls, folder, config, converter, learning_rates):
        """The Continuation of the run in `folder` by this config.

        Args:
          folder: run directory.
          config: the resolved config, which `check_config` accepted.
          converter: durations.StepConverter of this config.
          learning_rates: float32[total], those of this config.

        Raises:
          ConfigError: a learning rate of an update that the run holds would change, or the run holds more
            updates than `training.duration`, and `resume_from` does not go back before them.
        """
        steps = checkpoint.steps_of(folder)
        line = schedules.describe(config.optimizer, learning_rates)
        if not (run_directory.is_started(folder) and run_directory.read_config(folder, True)):
            return cls(folder, -1, {}, line)
        stored, differences = _differences(folder, config)
        before = config_lib.resolve(type(config), stored)
        held, old = max(steps, default=0), learning_rates
        earlier = converter.of_length(before.training.duration)
        if any(key.startswith(SCHEDULE) for key in differences):
            old = schedules.learning_rates(before.optimizer, earlier)
        unfreezing = [
            length.steps(each.optimizer.gradual_unfreezing, "optimizer")
            for each, length in ((before, earlier), (config, converter))
        ]
        if held and unfreezing[0] != unfreezing[1] and config.resume_from < 0:
            raise ConfigError(
                f"config.optimizer.gradual_unfreezing={config.optimizer.gradual_unfreezing!r} is now "
                f"{unfreezing[1]} steps, and {unfreezing[0]} in {str(folder)!r}; give it in steps"
            )
        others = any(not key.startswith(SCHEDULE) for key in differences)
        step, same = config.resume_from, _num_equal(old, learning_rates, held)
        if step >= 0 and (stored.get("resume_from") != step or same < held or others):
            _check_step(folder, step, steps)
            if len(learning_rates) < step:
                raise ConfigError(
                    f"config.training.duration={config.training.duration!r} is {len(learning_rates):,} "
                    f"steps, fewer than config.resume_from={step}; raise it, or name an earlier checkpoint"
                )
        elif same < held:
            changed = ", ".join(
                f"{key}: {was!r} -> {now!r}" for key, (was, now) in differences.items()
            )
            if same == len(learning_rates):
                raise ConfigError(
                    f"config.{changed} ends before update {held:,} of {str(folder)!r}; raise it, or go back "
                    f"with --config.resume_from=STEP to one of {[s for s in steps if s <= same]}"
                )
            raise ConfigError(
                f"config.{changed} changes the past of {str(folder)!r}: update {same + 1:,} had learning "
                f"rate {old[same]!s}, now {learning_rates[same]!s}. Add "
                f"{_remedy(before, config, converter, steps)}, or start another --workdir with "
                f"--config.init_from={folder}"
            )
        else:
            step = -1
        return cls(folder, step, differences, line, before.optimizer)

    def describe(self):
        """Lines for the log."""
        changes = [f"config.{key}: {was!r} -> {now!r}" for key, (was, now) in self.changes.items()]
        return [*changes, self.schedule]

    @staticmethod
    def describe_resumed(step, init_from):
        """A line for the log of a run that resumes from `step`; init_from: RUN@STEP or ''."""
        return f"resumed from checkpoint {step} of this run" + f" (init_from {init_from})" * bool(
            init_from
        )

    def restore(self, checkpoints, mesh, params, frozen_paths, optimizer):
        """(the TrainState to start from, the frozen parameters), (None, {}) for a new run.

        Raises ConfigError if the checkpoint cannot be read or does not fit.

        Args:
          checkpoints: checkpoint.Checkpoints of the run.
          mesh: the mesh.
          params, frozen_paths: the abstract parameters of the run, and the paths of the frozen ones.
          optimizer: optimizers.Optimizer of the updates to come.
        """
        if not run_directory.resumes(self.folder):
            _remove_leftovers(self.folder, checkpoints)
            return None, {}
        params, frozen = split_params(params, frozen_paths)
        frozen = checkpoint.read_frozen(self.folder, placed(mesh, frozen))
        if missing := sorted(frozen_paths - flatten_params(frozen).keys()):
            raise ConfigError(
                f"{missing[0]} is frozen, but {self.folder / FILE} does not say where it is (an earlier "
                f"version wrote none); restore it, or start another --workdir with "
                f"--config.init_from={self.folder}"
            )
        saved = dataclasses.replace(optimizer, config=self.optimizer or optimizer.config)
        state = checkpoints.restore(abstract_state(mesh, params, saved), self.step)
        if state is None:
            return None, {}
        if saved != optimizer:  # clipping and weight decay have no arrays, but a place in the tree
            target, structure = jax.tree.flatten(abstract_state(mesh, params, optimizer).opt_state)
            leaves = jax.tree.leaves(state.opt_state)
            if len(target) != len(leaves):
                raise ConfigError(
                    f"checkpoint {int(state.step)} of {str(self.folder)!r} has an optimizer state of "
                    f"{len(leaves)} arrays, this config one of {len(target)}; change "
                    f"config.optimizer.learning_rate, warmup, grad_clip_norm or weight_decay alone"
                )
            leaves = [x.astype(new.dtype) for x, new in zip(leaves, target, strict=True)]
            opt_state = jax.tree.unflatten(structure, leaves)
            state = state.replace(opt_state=opt_state, optimizer=optimizer)
        if self.step >= 0 or self.changes:
            set_aside(self.folder, int(state.step), checkpoints)
        return state, frozen

    def record(self, step):
        """The entry of the manifest's `starts`: where this start began, and what it changed."""
        named = {"resume_from": self.step} if self.step >= 0 else {}
        return {
            "step": step,
            **named,
            "changes": {key: list(pair) for key, pair in self.changes.items()},
            "schedule": self.schedule,
        }


def check_config(folder, config):
    """Raises ConfigError if the directory holds a run whose config differs in a field that changes the
    updates that it holds, or has no checkpoint `resume_from`.

    config: the resolved config, a tree of dataclasses."""
    steps = checkpoint.steps_of(folder)
    if not run_directory.is_started(folder):
        if config.resume_from > 0 or (config.resume_from == 0 and not steps):
            raise ConfigError(
                f"config.resume_from={config.resume_from}, but --workdir={str(folder)!r} holds no run; "
                f"leave it out"
            )
        return
    stored, differences = _differences(folder, config)
    named = config.resume_from >= 0
    if named and stored.get("resume_from") != config.resume_from:
        _check_step(folder, config.resume_from, steps)

    def may_change(key):
        of_optimizer = key.startswith("optimizer.") and key != "optimizer.name"
        return key.startswith(SCHEDULE) or (named and of_optimizer)

    refused = {key: pair for key, pair in differences.items() if not may_change(key)}
    if refused:
        changed = [f"{key}: {was!r} -> {now!r}" for key, (was, now) in refused.items()]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        remedy = "choose another --workdir, or restore the old values"
        if steps and all(k.startswith("optimizer.") and k != "optimizer.name" for k in refused):
            remedy += f"; --config.resume_from={steps[-1]} changes them from that checkpoint on"
        raise ConfigError(
            f"--workdir={str(folder)!r} holds a run of another config ({'; '.join(changed[:3])}{more}); "
            f"{remedy}"
        )


def _num_equal(old, new, held):
    """The number of learning rates before the first difference of both schedules, at most `held`."""
    shorter = min(held, len(old), len(new))
    different = np.flatnonzero(old[:shorter] != new[:shorter])
    return int(different[0]) if len(different) else shorter


def _remedy(before, config, converter, steps):
    """Flags with which a longer schedule is accepted: the old warmup, and if this does not keep the past,
    the newest checkpoint before the change, or the newest of all."""
    earlier, flags = converter.of_length(before.training.duration), []
    old = schedules.learning_rates(before.optimizer, earlier)
    warmup = schedules.warmup_steps(before.optimizer, earlier)
    if (
        warmup != schedules.warmup_steps(config.optimizer, converter)
        and warmup < converter.total_steps
    ):
        flags.append(f"--config.optimizer.warmup='{warmup} steps'")
        config = dataclasses.replace(
            config, optimizer=dataclasses.replace(config.optimizer, warmup=f"{warmup} steps")
        )
    new, held = schedules.learning_rates(config.optimizer, converter), steps[-1]
    same = _num_equal(old, new, held)
    if same < held:
        step = max([step for step in steps if 0 < step <= same], default=held)
        then = f" (update {step + 1:,} then has {new[step]!s})" if step < len(new) else ""
        flags.append(f"--config.resume_from={step}{then}")
    return " ".join(flags)


def _check_step(folder, step, steps):
    if step not in steps:
        raise ConfigError(
            f"config.resume_from={step}: {str(folder)!r} has no checkpoint {step}; it has {steps}"
        )


def _differences(folder, config):
    """(the stored config as nested dicts, {key: (old value, new value)} of the fields that differ).

    Fields that may always change are left out, and another spelling of the same init_from."""
    existing = run_directory.read_config(folder, missing_ok=True)
    if existing is None:
        return {}, {}
    stored = existing["config"]
    try:  # a field that is newer than the run has its default there
        stored = config_lib.to_dict(config_lib.resolve(type(config), stored))
    except ConfigError:
        log.warning(f"{folder}/config.json has fields of another version: comparing it unchanged")
    return stored, {
        key: (was, now)
        for key, was, now in config_lib.difference(stored, config_lib.to_dict(config))
        if not key.startswith(CHANGEABLE) and not (key == "init_from" and paths.same(was, now))
    }


def _remove_leftovers(folder, checkpoints):
    """Removes the files of a run that stopped before its first update."""
    if is_main_process():
        for name in ("config.json", "manifest.json", FILE, *run_directory.TOKENIZER_FILES):
            (folder / name).unlink(missing_ok=True)
        if (folder / OWN).is_dir():
            epath.Path(folder / OWN).rmtree()
    checkpoints.move_after(-1, None)


def set_aside(folder, step, checkpoints):
    """Moves the checkpoints after `step` and the results to set_aside/N, and copies metrics and config.

    The lines after `step` leave metrics.jsonl when it is opened. The copies come first: a crash in the
    middle loses nothing, and the same command finishes the job."""
    metrics, scores = folder / "metrics.jsonl", folder / "scores.json"
    later = metrics.exists() and metric_writer.lines_up_to(metrics, math.inf, after=step)
    if not (later or scores.exists() or checkpoints.after(step)):
        return
    target = folder / run_directory.SET_ASIDE
    target = target / str(len(list(target.iterdir())) + 1 if target.is_dir() else 1)
    any_across_processes(False)  # no process counts the directories after the first makes one
    if is_main_process():
        target.mkdir(parents=True)
        for file in (metrics, folder / "config.json"):
            if file.exists():
                paths.write_text(target / file.name, file.read_text(encoding="utf-8"))
    moved = checkpoints.move_after(step, target / "checkpoints")
    if is_main_process():
        results = [file for name in RESULTS for file in folder.glob(name)]
        for file in (scores, *results):
            if file.exists():
                file.rename(target / file.name)
    kept = f"checkpoints {', '.join(moved)}" if moved else "no checkpoint"
    log.info(f"{kept} and the metrics after step {step} are set aside in {target}")
