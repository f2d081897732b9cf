"""The main study: pretrain each architecture, finetune it in every condition, and compare.

    python -m studies.three_ways --config=configs/studies/quickstart.py --workdir=runs/quickstart

The same command resumes a study that was interrupted.
"""

import dataclasses
import logging
import pathlib

from studies import baseline, records, report, runner, table
from studies import config as plans
from studies.config import StudyConfig
from training import cli, logs
from training import config as configs
from training.schema import FinetuneConfig

log = logging.getLogger("triptych.studies")


def run(study, workdir, entry_points=None, load_labels=baseline.load):
    """Runs or resumes a study and writes its report.

    Args:
      study: StudyConfig, or a mapping of its fields.
      workdir: directory of the study.
      entry_points: as for runner.Runner.
      load_labels: function (resolved section `task`) -> {split: Examples}.

    Returns:
      The content of results.json.

    Raises:
      ValueError: a learning rate is missing, or the workdir holds runs of another study.
    """
    if not isinstance(study, StudyConfig):
        study = configs.resolve(StudyConfig, study)
    workdir = pathlib.Path(workdir)
    pretraining = {name: plans.pretrain_config(study, name) for name in study.architectures}
    cells = {name: plans.study_cells(study, name) for name in study.architectures}
    engine = runner.Runner(study, workdir, entry_points)
    engine.start(pretraining, [cell for group in cells.values() for cell in group])

    logs.banner("classic baseline")
    log.info(run_baseline(study, workdir, load_labels))
    records.write(workdir / "study.json", configs.to_dict(study))

    for name in study.architectures:
        engine.pretrain(name, pretraining[name])
        logs.banner(f"{name}: finetuning")
        engine.finetune(cells[name])

    logs.banner("report")
    return report.write(workdir)


def run_baseline(study, workdir, load_labels):
    """Scores the classic baseline unless it has been scored for this plan; returns a line about it."""
    cell = plans.study_cells(study, study.architectures[0])[0]
    config = plans.finetune_config(study, cell, "any")
    task = dataclasses.replace(configs.resolve(FinetuneConfig, config).task, num_train_examples=0)
    path = workdir / "baseline.json"
    plan = dataclasses.asdict(task) | {"budgets": [*study.label_budgets], "seeds": [*study.seeds]}
    record = records.read(path)
    if record is None or record["plan"] != plan:
        scores = baseline.run(load_labels(task), study.label_budgets, study.seeds)
        record = {"plan": plan, **scores}
        records.write(path, record)
    scores = ", ".join(
        f"{table.baseline_accuracy(record, budget)} with {budget:,} labels"
        for budget in study.label_budgets
    )
    return f"{record['name']}: test accuracy {scores}"


def main(argv):
    """The command line of this file."""
    runner.run_program(argv, __doc__, StudyConfig, run)


if __name__ == "__main__":
    cli.main(main)
