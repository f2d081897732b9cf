"""The figures of a study, drawn once by matplotlib and used twice: as PNG files and as inline SVG.

Called by studies/report.py with the contents of results.json. Every colour of the SVG is a CSS
variable, so that the page decides about light and dark.
"""

import contextlib
import io
import math
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from studies import statistics

# One colour per arm, everywhere: nothing grey, embeddings amber, all blue (also for the colour-blind).
ARMS = {"none": "#7d8590", "embeddings": "#d98a00", "all": "#1f6feb"}
INK, FAINT, BASELINE = "#1f2328", "#d1d5da", "#8a4fbe"
VARIABLES = {
    INK: "--ink", FAINT: "--faint", BASELINE: "--baseline", "#7d8590": "--none",
    "#d98a00": "--embeddings", "#1f6feb": "--all",
}  # fmt: skip
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "triptych",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
}
WORDS = {"encoder": "Encoder", "decoder": "Decoder", "encoder_decoder": "Encoder-decoder"}


def panels(results):
    """Every figure as a list of panels.

    Returns:
      {figure: [(heading, draw function of one Axes), ...]}; a figure without data is left out.
    """
    config = results["config"]
    figures = {"efficiency": [], "pretraining": [], "finetuning": []}
    for name in config["architectures"]:
        if any(row["architecture"] == name for row in results["summary"]):
            figures["efficiency"].append((WORDS[name], _bind(efficiency, results, name)))
        if name in results["pretraining"]:
            heading = f"{WORDS[name]}, {results['pretraining'][name]['objective']}"
            figures["pretraining"].append((heading, _bind(pretraining, results, name)))
        for budget in config["budgets"]:
            if _cells(results, name, budget):
                heading = f"{WORDS[name]}, {budget:,} labels"
                figures["finetuning"].append((heading, _bind(finetuning, results, name, budget)))
    return {figure: drawn for figure, drawn in figures.items() if drawn}


def efficiency(axes, results, architecture):
    """Test accuracy against the number of labels: mean ± standard error of each arm, seeds as dots."""
    budgets = results["config"]["budgets"]
    ends = []
    baseline = _baseline(results)
    axes.axhline(results["baseline"]["majority"], color=FAINT, linewidth=1.2)
    axes.annotate(
        "most frequent label", (0.99, results["baseline"]["majority"]), (0, -10), ha="right",
        xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8, alpha=0.7,
    )  # fmt: skip
    if baseline:
        axes.plot(
            *zip(*baseline, strict=True), color=BASELINE, linestyle=(0, (4, 2)), linewidth=1.4
        )
        ends.append((baseline[-1], "TF-IDF", BASELINE))
    for arm, color in ARMS.items():
        rows = [
            r for r in results["summary"] if (r["architecture"], r["arm"]) == (architecture, arm)
        ]
        if not rows:
            continue
        x = [row["budget"] for row in rows]
        y = [row["accuracy"]["mean"] for row in rows]
        error = [row["accuracy"]["error"] or 0.0 for row in rows]
        for cell in results["cells"]:
            if (cell["architecture"], cell["arm"]) == (architecture, arm):
                axes.plot(cell["budget"], cell["test"], "o", color=color, markersize=3.2, alpha=0.5,
                          markeredgewidth=0)  # fmt: skip
        axes.errorbar(x, y, error, color=color, marker="o", markersize=6, linewidth=2.2, capsize=3,
                      elinewidth=1.4)  # fmt: skip
        ends.append(((x[-1], y[-1]), arm, color))
    axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
    low, high = min(budgets), max(budgets)
    axes.set_xlim(low / 1.25, high * (1.25 if high > low else 1.3))
    scores = [cell["test"] for cell in results["cells"]] + [score for _, score in baseline]
    axes.set_ylim(0, min(1.0, 1.08 * max(scores)))
    axes.set_xlabel("labelled examples")
    axes.set_ylabel("test accuracy")
    _direct_labels(axes, ends)


def pretraining(axes, results, architecture):
    """Loss against updates: training, held out, and the entropy of the targets for scale."""
    record = results["pretraining"][architecture]
    x, y = zip(*record["curves"]["train"], strict=True)
    axes.plot(x, y, color=ARMS["all"], linewidth=1, alpha=0.45)
    held = record["curves"]["validation"]
    axes.plot(
        *zip(*held, strict=True), color=ARMS["all"], marker="o", markersize=3.5, linewidth=1.8
    )
    axes.axhline(record["target_entropy"], color=INK, linestyle=(0, (1, 2)), linewidth=1.2)
    axes.annotate(
        "target frequencies alone", (0.99, record["target_entropy"]), (0, 3), ha="right",
        xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8, alpha=0.8,
    )  # fmt: skip
    values = [value for _, value in held] + [record["target_entropy"]]
    room = 0.15 * (max(values) - min(values)) + 0.05
    axes.set_ylim(min([*values, *y]) - room, max(values) + room)
    axes.set_xlabel("updates")
    axes.set_ylabel("loss per target (nats)")
    _direct_labels(axes, [(held[-1], f"held out {held[-1][1]:.2f}", ARMS["all"])])


def finetuning(axes, results, architecture, budget):
    """Progress against updates: mean over the seeds of each arm, band ± standard error.

    Validation accuracy; the training loss where the study did not look at validation on the way.
    """
    watched = all(len(cell["curves"]["accuracy"]) > 1 for cell in results["cells"])
    metric = "accuracy" if watched else "loss"
    ends = []
    for arm, color in ARMS.items():
        cells = [c for c in _cells(results, architecture, budget) if c["arm"] == arm]
        curves = [dict(cell["curves"][metric]) for cell in cells]
        shared = sorted(set.intersection(*map(set, curves))) if curves else []
        if not shared:
            continue
        spreads = [statistics.spread([curve[step] for curve in curves]) for step in shared]
        mean = np.array([s.mean for s in spreads])
        error = np.array([0.0 if math.isnan(s.error) else s.error for s in spreads])
        axes.fill_between(shared, mean - error, mean + error, color=color, alpha=0.18, linewidth=0)
        axes.plot(shared, mean, color=color, linewidth=2)
        ends.append(((shared[-1], mean[-1]), arm, color))
    values = [value for cell in results["cells"] for _, value in cell["curves"][metric]]
    top = 1.05 * max(values, default=1.0)
    axes.set_ylim(0, min(1.0, top) if watched else top)  # one scale for all panels
    axes.set_xlabel("updates")
    axes.set_ylabel("validation accuracy" if watched else "training loss (nats)")
    _direct_labels(axes, ends)


def svg(draw, size=(4.4, 3.3)):
    """One panel as SVG text for a page: no fixed size, colours as CSS variables, text as text."""
    with _style():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', 'role="img" ', text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--font)", text)
    # Names that matplotlib gives its groups repeat from panel to panel; nothing refers to them.
    return re.sub(
        r' id="[a-z]+[a-z0-9]*_\d+"', "", re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    )


def png(drawn, path, columns=3, size=(4.4, 3.5)):
    """All panels of a figure side by side, `columns` to a row, as a PNG file."""
    rows = -(-len(drawn) // columns)
    across = min(columns, len(drawn))
    with _style():
        figure = Figure(figsize=(size[0] * across, size[1] * rows), layout="constrained")
        grid = figure.subplots(rows, across, squeeze=False).flat
        for axes, (heading, draw) in zip(grid, drawn, strict=False):
            draw(axes)
            axes.set_title(heading, fontsize=11, fontweight="bold", loc="left")
        for axes in list(grid)[len(drawn) :]:
            axes.remove()
        figure.savefig(path, dpi=160, facecolor="white")


def _cells(results, architecture, budget):
    return [
        cell
        for cell in results["cells"]
        if (cell["architecture"], cell["budget"]) == (architecture, budget)
    ]


def _baseline(results):
    """[(labels, mean test accuracy), ...] of the classic baseline."""
    scores = {}
    for cell in results["baseline"]["cells"]:
        scores.setdefault(cell["budget"], []).append(cell["test"])
    return [(budget, sum(values) / len(values)) for budget, values in sorted(scores.items())]


def _direct_labels(axes, ends, gap=0.07):
    """Names the lines at their right ends, neighbours moved apart where they would touch."""
    low, high = axes.get_ylim()
    step = gap * (high - low)
    ends = sorted(ends, key=lambda end: end[0][1])
    heights = [y for (_, y), _, _ in ends]
    for _ in range(100):
        for i in range(len(heights) - 1):
            overlap = step - (heights[i + 1] - heights[i])
            if overlap > 0:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
    for ((x, _), words, color), height in zip(ends, heights, strict=True):
        axes.annotate(
            words, (x, height), (9, 0), textcoords="offset points", color=color, va="center",
            fontsize=9.5, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _bind(draw, results, *where):
    return lambda axes: draw(axes, results, *where)


@contextlib.contextmanager
def _style():
    with matplotlib.rc_context(STYLE):
        yield
