"""Objectives at equal FLOPs: pretrain each candidate, finetune it with paired seeds, and compare.

    python -m studies.objectives --config=configs/comparisons/electra.py --workdir=runs/electra-study

The same command resumes a comparison that was interrupted.
"""

import logging

from studies import config as plans
from studies import records, results, runner, table, tune
from studies.config import Cell, ComparisonConfig
from training import cli, logs
from training import config as configs

log = logging.getLogger("triptych.studies")

PROBE = ("checkpoint.every=never", "evaluation.every=never", "optimizer.warmup=1 step")


def run(comparison, workdir, entry_points=None):
    """Runs or resumes a comparison; returns the content of results.json.

    Args:
      comparison: ComparisonConfig, or a mapping of its fields.
      workdir: directory of the comparison.
      entry_points: as for runner.Runner.
    """
    if not isinstance(comparison, ComparisonConfig):
        comparison = configs.resolve(ComparisonConfig, comparison)
    engine = runner.Runner(comparison, workdir, entry_points)
    logs.banner("FLOPs per step")
    pretraining = equal_flops_configs(comparison, engine)
    tuning = {name: plans.tuning_cells(comparison, name, ("pretrained",)) for name in pretraining}
    planned = [cell for group in tuning.values() for cell in group]
    planned += [
        Cell(name, "pretrained", budget, seed, learning_rate=0.0)
        for name in pretraining
        for budget in comparison.label_budgets
        for seed in comparison.seeds
    ]
    engine.start(pretraining, planned)
    rows, references = [], {}
    for name, config in pretraining.items():
        record = engine.pretrain(name, config)
        logs.banner(f"{name}: finetuning")
        for choice in tune.choose(engine.finetune(tuning[name])):
            budget, learning_rate = choice["label_budget"], choice["learning_rate"]
            cells = [
                Cell(name, "pretrained", budget, seed, learning_rate) for seed in comparison.seeds
            ]
            scores = {record["seed"]: record["test"] for record in engine.finetune(cells)}
            row = {**choice, "test": scores, "matched": record["matched"], "pretraining": record}
            rows.append(row | results.compare(scores, references.get(budget, {})))
            references.setdefault(budget, scores)
    found = {"format": results.FORMAT, "title": comparison.title, "rows": rows}
    records.write(engine.workdir / "results.json", found)
    logs.banner("table")
    for line in lines(comparison, rows):
        log.info(line)
    return found


def equal_flops_configs(comparison, engine):
    """{name: ConfigDict} of the pretraining runs.

    The first candidate takes `num_steps` steps, the others as many as need the same FLOPs, rounded to
    the nearest. A run of one step measures the FLOPs of a step.
    """
    candidates = {candidate[0]: candidate for candidate in comparison.candidates}
    flops = {
        name: engine.probe(name, plans.candidate_config(comparison, candidate, 1, *PROBE))
        for name, candidate in candidates.items()
    }
    budget = comparison.num_steps * next(iter(flops.values()))
    num_steps = {name: max(1, round(budget / per_step)) for name, per_step in flops.items()}
    return {
        name: plans.candidate_config(comparison, candidate, num_steps[name])
        for name, candidate in candidates.items()
    }


def lines(comparison, rows):
    """The table as lines of text."""
    layout = (
        "{name:<26} {labels:>6}  {accuracy:<13}  {difference:<26} {wins:<5} {lr:>6} {steps:>7} {tokens:>8} "
        "{flops:>8} {targets:>8}"
    )
    yield layout.format(
        name="pretrained with", labels="labels", accuracy="test accuracy", wins="wins", lr="lr",
        difference=f"minus {comparison.candidates[0][0]}", steps="steps", tokens="tokens", flops="FLOPs",
        targets="targets",
    )  # fmt: skip
    for row in rows:
        steps = f"{row['pretraining']['num_steps']:,}"
        yield layout.format(**table.columns(row) | {"name": row["base_model"], "steps": steps})
    yield table.NOTE


def main(argv):
    """The command line of this file."""
    runner.run_program(argv, __doc__, ComparisonConfig, run)


if __name__ == "__main__":
    cli.main(main)
