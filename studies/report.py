"""The report of a study: the table, results.json, the figures as PNG, and one page of HTML.

    python -m studies.report --workdir=runs/quickstart     # again, or while the study is still running

Called by studies/three_ways.py at its end.
"""

import argparse
import logging
import pathlib

from studies import figures, page, records, results, table
from studies.config import StudyConfig
from training import cli
from training import config as configs
from training.config import ConfigError

log = logging.getLogger("triptych.studies")


def write(workdir):
    """Writes results.json, *.png and report.html into the study's folder, prints the table.

    Returns the results. Raises ConfigError when there is no study, or none of its runs has ended.
    """
    workdir = pathlib.Path(workdir)
    records.write(workdir / "results.json", load(workdir))
    found = records.read(workdir / "results.json")
    drawn = figures.panels(found)
    pictures = {name: workdir / f"{name}.png" for name in drawn}
    for name, path in pictures.items():
        figures.png(drawn[name], path)
    (workdir / "report.html").write_text(page.render(found, drawn), encoding="utf-8")
    for line in (*table.lines(found), ""):
        log.info(line)
    for path in (workdir / "results.json", *pictures.values(), workdir / "report.html"):
        log.info(f"written: {path}")
    return found


def load(workdir):
    """The results of a study from what its runs have left in its folder so far."""
    saved = records.read(workdir / "study.json")
    baseline = records.read(workdir / "baseline.json")
    if saved is None or baseline is None:
        raise ConfigError(
            f"{str(workdir)!r} holds no study (study.json, baseline.json); expected the --workdir of "
            f"studies.three_ways; run that first"
        )
    settings = configs.resolve(StudyConfig, saved)
    pretraining = {record["architecture"]: record for record in ended(workdir, "pretrain")}
    cells = [record for record in ended(workdir, "finetune") if in_plan(record, settings)]
    if not cells:
        raise ConfigError(
            f"no finetuning run of the study in {str(workdir)!r} has ended; expected at least one; "
            f"run studies.three_ways with this --workdir again"
        )
    order = {name: place for place, name in enumerate(settings.architectures)}
    cells.sort(
        key=lambda c: (
            order[c["architecture"]],
            c["budget"],
            settings.arms.index(c["arm"]),
            c["seed"],
        )
    )
    planned = {name: pretraining[name] for name in settings.architectures if name in pretraining}
    return results.collect(settings, planned, cells, baseline)


def ended(workdir, kind):
    """The records of one kind of run."""
    return [records.read(path) for path in sorted((workdir / "records").glob(f"{kind}-*.json"))]


def in_plan(cell, settings):
    """Whether a record belongs to the study as it is configured now."""
    return (
        cell["architecture"] in settings.architectures
        and cell["arm"] in settings.arms
        and cell["budget"] in settings.budgets
        and cell["seed"] in settings.seeds
    )


def main(argv):
    """Command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of the study")
    log.setLevel(logging.INFO)
    write(parser.parse_args(argv).workdir)


if __name__ == "__main__":
    cli.main(main)
