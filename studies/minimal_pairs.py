"""Minimal pairs of a sweep of pretraining runs, in each way that fits an objective: table, figure, page.

    python -m studies.minimal_pairs --workdir=runs/pairs --data blimp.jsonl supplement.jsonl

Scores every finished run of `tools.sweep --config=configs/sweeps/minimal_pairs.py` as tools/evaluate.py does
(a killed command resumes); writes results.json, accuracy.png and report.html to the folder `minimal_pairs`
there.
"""

from training import cli

FLAGS = (
    ("--workdir", {"required": True, "help": "directory of the sweep"}),
    ("--data", {"required": True, "nargs": "+", "metavar": "FILE",
                "help": "JSON lines with sentence_good and sentence_bad, as BLiMP has"}),
    ("--limit", {"type": int, "default": 0, "metavar": "N",
                 "help": "N pairs of each file, evenly spaced; 0: all"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip


def main(argv):
    """The command line of this file. Defined before the other imports, which `cli` makes in the process that
    it starts again."""
    given = cli.flags_parser(__doc__, FLAGS).parse_args(argv)
    from studies import minimal_pairs

    minimal_pairs.write(given.workdir, given.data, given.limit)


if __name__ == "__main__":
    cli.main(main, resumes=True)

import dataclasses
import functools
import logging
import pathlib

from data.files import digest
from evaluation.items import grouped, mean
from studies import results, table
from sweeps import drawing, manifest, page, run_files, statistics
from sweeps.algebra import short
from sweeps.table import quantity
from tools import evaluate, scoring
from training import paths
from training.config import ConfigError

log = logging.getLogger("triptych")

FOLDER = "minimal_pairs"

# Objective -> the ways to score text that it was trained for (tools.evaluate --scoring).
WAYS = {
    "masked_lm": ("pll", "pll_within_word_l2r"),
    "causal_lm": ("causal",),
    "prefix_lm": ("prefix",),
    "mntp": ("pll",),
    "hybrid": ("causal", "pll"),
    "span_corruption": ("infill", "prefix"),
    "bert_style": ("infill", "prefix"),
    "replaced_token_detection": (),  # they have no probabilities of tokens
    "skip_gram": (),
}


def write(workdir, data, limit=0, score=None):
    """Scores the finished runs of a sweep and writes the report; returns the content of results.json.

    Args:
      workdir: directory of the sweep.
      data: files of pairs, or patterns.
      limit: pairs of each file; 0: all.
      score: function (run directory, way, data, limit, output file) -> results of the pairs; by default
        that of tools.evaluate.

    Raises:
      ConfigError: `workdir` has no finished pretraining run, or a file cannot be read.
    """
    workdir, score = pathlib.Path(workdir), score or score_run
    head, configs, planned = manifest.read_sweep(workdir)
    planned = [run for run in planned if run["program"] == "train.py"]
    done = [run for run in planned if run_files.is_finished(workdir / run["folder"], "train.py")]
    if not done:
        raise ConfigError(
            f"--workdir={str(workdir)!r} has no finished pretraining run; expected the --workdir of "
            f"python -m tools.sweep --config=configs/sweeps/minimal_pairs.py"
        )
    folder, cells = workdir / FOLDER, []
    folder.mkdir(exist_ok=True)
    for run in done:
        config = configs[run["folder"]]["config"]
        objective, architecture = config["objective"]["name"], config["model"]["architecture"]
        for way in WAYS.get(objective, ("auto",)):
            name = f"{run['folder'].replace('/', '-')}-{way}-{digest(list(data), limit)[:8]}.json"
            pairs = score(workdir / run["folder"], way, data, limit, folder / name)
            cells.append({
                "folder": run["folder"], "seed": config["seed"]["init"],
                "row": f"{table.ARCHITECTURES[architecture]}, {objective}: {way}",
                "overrides": {key: value for key, value in run["overrides"].items() if key != "seed"},
                "matched": run_files.quantities(workdir / run["folder"]),
                "files": accuracies(pairs, "file"), "phenomena": accuracies(pairs, "phenomenon"),
            })  # fmt: skip
    if not cells:
        raise ConfigError(f"no run in {str(workdir)!r} has probabilities of tokens")
    name_rows(cells)
    about = paths.read_object(workdir / done[0]["folder"] / "manifest.json")
    found = {
        "title": f"{head['title']}: minimal pairs", "command": head["command"], "data": list(data),
        "limit": limit, "num_finished": len(done), "num_planned": len(planned), "cells": cells,
        "fingerprint": about["data"],
        "environment": {key: about[key] for key in results.ENVIRONMENT},
        "rows": summarize(cells),
    }  # fmt: skip
    manifest.write_json(folder / "results.json", found)
    panel = functools.partial(draw, found["rows"])
    drawing.save_png(
        [("Accuracy by file and phenomenon", panel)],
        folder / "accuracy.png",
        size=size(found["rows"]),
    )
    (folder / "report.html").write_text(render(found, panel), encoding="utf-8")
    for line in lines(found):
        log.info(line)
    for name in ("results.json", "accuracy.png", "report.html"):
        log.info(f"wrote {folder / name}")
    return found


def score_run(run, way, data, limit, output):
    """The results of the pairs by a run, which `output` keeps."""
    flags = [f"--run={run}", "--suite=minimal_pairs", f"--scoring={way}", f"--limit={limit}"]
    given = evaluate.parse([*flags, f"--output={output}", "--data", *data])
    return scoring.run(given)["items"]


def accuracies(pairs, key):
    """{value of `key`: mean over its paradigms of the accuracy of its pairs}; equal scores count 1/2."""
    return {
        name: mean([
            mean([pair["correct"] for pair in paradigm])
            for paradigm in grouped(found, "paradigm").values()
        ])
        for name, found in grouped(pairs, key).items()
    }  # fmt: skip


def name_rows(cells):
    """Adds to the names of rows the fields in which runs differ other than in their seeds."""
    for _, found in grouped(cells, "row").items():
        settings = [cell["overrides"] for cell in found]
        keys = {key for each in settings for key in each}
        differ = [key for key in sorted(keys) if len({str(each.get(key)) for each in settings}) > 1]
        for cell in found:
            own = ", ".join(f"{short(key)}={cell['overrides'].get(key)}" for key in differ)
            cell["row"] += f" ({own})" * bool(own)


def summarize(cells):
    """One row per objective and way: {'row', 'matched', 'files' and 'phenomena': {name: Spread over the
    seeds, as a dict}}."""
    rows = []
    for name, found in grouped(cells, "row").items():
        row = {"row": name, "matched": found[0]["matched"]}
        for kind in ("files", "phenomena"):
            row[kind] = {
                key: dataclasses.asdict(statistics.spread([cell[kind][key] for cell in found]))
                for key in found[0][kind]
            }
        rows.append(row)
    return rows


def columns(row):
    """[(name, text)] of a row of the table."""
    found = [(name, format_accuracy(spread)) for name, spread in row["files"].items()]
    return [*found, *((key, quantity(value)) for key, value in row["matched"].items())]


def format_accuracy(spread):
    """'0.712 ± 0.004', with the s.d. over the seeds."""
    return table.format_spread(spread["mean"], spread["std"])


def lines(found):
    """The table as text: a row per objective and way."""
    rows = [("", [name for name, _ in columns(found["rows"][0])])]
    rows += [(row["row"], [text for _, text in columns(row)]) for row in found["rows"]]
    width = max(len(name) for name, _ in rows)
    widths = [max(map(len, texts)) for texts in zip(*(texts for _, texts in rows), strict=True)]
    for name, texts in rows:
        cells = (text.rjust(size) for text, size in zip(texts, widths, strict=True))
        yield "  ".join([name.ljust(width), *cells])
    yield from notes(found)


def notes(found):
    """Yields the notes below the table, as lines of text."""
    yield (
        "accuracy: mean over the paradigms of a file, ± s.d. over the seeds; equal scores count 1/2; "
        "parameters without embeddings"
    )
    if found["limit"]:
        yield f"{found['limit']} evenly spaced pairs of each file"
    if found["num_finished"] < found["num_planned"]:
        yield f"INCOMPLETE: {found['num_finished']} of {found['num_planned']} runs have finished"


def size(rows):
    """(width, height) of the figure, in inches."""
    return 3.4 + 0.62 * len(rows), 3.0 + 0.3 * (len(rows[0]["files"]) + len(rows[0]["phenomena"]))


def draw(rows, axes):
    """A map of the accuracies: files, then phenomena, by rows of the table; blue above chance, red below."""
    found = [{**row["files"], **row["phenomena"]} for row in rows]
    values = [[row[name]["mean"] for row in found] for name in found[0]]
    axes.imshow(values, cmap="RdBu", vmin=0.0, vmax=1.0, aspect="auto")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            color = "white" if abs(value - 0.5) > 0.3 else "black"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.axhline(len(rows[0]["files"]) - 0.5, color="white", linewidth=4)
    labels = [name.removesuffix(".jsonl").replace("_", " ")[:34] for name in found[0]]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xticks(
        range(len(rows)), [row["row"] for row in rows], rotation=40, ha="right", fontsize=8
    )
    axes.grid(False)


def render(found, panel):
    """The page as text."""
    environment = page.environment(pathlib.Path(__file__).parent)
    return environment.get_template("minimal_pairs.html").render(
        found, image=drawing.svg(panel, size(found["rows"])), columns=columns,
        format_accuracy=format_accuracy, notes=list(notes(found)),
    )  # fmt: skip
