"""The figures of a study, drawn by matplotlib: PNG files, and one SVG per panel for the page.

Called by studies/three_ways.py with the content of results.json.
"""

import functools

import numpy as np

from studies import table
from sweeps import statistics

# One color per condition in all figures; distinct for the color-blind too.
COLORS = {
    "random": "#7d8590", "vectors": "#b755a3", "embeddings": "#d98a00", "pretrained": "#1f6feb",
}  # fmt: skip
BASELINE = "#8a4fbe"


def panels(results):
    """{figure: [(heading, function that draws on an Axes), ...]}; figures without data are left out."""
    figures = {"efficiency": [], "finetuning": [], "pretraining": []}
    for name, record in results["pretraining"].items():
        heading = record["heading"]
        if select(results["summary"], name):
            figures["efficiency"].append((heading, functools.partial(efficiency, results, name)))
        for budget in results["plan"]["label_budgets"]:
            if select(results["cells"], name, label_budget=budget):
                draw = functools.partial(finetuning, results, name, budget)
                figures["finetuning"].append((f"{heading}, {budget:,} labels", draw))
        heading = f"{heading}, {record['objective']}"
        figures["pretraining"].append((heading, functools.partial(pretraining, record)))
    return {figure: drawn for figure, drawn in figures.items() if drawn}


def efficiency(results, base_model, axes):
    """Test accuracy by number of labels: mean and 95 % interval of each condition, seeds as dots."""
    budgets, lines = sorted(results["plan"]["label_budgets"]), []
    for condition, color in COLORS.items():
        rows = select(results["summary"], base_model, condition=condition)
        rows.sort(key=lambda row: row["label_budget"])
        for cell in select(results["cells"], base_model, condition=condition):
            axes.plot(cell["label_budget"], cell["test"], ".", color=color, alpha=0.5)
        if rows:
            x = [row["label_budget"] for row in rows]
            y = [row["accuracy"]["mean"] for row in rows]
            cells = [
                select(results["cells"], base_model, condition=condition, label_budget=n) for n in x
            ]
            draw_band(axes, x, [[cell["test"] for cell in each] for each in cells], color)
            lines += axes.plot(x, y, "o-", color=color, linewidth=2, label=condition)
    baseline = [table.baseline_spread(results["baseline"], budget).mean for budget in budgets]
    lines += axes.plot(budgets, baseline, "s--", color=BASELINE, markersize=4, label="TF-IDF")
    majority = results["baseline"]["majority"]
    lines.append(axes.axhline(majority, color="black", linestyle=":", label="majority label"))
    axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
    axes.set_xlim(budgets[0] / 1.3, budgets[-1] * 1.3)
    highest = max([cell["test"] for cell in results["cells"]] + baseline)
    axes.set_ylim(0, min(1.02, 1.1 * highest))  # the same in all panels
    add_labels(axes, "labeled examples", "test accuracy", lines)


def finetuning(results, base_model, label_budget, axes):
    """Validation accuracy by step: mean over the seeds of each condition, band: 95 % interval.

    The training loss if the study has no validation accuracies before the last step.
    """
    is_evaluated = all(len(cell["curves"]["accuracy"]) > 1 for cell in results["cells"])
    metric = "accuracy" if is_evaluated else "loss"
    for condition, color in COLORS.items():
        found = {"label_budget": label_budget, "condition": condition}
        cells = select(results["cells"], base_model, **found)
        curves = [dict(cell["curves"][metric]) for cell in cells]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        if steps:
            values = [[curve[step] for curve in curves] for step in steps]
            draw_band(axes, steps, values, color)
            axes.plot(steps, np.mean(values, 1), color=color, linewidth=2, label=condition)
    highest = max(value for cell in results["cells"] for _, value in cell["curves"][metric])
    axes.set_ylim(0, min(1.0, 1.1 * highest) if is_evaluated else 1.1 * highest)
    add_labels(axes, "steps", "validation accuracy" if is_evaluated else "training loss (nats)")


def draw_band(axes, x, values, color):
    """Student's 95 % interval of the mean of the values at each x; one value has none."""
    spreads = [statistics.spread(each) for each in values]
    mean = np.array([spread.mean for spread in spreads])
    half = np.array([statistics.interval95(spread) or 0.0 for spread in spreads])
    axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)


def pretraining(record, axes):
    """Loss by step: training, validation, and the unigram entropy of the targets for scale."""
    color = COLORS["pretrained"]
    training, validation = (record["curves"][split] for split in ("train", "validation"))
    axes.plot(*zip(*training, strict=True), color=color, alpha=0.45, linewidth=1, label="training")
    if validation:
        label = f"validation ({validation[-1][1]:.2f})"
        axes.plot(*zip(*validation, strict=True), ".-", color=color, linewidth=2, label=label)
    if record["target_entropy"] is not None:
        axes.axhline(
            record["target_entropy"], color="black", linestyle=":", label="unigram entropy"
        )
    add_labels(axes, "steps", "loss per target (nats)")


def add_labels(axes, x, y, lines=None):
    """Names the axes, and the lines in a legend below."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    lines = axes.get_lines() if lines is None else lines
    axes.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)


def select(records, base_model, **coordinates):
    """The cells or rows of a base model that have these values."""
    wanted = {"base_model": base_model, **coordinates}
    return [record for record in records if wanted.items() <= record.items()]
