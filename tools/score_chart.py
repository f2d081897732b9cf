"""The bar chart of a suite's scores, drawn by matplotlib: one group of bars per file or phenomenon."""

import os

from tools import output
from training import paths
from training.config import ConfigError

FORMATS = (".png", ".svg", ".pdf")
COLORS = ("#1f6feb", "#d98a00", "#7d8590", "#8a4fbe")  # distinct for the color-blind too


def check_paths(given) -> None:
    """Raises ConfigError for an --output or a --chart that cannot be written."""
    output.check_path("--output", given.output)
    output.check_path("--chart", given.chart)
    if given.chart and not given.chart.endswith(FORMATS):
        raise ConfigError(f"--chart={given.chart}: expected one of {', '.join(FORMATS)}")
    if given.output.endswith(FORMATS):
        raise ConfigError(f"--output={given.output} is for JSON; name the chart by --chart")


def path_of(given) -> str:
    """The file of the chart that the flags name; '': none."""
    return given.chart or (str(paths.of(given.output).with_suffix(".png")) if given.output else "")


def write(path: str, summary, title: str) -> None:
    """Writes a chart of `summary` (evaluation.items.Summary) to a .png, .svg or .pdf file."""
    from matplotlib.figure import Figure

    groups = list(summary.bars)
    series = list(dict.fromkeys(name for bars in summary.bars.values() for name in bars))
    # in bars, with the gap to the next
    sizes = [0.4 + len(summary.bars[group]) for group in groups]
    starts = [sum(sizes[:n]) for n in range(len(groups))]
    figure = Figure(figsize=(7, 1.2 + 0.24 * sum(sizes)), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(series):
        there = [n for n, group in enumerate(groups) if name in summary.bars[group]]
        values, errors = zip(*(summary.bars[groups[n]][name] for n in there), strict=True)
        places = [starts[n] + list(summary.bars[groups[n]]).index(name) for n in there]
        axes.barh(places, values, 0.9, color=COLORS[number % len(COLORS)], label=name,
                  xerr=errors if any(errors) else None,
                  error_kw={"ecolor": "#333333", "elinewidth": 1})  # fmt: skip
        for place, value, error in zip(places, values, errors, strict=True):
            axes.text(value + error, place, f" {value:.3f}", va="center", fontsize=8)
    middles = [start + (size - 1.4) / 2 for start, size in zip(starts, sizes, strict=True)]
    axes.set_yticks(middles, [os.path.basename(group)[:40] for group in groups])
    axes.set_ylim(sum(sizes) - 0.8, -0.6)
    axes.set_xlabel(summary.axis)
    if summary.axis == "accuracy":
        axes.set_xlim(0, 1.12)
    else:
        axes.margins(x=0.12)
    axes.set_title(title[:90], fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, loc="best")
    figure.savefig(path, dpi=150)
