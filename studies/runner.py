"""The engine of every study: executes the runs that have not finished, one record per finished run.

studies/three_ways.py, tune.py and objectives.py plan the runs; train.run and finetune.run do the work.
"""

import contextlib
import dataclasses
import logging
import pathlib
import shutil
import statistics
import time

from studies import config as plans
from studies import records
from training import cli, logs
from training import config as configs
from training.config import ConfigError
from training.schema import FinetuneConfig, PretrainConfig

log = logging.getLogger("triptych.studies")

# What a report says about code and machine, from the manifest of a run.
ENVIRONMENT = ("command", "commit", "python", "versions", "devices", "cores")


class Runner:
    """Executes the runs of one study in one directory.

    Args:
      plan: StudyConfig or ComparisonConfig.
      workdir: directory of the study.
      entry_points: (pretrain, finetune), functions of (config, workdir) -> Result; None: train.run and
        finetune.run.
    """

    def __init__(self, plan, workdir, entry_points=None):
        self.plan, self.workdir = plan, pathlib.Path(workdir)
        self.entry_points = entry_points or import_entry_points()
        log.setLevel(logging.INFO)

    def start(self, pretraining, cells):
        """Checks all configs and counts the runs that have finished, before anything is executed.

        Args:
          pretraining: {name: ConfigDict} of the pretraining runs.
          cells: the finetuning runs.

        Raises ConfigError if a config is not valid, or differs from that of a finished run.
        """
        pretrained = [
            self._find(plans.pretrain_folder(name), PretrainConfig, config)
            for name, config in pretraining.items()
        ]
        finetuned = [
            self._find(cell.folder, FinetuneConfig, self._finetune_config(cell))
            if cell.learning_rate
            else records.find(self.workdir, cell.folder)
            for cell in cells
        ]
        self.progress = Progress(pretraining=pretrained, finetuning=finetuned)
        for kind, total in self.progress.total.items():
            log.info(
                f"{self.plan.title}: {total} {kind} runs, {total - self.progress.left[kind]} finished"
            )

    def pretrain(self, name, config):
        """The record of a pretraining run, which is executed unless it has finished."""
        logs.banner(f"{name}: pretraining")

        def describe(run_dir, result):
            manifest = records.read(run_dir / "manifest.json")
            steps = manifest["total_steps"]
            return {
                "base_model": name,
                "objective": configs.resolve(PretrainConfig, config).objective.name,
                "num_steps": steps,
                "matched": {  # over the whole run; tokens of both stacks, parameters without embeddings
                    "tokens": steps * manifest["tokens_per_step"],
                    "parameters": manifest["parameters"]["non_embedding"],
                    "flops": steps * manifest["flops_per_step"],
                    "targets": steps * manifest["targets_per_step"],
                },
                "validation": logs.last_metrics(run_dir, "validation"),
                "target_entropy": manifest["target_entropy"]["loss"],
                "fingerprint": manifest["data"],
                "environment": {key: manifest[key] for key in ENVIRONMENT},
                "curves": {
                    split: records.curve(run_dir, split, "loss")
                    for split in ("train", "validation")
                },
            }

        folder = plans.pretrain_folder(name)
        record, is_new = self._run(folder, PretrainConfig, config, self.entry_points[0], describe)
        if is_new:
            loss = record["validation"].get("loss")
            result = "" if loss is None else f"validation loss {loss:.3f}"
            self.progress.log_finished("pretraining", name, record["seconds"], result)
        return record

    def probe(self, name, config):
        """FLOPs per step of a pretraining run of one step."""

        def describe(run_dir, result):
            return {"flops_per_step": records.read(run_dir / "manifest.json")["flops_per_step"]}

        folder, pretrain = f"probe/{plans.slug(name)}", quiet()(self.entry_points[0])
        record, _ = self._run(folder, PretrainConfig, config, pretrain, describe)
        return record["flops_per_step"]

    def finetune(self, cells):
        """The records of cells, in order. Those that have not finished are executed; those that differ in
        seed alone together."""
        left = {}
        for cell in cells:
            if self._find(cell.folder, FinetuneConfig, self._finetune_config(cell)) is None:
                left.setdefault(cell.group if self.plan.replicas else cell, []).append(cell)
        for group in left.values():
            self._finetune_together(group)
        return [records.find(self.workdir, cell.folder) for cell in cells]

    def _finetune_together(self, cells):
        """Executes cells that differ in seed alone, and writes their records."""
        seeds = tuple(cell.seed for cell in cells) if len(cells) > 1 else ()
        folder = pathlib.Path(cells[0].folder)
        run_dir, start = self.workdir / (folder.parent if seeds else folder), time.perf_counter()
        with quiet():
            self.entry_points[1](self._finetune_config(cells[0], seeds), str(run_dir))
        seconds = (time.perf_counter() - start) / len(cells)
        for cell in cells:
            run_dir = self.workdir / cell.folder
            scores = records.read(run_dir / "scores.json")
            record = {
                **dataclasses.asdict(cell),
                "validation": scores["validation/accuracy"],
                "test": scores["test/accuracy"],
                "curves": {
                    "accuracy": records.curve(run_dir, "validation", "accuracy"),
                    "loss": records.curve(run_dir, "train", "loss"),
                },
                "seconds": seconds,
                "config": self._finetune_config(cell).to_dict(),
            }
            records.write(run_dir / "record.json", record)
            if not self.plan.keep_checkpoints:
                shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
            split = "validation" if cell.seed in self.plan.tuning_seeds else "test"
            result = f"{split} {record[split]:.3f}"
            self.progress.log_finished("finetuning", str(cell), seconds, result)

    def _finetune_config(self, cell, seeds=()):
        base_model = self.workdir / plans.pretrain_folder(cell.base_model)
        return plans.finetune_config(self.plan, cell, base_model, seeds)

    def _run(self, folder, schema, config, entry_point, describe):
        """(record, whether the run was executed now)."""
        record = self._find(folder, schema, config)
        if record is not None:
            return record, False
        run_dir, start = self.workdir / folder, time.perf_counter()
        result = entry_point(config, str(run_dir))
        seconds = time.perf_counter() - start
        record = {**describe(run_dir, result), "seconds": seconds, "config": config.to_dict()}
        records.write(run_dir / "record.json", record)
        return record, True

    def _find(self, folder, schema, config):
        """The record of a run, None if it has not finished. Raises ConfigError if its config differs."""
        resolved = configs.to_dict(configs.resolve(schema, config))
        record = records.find(self.workdir, folder)
        if record is None:
            return None
        stored = record["config"]
        if schema is FinetuneConfig:  # the study may have been moved
            stored = {**stored, "init_from": config.init_from}
        stored = configs.to_dict(configs.resolve(schema, stored))
        if changed := configs.difference(stored, resolved):
            changes = "; ".join(f"{key} was {was!r}, is {now!r}" for key, was, now in changed[:4])
            raise ConfigError(
                f"{self.workdir / folder} is a finished run with another config: {changes}; use another "
                f"--workdir, or remove that directory"
            )
        return record


class Progress:
    """The progress of a study, and the time left, estimated from the durations of its finished runs.

    Args:
      **runs: {kind: [record, or None for each run that has not finished]}.
    """

    def __init__(self, **runs):
        self.total = {kind: len(found) for kind, found in runs.items()}
        self.left = {kind: found.count(None) for kind, found in runs.items()}
        self.seconds = {kind: [r["seconds"] for r in found if r] for kind, found in runs.items()}

    def log_finished(self, kind, name, seconds, result):
        """Counts a finished run and logs it with the time left; '+': without runs not timed yet."""
        self.left[kind] -= 1
        self.seconds[kind].append(seconds)
        # The median: the first run of a kind compiles its programs.
        timed = {kind: statistics.median(times) for kind, times in self.seconds.items() if times}
        eta = logs.format_duration(sum(self.left[kind] * each for kind, each in timed.items()))
        untimed = any(count for kind, count in self.left.items() if kind not in timed)
        number = f"{self.total[kind] - self.left[kind]:>3}/{self.total[kind]}"
        log.info(
            f"[{number}] {name:<64} {result:<21} {logs.format_duration(seconds)}  "
            f"eta {eta}{' +' if untimed else ''}"
        )


@contextlib.contextmanager
def quiet():
    """Silences the log of a run below warnings; the study logs one line for it."""
    logger = logging.getLogger("triptych")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def import_entry_points():
    """train.run and finetune.run, imported here so that --help and tests do not import them."""
    import finetune
    import train

    return train.run, finetune.run


def run_program(argv, description, schema, run):
    """The command line of a study: parses it, checks the plan, and calls `run(plan, workdir)`."""
    workdir = ("--workdir", {"required": True, "help": "directory of the study"})
    given, config = cli.parse_args(argv, description, (workdir,))
    plan = configs.resolve(schema, config)
    if given.print_config:
        print("\n".join(configs.describe(plan, config)))
        return
    cli.enable_compilation_cache()
    run(plan, given.workdir)
