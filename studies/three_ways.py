"""Analysis of a sweep that pretrains and finetunes: a classic baseline, figures, matched quantities, a page.

    python -m studies.three_ways --workdir=runs/quickstart     # also while the sweep is running

Reads the run directories of `tools.sweep --config=configs/sweeps/three_ways.py`; writes results.json, PNG
files and report.html to the folder `study` there.
"""

import dataclasses
import json
import logging
import pathlib

from studies import baseline, figures, results, table
from sweeps import drawing, manifest, page
from training import cli, paths
from training import config as configs
from training.schema import FinetuneConfig

log = logging.getLogger("triptych.studies")

FOLDER = "study"


def write(workdir, load_labels=baseline.load):
    """Writes the report of the sweep in a directory; logs the table.

    Args:
      workdir: directory of the sweep.
      load_labels: function (resolved section `task`) -> {split: Examples}.

    Returns:
      The content of results.json.

    Raises:
      ConfigError: see results.load and baseline.load.
    """
    found, config = results.load(pathlib.Path(workdir))
    folder = pathlib.Path(workdir) / FOLDER
    folder.mkdir(exist_ok=True)
    found["baseline"] = run_baseline(found["plan"], config, folder, load_labels)
    manifest.write_json(folder / "results.json", found)
    panels = figures.panels(found)
    for name, drawn in panels.items():
        drawing.save_png(drawn, folder / f"{name}.png")
    (folder / "report.html").write_text(render(found, panels), encoding="utf-8")
    for line in (*table.lines(found), ""):
        log.info(line)
    for name in ("results.json", *(f"{name}.png" for name in panels), "report.html"):
        log.info(f"wrote {folder / name}")
    return found


def run_baseline(plan, config, folder, load_labels):
    """The scores of the classic baseline, computed unless there are some for this plan.

    config: resolved config of a finetuning run."""
    task = configs.resolve(FinetuneConfig, config).task
    options = dataclasses.asdict(dataclasses.replace(task, num_train_examples=0))
    budgets, seeds = plan["label_budgets"], plan["seeds"]
    about = json.loads(json.dumps({**options, "budgets": budgets, "seeds": seeds}))
    record = paths.read_object(folder / "baseline.json")
    if record.get("plan") != about:
        record = {"plan": about, **baseline.run(load_labels(task), budgets, seeds)}
        manifest.write_json(folder / "baseline.json", record)
    return record


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
        ("--workdir", {"required": True, "help": "directory of the sweep"}),
        ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
    )
    given = cli.flags_parser(__doc__, flags).parse_args(argv)
    log.setLevel(logging.INFO)
    write(given.workdir)


if __name__ == "__main__":
    cli.main(main)
