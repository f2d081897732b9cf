"""Analysis of a sweep that pretrains and finetunes: a classic baseline, figures, samples, a page.

    python -m studies.three_ways --workdir=runs/quickstart     # also while the sweep is running

Reads the run directories of `tools.sweep --config=configs/sweeps/three_ways.py`; writes results.json, PNG
files and report.html to the folder `study` there.
"""

from training import cli


def main(argv):
    """The command line of this file. Defined before the other imports, which `cli` makes in the process that
    it starts again."""
    flags = (
        ("--workdir", {"required": True, "help": "directory of the sweep"}),
        ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
    )
    given = cli.flags_parser(__doc__, flags).parse_args(argv)
    from studies import three_ways

    three_ways.log.setLevel("INFO")
    cli.enable_compilation_cache()
    three_ways.write(given.workdir)


if __name__ == "__main__":
    cli.main(main)

import dataclasses
import json
import logging
import pathlib

from data.files import content_hash
from studies import baseline, figures, results, samples, table
from sweeps import drawing, manifest, page
from training import config as config_lib
from training import paths
from training.schema import FinetuneConfig

log = logging.getLogger("triptych.studies")

FOLDER = "study"


def write(workdir, load_labels=baseline.load, sample=samples.of_run):
    """Writes the report of the sweep in a directory; logs the table.

    Args:
      workdir: directory of the sweep.
      load_labels: function (resolved section `task`) -> {split: Examples}.
      sample: function (directory of a pretraining run) -> {'input', 'outputs'}, or {}.

    Returns:
      The content of results.json.

    Raises:
      ConfigError: see results.load and baseline.load.
    """
    found, config = results.load(pathlib.Path(workdir))
    folder = pathlib.Path(workdir) / FOLDER
    folder.mkdir(exist_ok=True)
    found["baseline"] = run_baseline(found, config, folder, load_labels)
    found["samples"] = run_samples(pathlib.Path(workdir), found["pretraining"], folder, sample)
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


def run_baseline(found, config, folder, load_labels):
    """The scores of the classic baseline, computed again if the finetuning runs have other labels.

    found: content of results.json without it; config: resolved config of a finetuning run."""
    task = config_lib.resolve(FinetuneConfig, config).task
    options = dataclasses.asdict(dataclasses.replace(task, num_train_examples=0))
    budgets, seeds = found["plan"]["label_budgets"], found["plan"]["seeds"]
    about = {**options, "budgets": budgets, "seeds": seeds, "data": found["label_fingerprints"]}
    return stored(
        folder / "baseline.json", about, lambda: baseline.run(load_labels(task), budgets, seeds)
    )


def run_samples(workdir, pretraining, folder, sample):
    """{name of a pretraining run: what its model writes}."""
    runs = {name: workdir / record["folder"] for name, record in pretraining.items()}
    about = {name: content_hash(run / "manifest.json") for name, run in runs.items()}
    record = stored(
        folder / "samples.json", about, lambda: {name: sample(run) for name, run in runs.items()}
    )
    return {name: record[name] for name in runs if record[name]}


def stored(file, about, compute):
    """A JSON object with `plan` and what `compute` returns: computed unless the file has it for this plan."""
    plan, record = json.loads(json.dumps(about)), paths.read_object(file)
    if record.get("plan") != plan:
        record = {"plan": plan, **compute()}
        manifest.write_json(file, record)
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
