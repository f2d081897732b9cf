"""Learning rates of a study: a grid of equal size for every condition, chosen on validation alone.

    python -m studies.tune --config=configs/studies/quickstart.py --workdir=runs/quickstart

Has seeds of its own and shares the pretraining runs of the study in the same workdir. Prints the rows
for `learning_rates` in the config of the study.
"""

import logging

from studies import config as plans
from studies import records, runner
from studies.config import StudyConfig
from sweeps import statistics
from training import cli, logs
from training import config as configs

log = logging.getLogger("triptych.studies")


def run(study, workdir, entry_points=None):
    """Runs or resumes the grid; writes tune.json.

    Args: as for studies.three_ways.run.

    Returns:
      ((architecture, condition, label budget, learning rate), ...).
    """
    if not isinstance(study, StudyConfig):
        study = configs.resolve(StudyConfig, study)
    engine = runner.Runner(study, workdir, entry_points)
    pretraining = {name: plans.pretrain_config(study, name) for name in study.architectures}
    cells = {name: plans.tuning_cells(study, name, study.conditions) for name in pretraining}
    engine.start(pretraining, [cell for group in cells.values() for cell in group])
    choices = []
    for name, config in pretraining.items():
        engine.pretrain(name, config)
        logs.banner(
            f"{name}: {len(study.learning_rate_grid)} learning rates for each of "
            f"{len(study.conditions)} conditions"
        )
        choices += choose(engine.finetune(cells[name]))
    records.write(engine.workdir / "tune.json", choices)
    for choice in choices:
        log.info(describe(choice))
    rows = tuple(
        (choice["base_model"], choice["condition"], choice["label_budget"], choice["learning_rate"])
        for choice in choices
    )
    log.info("for the config of the study:\n    config.learning_rates = (")
    log.info("".join(f"        {row!r},\n" for row in rows) + "    )")
    return rows


def choose(cells):
    """The learning rate with the best mean validation accuracy (the lowest of equal ones) for every
    base model, condition and label budget among the cells (records) of a grid."""
    groups = {}
    for cell in sorted(cells, key=lambda cell: cell["learning_rate"]):
        group = cell["base_model"], cell["condition"], cell["label_budget"]
        scores = groups.setdefault(group, {}).setdefault(cell["learning_rate"], [])
        scores.append(cell["validation"])
    choices = []
    for (base_model, condition, label_budget), scores in groups.items():
        means = {lr: statistics.spread(values).mean for lr, values in scores.items()}
        best = max(means, key=means.get)
        choice = {"base_model": base_model, "condition": condition, "label_budget": label_budget}
        choice |= {"learning_rate": best, "validation": list(means.items())}
        choices.append(choice | {"is_at_edge": best in (min(means), max(means))})
    return choices


def describe(choice):
    """One line about a choice: the validation accuracy of every learning rate."""
    name = f"{choice['base_model']} · {choice['condition']} · {choice['label_budget']:,} labels"
    scores = "  ".join(
        f"{lr:g}: {mean:.3f}{'*' if lr == choice['learning_rate'] else ' '}"
        for lr, mean in choice["validation"]
    )
    return f"{name:<42} {scores}{'  (best at an edge of the grid)' if choice['is_at_edge'] else ''}"


def main(argv):
    """The command line of this file."""
    runner.run_program(argv, __doc__, StudyConfig, run)


if __name__ == "__main__":
    cli.main(main)
