"""Learning rates for a study: a grid of the same size for every arm, judged on validation alone.

    python -m studies.tune --config=configs/studies/quickstart.py --workdir=runs/quickstart

Uses seeds of its own; shares the pretraining with the study of the same workdir. Prints the rows to
put into the study's `rates`.
"""

import logging
import pathlib

from studies import config, records, statistics, three_ways
from studies.config import StudyConfig
from training import cli, logs
from training import config as configs

log = logging.getLogger("triptych.studies")


def run(settings, workdir, entries=None):
    """Runs or continues the grid; returns the rows ((architecture, arm, labels, rate), ...).

    Args: as studies.three_ways.run. The figures behind the rows are written to tune.json.
    """
    if not isinstance(settings, StudyConfig):
        settings = configs.resolve(StudyConfig, settings)
    pretrain, finetune = entries or three_ways.default_entries()
    workdir = pathlib.Path(workdir)
    records.claim(workdir, settings)
    log.setLevel(logging.INFO)
    plan = {name: grid(settings, name) for name in settings.architectures}
    progress = three_ways.Progress(workdir, settings, plan)
    log.info(f"rates, {progress.opening()}")
    lines = []
    for architecture in settings.architectures:
        logs.banner(f"{architecture}: pretraining")
        folder = workdir / "pretrain" / architecture
        three_ways.pretraining(settings, architecture, folder, workdir, pretrain, progress)
        logs.banner(
            f"{architecture}: {len(settings.grid)} rates for each of {len(settings.arms)} arms"
        )
        done = [
            three_ways.finetuning(settings, cell, folder, workdir, finetune, progress)
            for cell in plan[architecture]
        ]
        lines += choose(done, settings)
    records.write(workdir / "tune.json", lines)
    for line in lines:
        log.info(words(line))
    rows = tuple(
        (line["architecture"], line["arm"], line["budget"], line["rate"]) for line in lines
    )
    log.info("for the config of the study:\n    config.rates = (")
    for row in rows:
        log.info(f"        {row!r},")
    log.info("    )")
    return rows


def grid(settings, architecture):
    """Cells of the grid: every rate for every arm, budget and tuning seed, rates outermost."""
    return [
        config.Cell(architecture, arm, budget, seed, float(rate), f"tune/{rate:g}")
        for rate in settings.grid
        for budget in settings.budgets
        for arm in settings.arms
        for seed in settings.tune_seeds
    ]


def choose(done, settings):
    """The best rate of each (architecture, arm, budget) by mean validation accuracy.

    Of equal rates the lowest is taken. Each line says whether its best lies at an end of the grid.
    """
    lines = []
    keys = dict.fromkeys((r["architecture"], r["arm"], r["budget"]) for r in done)
    for architecture, arm, budget in keys:
        means = {
            rate: statistics.spread(
                [
                    r["validation"]
                    for r in done
                    if (r["architecture"], r["arm"], r["budget"], r["rate"])
                    == (architecture, arm, budget, rate)
                ]
            ).mean
            for rate in sorted(map(float, settings.grid))
        }
        best = max(means, key=means.get)
        lines.append(
            {
                "architecture": architecture,
                "arm": arm,
                "budget": budget,
                "rate": best,
                "validation": [[rate, mean] for rate, mean in means.items()],
                "at_the_end": best in (min(means), max(means)),
            }
        )
    return lines


def words(line):
    """One line of the grid's outcome."""
    name = f"{line['architecture']} · {line['arm']} · {line['budget']} labels"
    tried = "  ".join(
        f"{rate:g}: {mean:.3f}{'*' if rate == line['rate'] else ' '}"
        for rate, mean in line["validation"]
    )
    return f"{name:<40} {tried}{'  (best at an end of the grid)' if line['at_the_end'] else ''}"


def main(argv):
    """Command line of this file."""
    flags = (("--workdir", {"required": True, "help": "folder of the study"}),)
    given, settings = cli.arguments(argv, __doc__.splitlines()[0], flags)
    cli.compilation_cache()
    run(settings, given.workdir)


if __name__ == "__main__":
    cli.main(main)
