"""The report of a study: results.json, the table, figures as PNG, and a page of HTML.

    python -m studies.report --workdir=runs/quickstart     # also while the study is running

Called by studies/three_ways.py at its end.
"""

import logging
import pathlib

from studies import config as plans
from studies import figures, records, results, table
from studies.config import StudyConfig
from sweeps import drawing, page
from training import cli
from training import config as configs
from training.config import ConfigError

log = logging.getLogger("triptych.studies")


def write(workdir):
    """Writes results.json, *.png and report.html into the directory of a study; logs the table.

    Returns the results. Raises ConfigError if there is no study or none of its runs has finished.
    """
    workdir = pathlib.Path(workdir)
    records.write(workdir / "results.json", load(workdir))
    found = records.read(workdir / "results.json")
    panels = figures.panels(found)
    for name, drawn in panels.items():
        drawing.save_png(drawn, workdir / f"{name}.png")
    (workdir / "report.html").write_text(render(found, panels), encoding="utf-8")
    for line in (*table.lines(found), ""):
        log.info(line)
    for name in ("results.json", *(f"{name}.png" for name in panels), "report.html"):
        log.info(f"wrote {workdir / name}")
    return found


def load(workdir):
    """The results of a study, from the runs that have finished so far."""
    saved = records.read(workdir / "study.json")
    baseline = records.read(workdir / "baseline.json")
    if saved is None or baseline is None:
        raise ConfigError(
            f"{str(workdir)!r} is not the directory of a study (no study.json or baseline.json); expected "
            f"the --workdir of studies.three_ways; run it first"
        )
    study = configs.resolve(StudyConfig, saved)
    pretraining = {
        name: record
        for name in study.architectures
        if (record := records.find(workdir, plans.pretrain_folder(name)))
    }
    planned = [cell for name in study.architectures for cell in plans.study_cells(study, name)]
    cells = [record for cell in planned if (record := records.find(workdir, cell.folder))]
    if not cells:
        raise ConfigError(
            f"no finetuning run of the study in {str(workdir)!r} has finished; expected at least one; "
            f"resume studies.three_ways with this --workdir"
        )
    return {
        "format": results.FORMAT,
        "complete": len(cells) == len(planned),
        "num_finished": len(cells),
        "num_planned": len(planned),
        "config": configs.to_dict(study),
        "fingerprints": sorted({record["fingerprint"] for record in pretraining.values()}),
        "environment": next(iter(pretraining.values()))["environment"],
        "pretraining": pretraining,
        "baseline": baseline,
        "summary": results.summarize(study, pretraining, cells),
        "cells": cells,
    }


def render(found, panels):
    """The page as text, from the content of results.json and its figures.panels."""
    return (
        page.environment(pathlib.Path(__file__).parent)
        .get_template("page.html")
        .render(
            found,
            panels=panels,
            svg=drawing.svg,
            table=table,
            colors={**figures.COLORS, "baseline": figures.BASELINE},
            notes=list(table.notes(found)),
        )
    )


def main(argv):
    """The command line of this file."""
    flags = (
        ("--workdir", {"required": True, "help": "directory of the study"}),
        ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
    )
    parser = cli.flags_parser(__doc__, flags)
    log.setLevel(logging.INFO)
    write(parser.parse_args(argv).workdir)


if __name__ == "__main__":
    cli.main(main)
