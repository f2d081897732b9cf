"""The main job: pretrain each architecture, finetune from nothing, embeddings and all, and compare.

    python -m studies.three_ways --config=configs/studies/quickstart.py --workdir=runs/quickstart

Every run that ended is a small JSON below the workdir; the same command goes on where it stopped.
"""

import collections
import contextlib
import logging
import pathlib
import shutil
import time

from studies import baselines, config, labels, records, report, results, table
from studies.config import StudyConfig
from training import cli, logs
from training import config as configs

log = logging.getLogger("triptych.studies")


def run(settings, workdir, entries=None, label_source=None):
    """Runs or continues a study and writes its report.

    Args:
      settings: StudyConfig, or a ConfigDict or mapping of its fields.
      workdir: folder of the study.
      entries: (pretrain, finetune), functions of (config, workdir) -> Result; by default those of
        train.py and finetune.py.
      label_source: function (finetuning config) -> labels.Labels; by default that of the task.

    Returns:
      The results, as written to results.json.

    Raises:
      ValueError: the workdir holds another study, or a rate is missing.
    """
    if not isinstance(settings, StudyConfig):
        settings = configs.resolve(StudyConfig, settings)
    pretrain, finetune = entries or default_entries()
    workdir = pathlib.Path(workdir)
    plan = {name: config.cells(settings, name) for name in settings.architectures}
    records.claim(workdir, settings)
    log.setLevel(logging.INFO)
    progress = Progress(workdir, settings, plan)
    log.info(progress.opening())

    logs.banner("classic baseline")
    first = next(iter(plan.values()))[0]
    task = config.finetune_run(settings, first, "")
    log.info(baseline(settings, workdir, lambda: (label_source or labels.of)(task)))

    for architecture in settings.architectures:
        logs.banner(f"{architecture}: pretraining")
        folder = workdir / "pretrain" / architecture
        record = pretraining(settings, architecture, folder, workdir, pretrain, progress)
        logs.banner(f"{architecture}: finetuning")
        for cell in plan[architecture]:
            finetuning(settings, cell, folder, workdir, finetune, progress)
        log.info(f"{architecture}: pretraining ended at a held-out loss of {record['loss']:.3f}")

    logs.banner("report")
    return report.write(workdir)


def baseline(settings, workdir, label_source):
    """Runs the classic baseline where its record does not cover the plan; returns words about it."""
    path = workdir / "baseline.json"
    record = records.read(path)
    wanted = {(budget, seed) for budget in settings.budgets for seed in settings.seeds}
    if record is None or not wanted <= {(c["budget"], c["seed"]) for c in record["cells"]}:
        found = label_source()
        record = baselines.run(
            found.train,
            found.validation,
            found.test,
            found.subset,
            settings.budgets,
            settings.seeds,
        )
        records.write(path, record)
    scores = ", ".join(
        f"{table.baseline_words({'baseline': record}, budget)} at {budget:,} labels"
        for budget in settings.budgets
    )
    return f"{record['name']}: test accuracy {scores}"


def pretraining(settings, architecture, folder, workdir, pretrain, progress):
    """The record of one architecture's pretraining, which runs unless the record is there."""
    path = workdir / "records" / f"pretrain-{architecture}.json"
    record = records.read(path)
    if record is not None:
        return record
    began = time.perf_counter()
    pretrain(config.pretrain_run(settings, architecture), str(folder))
    seconds = time.perf_counter() - began
    manifest = records.read(folder / "manifest.json")
    validation = records.curve(folder, "validation", "loss")
    record = {
        "architecture": architecture,
        "objective": records.read(folder / "config.json")["config"]["objective"]["name"],
        "seconds": seconds,
        "loss": validation[-1][1],
        "target_entropy": manifest["target_entropy"]["loss"],
        "fingerprint": manifest["data"],
        "matched": results.matched(manifest),
        "about": {name: manifest[name] for name in results.ABOUT},
        "curves": {"train": records.curve(folder, "train", "loss"), "validation": validation},
    }
    records.write(path, record)
    progress.done("pretraining", architecture, seconds)
    return record


def finetuning(settings, cell, pretrained, workdir, finetune, progress):
    """The record of one cell, which runs unless the record is there.

    Raises ValueError when the record is of another learning rate.
    """
    path = workdir / "records" / f"{cell.record}.json"
    record = records.read(path)
    if record is not None and record["rate"] != cell.rate:
        raise ValueError(
            f"{path} was finetuned at a rate of {record['rate']:g}, rates now say {cell.rate:g}; expected "
            f"one rate per arm; use another --workdir, or remove that file and {workdir / cell.folder}"
        )
    if record is not None:
        return record
    folder = workdir / cell.folder
    began = time.perf_counter()
    with quiet():
        result = finetune(config.finetune_run(settings, cell, pretrained), str(folder))
    seconds = time.perf_counter() - began
    record = {
        "architecture": cell.architecture,
        "arm": cell.arm,
        "budget": cell.budget,
        "seed": cell.seed,
        "rate": cell.rate,
        "validation": result.metrics["validation/accuracy"],
        "test": result.metrics["test/accuracy"],
        "seconds": seconds,
        "curves": {
            "accuracy": records.curve(folder, "validation", "accuracy"),
            "loss": records.curve(folder, "train", "loss"),
        },
    }
    records.write(path, record)
    if not settings.keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    progress.done("finetuning", str(cell), seconds, f"test {record['test']:.3f}")
    return record


class Progress:
    """How far the study is and how long it will still take, from what the runs so far took."""

    def __init__(self, workdir, settings, plan):
        wanted = {
            "pretraining": [f"pretrain-{name}" for name in plan],
            "finetuning": [cell.record for group in plan.values() for cell in group],
        }
        self.left, self.seconds = {}, collections.defaultdict(list)
        for kind, names in wanted.items():
            found = [records.read(workdir / "records" / f"{name}.json") for name in names]
            self.seconds[kind] = [record["seconds"] for record in found if record is not None]
            self.left[kind] = found.count(None)
        self.total = {kind: len(names) for kind, names in wanted.items()}
        self.title = settings.title

    def opening(self):
        """One line: what is planned, and what is there already."""
        words = [
            f"{self.total[kind]} {kind} runs" + (f" ({done} of them done)" if done else "")
            for kind in self.total
            if (done := self.total[kind] - self.left[kind]) is not None
        ]
        return f"{self.title}: {' and '.join(words)}"

    def done(self, kind, name, seconds, words=""):
        """Counts a run and says so, with the time that is left."""
        self.left[kind] -= 1
        self.seconds[kind].append(seconds)
        number = self.total[kind] - self.left[kind]
        log.info(
            f"[{number:>3}/{self.total[kind]}] {name:<48} {words}  {logs.clock(seconds)}  "
            f"whole study: {self.remaining()}"
        )

    def remaining(self):
        """'about 0:12:30 left'; a kind of run that has not been timed yet is left out, said with a +."""
        left, unknown = 0.0, False
        for kind, count in self.left.items():
            if self.seconds[kind]:
                # Later runs share compiled steps with earlier ones: the median, not the mean.
                times = sorted(self.seconds[kind])
                left += count * times[len(times) // 2]
            elif count:
                unknown = True
        return f"about {logs.clock(left)}{' +' if unknown else ''} left"


@contextlib.contextmanager
def quiet():
    """The many short runs say nothing below a warning; the study says one line for each."""
    logger = logging.getLogger("triptych")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def default_entries():
    """train.run and finetune.run; imported here, so that a test or a report loads no model."""
    import finetune
    import train

    return train.run, finetune.run


def main(argv):
    """Command line of this file."""
    flags = (("--workdir", {"required": True, "help": "folder of the study"}),)
    given, settings = cli.arguments(argv, __doc__.splitlines()[0], flags)
    if given.print_config:
        print("\n".join(configs.describe(configs.resolve(StudyConfig, settings), settings)))
        return
    cli.compilation_cache()
    run(settings, given.workdir)


if __name__ == "__main__":
    cli.main(main)
