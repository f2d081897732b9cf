"""`python -m tools.compare RUN RUN... [--html=FILE]`: configs, metrics and predictions of runs side by side.

Of the configs and versions only what differs. --html writes the same tables, with curves, as one page.
"""

import json
import pathlib
import sys

from training import cli
from training import config as config_lib
from training.config import ConfigError

FLAGS = (
    ("runs", {"nargs": "+", "metavar": "RUN", "help": "run directory, or a directory of runs"}),
    ("--html", {"default": "", "metavar": "FILE", "help": "also write one page without other files"}),
    ("--samples", {"type": int, "default": 5, "metavar": "N", "help": "rows of the predictions"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
COLORS = ("#3b82c4", "#e07b39", "#3a9d5d", "#b755a3", "#c9a227", "#5aa9a9", "#d1495b", "#7d7fd1")
POINTS = 300  # of a curve on the page
OF_A_PLACE = ("data.cache_dir",)


def main(argv):
    """Prints the tables, and writes the page."""
    given = cli.flags_parser(__doc__, FLAGS).parse_args(argv)
    from tools import run_records

    if given.html:
        from tools import output

        output.check_path("--html", given.html)
    records = [run_records.read(run) for run in run_records.find(given.runs)]
    if len(records) < 2:
        raise ConfigError(f"{given.runs[0]} is one run; name two at least, or a directory of runs")
    tables = tables_of(records, given.samples)
    for heading, header, rows in tables:
        print(f"\n{heading}")
        print("\n".join(aligned([header, *rows]) if rows else ["  none"]))
    if given.html:
        pathlib.Path(given.html).write_text(page(records, tables), encoding="utf-8")
        print(f"\nwrote {given.html}")


def tables_of(records, samples: int) -> list[tuple[str, list[str], list[list[str]]]]:
    """[(heading, header, rows)] of all tables."""
    names = [record.name for record in records]
    of_config = differing([config_lib.flatten(record.config) for record in records], OF_A_PLACE)
    of_manifest = differing([manifest_of(record) for record in records])
    state = [
        ["state", *(record.state for record in records)],
        ["step", *(f"{record.step:,}" for record in records)],
    ]
    return [
        ("Runs", ["", *names], state),
        ("Config, where it differs", ["field", *names], of_config),
        ("Code, versions, data and devices, where they differ", ["entry", *names], of_manifest),
        ("Last metrics", ["metric", *names], metrics_of(records)),
        ("Predictions", ["", *names], predictions_of(records, samples)),
    ]


def differing(trees, ignored=()) -> list[list[str]]:
    """[[key, value of each run]] of the keys whose values differ."""
    keys = sorted({key for tree in trees for key in tree} - {*ignored})
    rows = []
    for key in keys:
        values = [json.dumps(tree[key]) if key in tree else "(absent)" for tree in trees]
        if len(set(values)) > 1:
            rows.append([key, *(value.strip('"')[:200] for value in values)])
    return rows


def manifest_of(record) -> dict:
    """The entries of a manifest that may explain a difference."""
    names = ("commit", "python", "versions", "flags", "devices", "data", "tokenizer", "labels")
    found = {name: record.manifest.get(name, "") for name in names}
    found["uncommitted"] = f"{len(record.manifest.get('uncommitted', '')):,} bytes"
    return config_lib.flatten(found)


def metrics_of(records) -> list[list[str]]:
    """The last value of each metric of each split."""
    splits = dict.fromkeys(line["split"] for record in records for line in record.metrics)
    rows = []
    for split in splits:
        last = [record.last(split) for record in records]
        for name in dict.fromkeys(name for values in last for name in values):
            cells = [shown(values.get(name)) for values in last]
            rows.append([f"{split}/{name}", *cells])
    return rows


def shown(value) -> str:
    return (
        f"{value:.6g}" if isinstance(value, (int, float)) else "" if value is None else str(value)
    )


def predictions_of(records, number: int) -> list[list[str]]:
    """Rows of the predictions of the test split, else of validation, that all runs have; those that differ
    first."""
    for split in ("test", "validation"):
        found = [rows_of(record.folder / f"predictions_{split}.tsv") for record in records]
        if all(found):
            break
    else:
        return []
    common = [key for key in found[0] if all(key in rows for rows in found)]
    common.sort(key=lambda key: len({rows[key][0] for rows in found}) == 1)
    return [
        [f"{found[0][key][1]}"[:200], *(rows[key][0] for rows in found)] for key in common[:number]
    ]


def rows_of(path) -> dict:
    """{id: (prediction, label and text)} of a file of predictions; {} if there is none."""
    if not path.exists():
        return {}
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    names, found = header.split("\t"), {}
    for line in lines:
        cells = dict(zip(names, line.split("\t"), strict=False))
        about = {k: v for k, v in cells.items() if k in ("id", "label") or k.startswith("text")}
        found[cells.get("id", len(found))] = (
            cells.get("prediction", ""),
            "  ".join(f"{key}: {value}" for key, value in about.items()),
        )
    return found


def aligned(rows) -> list[str]:
    """Lines of cells of equal width, at most 60 characters each."""
    rows = [[cell if len(cell) <= 60 else f"{cell[:57]}..." for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def page(records, tables) -> str:
    """The HTML page, without references to other files."""
    from sweeps.page import environment

    template = environment(pathlib.Path(__file__).parent).get_template("compare.html")
    names = [record.name for record in records]
    colors = [COLORS[number % len(COLORS)] for number in range(len(records))]
    title = f"{len(records)} runs: {', '.join(names)[:100]}"
    return template.render(
        title=title, names=names, colors=colors, tables=tables, figures=figures_of(records, colors)
    )


def figures_of(records, colors) -> list[dict]:
    """The curves: each metric of train and validation that has two values in a run."""
    figures = []
    for split in ("validation", "train"):
        names = dict.fromkeys(key for r in records for line in r.lines(split) for key in line)
        for name in names:
            if name not in ("step", "split", "learning_rate"):
                figures.append(figure_of(f"{split}/{name}", [
                    [(line["step"], line[name]) for line in record.lines(split)
                     if isinstance(line.get(name), (int, float))]
                    for record in records
                ], colors))  # fmt: skip
    return [figure for figure in figures if figure]


def figure_of(name, curves, colors) -> dict:
    """A figure of curves of (step, value) in a box of 100 by 100; {} without a line."""
    values = [value for curve in curves for _, value in curve if value == value]
    if not values or max(map(len, curves)) < 2:
        return {}
    low, high = min(values), max(values)
    last = max(step for curve in curves for step, _ in curve)
    lines = []
    for color, curve in zip(colors, curves, strict=True):
        every = max(1, len(curve) // POINTS)
        points = " ".join(
            f"{100 * step / max(last, 1):.2f},{100 - 100 * (value - low) / ((high - low) or 1):.2f}"
            for step, value in [*curve[::every], *curve[-1:]]
            if value == value
        )
        lines.append((color, points))
    return {
        "name": name,
        "low": shown(low),
        "high": shown(high),
        "last": f"{last:,}",
        "lines": lines,
    }


if __name__ == "__main__":
    cli.main(main, console=sys.stderr)
