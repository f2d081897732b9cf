"""The pictures of studies/landscape.py and its table, from the content of landscape.json.

Their captions are in studies/landscape.html.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.colors import LogNorm

COLORS = ("#1f6feb", "#d98a00", "#8a4fbe", "#1a7f37", "#cf222e", "#7d8590", "#0a7f8c", "#b755a3")
STYLES = {"train": "-", "validation": "--"}
LOG_RATIO = 30.0  # a loss that varies by more is drawn on a logarithmic scale
LEVELS = 16  # of a contour picture


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of panels.

    Attributes:
      name: of its file, without .png; its caption is found by the part before the first '-'.
      heading: of its section.
      numbers: lines about what these runs show.
      panels: [(heading, function that draws on an Axes)].
    """

    name: str
    heading: str
    numbers: list[str]
    panels: list[tuple[str, Callable]]


def figures(found) -> list[Figure]:
    """The pictures; those without data are left out."""
    planes = [plane(found, entry, number) for number, entry in enumerate(found["planes"], 1)]
    made = [curves(found), start_to_end(found), *planes, connectivity(found), distances(found)]
    return [figure for figure in (*made, curvature(found)) if figure.panels]


def color(found, name):
    """The color of a run."""
    return COLORS[[run["name"] for run in found["runs"]].index(name) % len(COLORS)]


def metrics_of(found):
    """The measured quantities: the loss, and the metric if there is one."""
    return ["loss", *[found["metric"]] * bool(found["metric"])]


def text(value, form=".4g"):
    """A number as text."""
    return "not finite" if value is None else format(value, form)


def at(run, alpha, split, name):
    """A value on the line of a run; None if it is not finite, or there is no such split."""
    values = run["line"]["values"].get(split)
    return values and values[name][run["line"]["alphas"].index(alpha)]


# ---- Learning curves -----------------------------------------------------------------------------


def curves(found):
    name, panels = found["metric"] or "loss", []
    for split, label in (("train", "training loss"), ("validation", f"validation {name}")):
        if any(run["curves"][split] for run in found["runs"]):
            panels.append((label, partial(_curves, found, split, label)))
    if len({run["num_train_examples"] for run in found["runs"]}) > 1:
        panels.append((f"validation {name} by labels", partial(_by_labels, found, name)))
    lines = [
        f"{run['name']}: {run['step']:,} updates of {run['batch_size']} examples, then validation {name} "
        f"{text(at(run, 1.0, 'validation', name))} on these examples"
        for run in found["runs"]
    ]
    return Figure("curves", "Learning curves", lines, panels)


def _curves(found, split, label, axes):
    for run in found["runs"]:
        points, shade = run["curves"][split], color(found, run["name"])
        if not points:
            continue
        steps, values = np.array(points, float).T
        if split == "train" and len(values) > 20:
            axes.plot(steps, values, color=shade, alpha=0.25, linewidth=0.8)
            width = len(values) // 20
            values = np.convolve(values, np.full(width, 1 / width), "valid")
            steps = steps[width - 1 :]
        style = "-" if split == "train" else ".-"
        axes.plot(steps, values, style, color=shade, linewidth=2, label=run["name"])
        axes.axvline(run["step"], color=shade, linestyle=":", linewidth=1)
    _label(axes, "updates", label)


def _by_labels(found, name, axes):
    for shade, init in zip(COLORS, sorted({run["init"] for run in found["runs"]}), strict=False):
        chosen = [run for run in found["runs"] if run["init"] == init]
        x = [run["num_train_examples"] for run in chosen]
        y = np.array([at(run, 1.0, "validation", name) for run in chosen], float)
        axes.plot(x, y, "o", color=shade, label=f"init={init}")
    _label(axes, "labeled examples", f"validation {name}")


# ---- Lines ---------------------------------------------------------------------------------------


def start_to_end(found):
    lines = {run["name"]: run["line"] for run in found["runs"]}
    numbers = [
        f"{run['name']}: train loss {text(at(run, 0.0, 'train', 'loss'))} at 0 and "
        f"{text(at(run, 1.0, 'train', 'loss'))} at 1; in between at most "
        f"{text(run['line']['barrier']['train']['loss'])} above the straight connection of these two"
        for run in found["runs"]
    ]
    panels = [
        (name, partial(_lines, lines, name, "alpha (0: start, 1: end)"))
        for name in metrics_of(found)
    ]
    return Figure("start_to_end", "From start to end", numbers, panels)


def connectivity(found):
    lines = {" - ".join(pair["runs"]): pair for pair in found["pairs"]}
    panels = [
        (name, partial(_lines, lines, name, "alpha (0: end of the first run, 1: of the second)"))
        for name in metrics_of(found)
    ]
    return Figure("connectivity", "Between the ends of two runs", pair_lines(found), panels)


def pair_lines(found) -> list[str]:
    """A line for each pair of runs: the distance of their ends, and the barriers between them."""
    lines = []
    for pair in found["pairs"]:
        barriers = ", ".join(
            f"{split} {name} {text(value)}"
            for split, metrics in pair["barrier"].items()
            for name, value in metrics.items()
        )
        names = " - ".join(pair["runs"])
        lines.append(f"{names}: distance {text(pair['distance'])}; barriers: {barriers}")
    return lines


def _lines(lines, name, x_label, axes):
    every = []
    for number, (label, line) in enumerate(lines.items()):
        for split, values in line["values"].items():
            every.append(np.array(values[name], float))
            style = {"color": COLORS[number % len(COLORS)], "marker": ".", "markersize": 4}
            axes.plot(line["alphas"], every[-1], STYLES[split], linewidth=1.8,
                      label=label if split == "train" else None, **style)  # fmt: skip
    for end in (0, 1):
        axes.axvline(end, color="#8b949e", linewidth=0.8, linestyle=":")
    every = np.concatenate(every)
    if name == "loss" and _is_wide(every[np.isfinite(every)]):
        axes.set_yscale("log")
    _label(axes, x_label, name)


def _is_wide(values):
    return values.size and 0 < LOG_RATIO * values.min() < values.max()


# ---- Planes --------------------------------------------------------------------------------------


def plane(found, entry, number):
    numbers = [
        f"{name}: {len(points)} checkpoints, at most {text(max(p['outside'] for p in points))} from the plane"
        for name, points in entry["trajectories"].items()
    ]
    panels = [
        (f"{split} {name}", partial(_contour, found, entry, split, name))
        for name in metrics_of(found)
        for split in entry["values"]
    ]
    labels = ", ".join(corner["label"] for corner in entry["corners"])
    return Figure(f"plane-{number}", f"The plane of {labels}", numbers, panels)


def _contour(found, entry, split, name, axes):
    values = np.ma.masked_invalid(np.array(entry["values"][split][name], float))
    if values.count():
        known = values.compressed()
        low, high = known.min(), known.max()
        is_log = name == "loss" and _is_wide(known)
        high = high if low < high else low + 1e-6
        levels = (np.geomspace if is_log else np.linspace)(low, high, LEVELS)
        is_good_low = name == "loss" or not found["higher_is_better"]
        drawn = axes.contourf(
            entry["x"], entry["y"], values, levels, norm=LogNorm(low, high) if is_log else None,
            cmap="viridis" if is_good_low else "viridis_r",
        )  # fmt: skip
        bar = axes.figure.colorbar(drawn, ax=axes, ticks=levels[::5], format="%.3g")
        bar.ax.minorticks_off()
    for run, points in entry["trajectories"].items():
        x, y = ([point[key] for point in points] for key in "xy")
        style = {"markeredgecolor": "white", "markersize": 4, "linewidth": 1.4}
        axes.plot(x, y, "o-", color=color(found, run), label=run, **style)
    for corner in entry["corners"]:
        place, middle = (corner["x"], corner["y"]), (entry["x"][0] + entry["x"][-1]) / 2
        axes.plot(*place, "*", color="white", markeredgecolor="black", markersize=11)
        offset, side = ((5, 6), "left") if corner["x"] < middle else ((-5, 6), "right")
        axes.annotate(
            corner["label"], place, offset, textcoords="offset points", fontsize=8, ha=side,
            bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip
    axes.set_xlim(entry["x"][0], entry["x"][-1])
    axes.set_ylim(entry["y"][0], entry["y"][-1])
    axes.grid(False)
    _label(axes, "distance", "distance")


# ---- Distances and curvature ---------------------------------------------------------------------


def distances(found):
    lines = []
    for run in found["runs"]:
        far = run["distances"]["all"]
        lines.append(f"{run['name']}: {text(far['distance'])} from its start, which is "
                     f"{text(far['relative'])} of its norm, and {text(far['degrees'])} degrees")  # fmt: skip
    panels = [
        ("relative distance", partial(_bars, found, "relative", "|end - start| / |start|")),
        ("angle", partial(_bars, found, "degrees", "degrees between start and end")),
    ]
    return Figure("distances", "Distance and angle, by layer", lines, panels)


def _bars(found, key, label, axes):
    layers, runs = list(found["runs"][0]["distances"]), found["runs"]
    height = 0.8 / len(runs)
    for number, run in enumerate(runs):
        values = np.array([run["distances"][layer][key] for layer in layers], float)
        places = np.arange(len(layers)) + (number - (len(runs) - 1) / 2) * height
        axes.barh(places, values, height, color=color(found, run["name"]), label=run["name"])
    axes.set_yticks(range(len(layers)), layers, fontsize=8)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    _label(axes, label, "")


def curvature(found):
    runs = [run for run in found["runs"] if run["hessian"]]
    lines, panels = [], []
    for key, label in (("trace", "trace"), ("eigenvalue", "largest eigenvalue")):
        if any(run["hessian"][key] for run in runs):
            panels.append((label, partial(_curvatures, found, runs, key, label)))
    for run in runs:
        bent = run["hessian"]
        parts = [f"{bent['num_parameters']:,} trained parameters"]
        if trace := bent["trace"]:
            parts.append(f"trace {_trace(trace)} ({trace['count']} probes, ± standard error)")
        if top := bent["eigenvalue"]:
            parts.append(f"largest eigenvalue {text(top['largest'])} with residual {text(top['residual'])}, "
                         f"smallest {text(top['smallest'])}")  # fmt: skip
        parts.append(f"{bent['attention_kernel']} attention in {bent['dtype']}")
        lines.append(f"{run['name']}: {'; '.join(parts)}")
    return Figure("curvature", "Curvature at the end", lines, panels)


def _trace(trace):
    error = "" if trace["stderr"] is None else f" ± {trace['stderr']:.2g}"
    return text(trace["mean"]) + error


def _curvatures(found, runs, key, label, axes):
    value, error = ("mean", "stderr") if key == "trace" else ("largest", "residual")
    for number, run in enumerate(runs):
        entry = run["hessian"][key]
        heights = np.array([entry[value], entry[error] or 0.0], float)
        shade = color(found, run["name"])
        axes.bar(number, heights[0], yerr=heights[1], capsize=4, color=shade)
    axes.axhline(0.0, color="#8b949e", linewidth=0.8)
    axes.set_xticks(range(len(runs)), [run["name"] for run in runs], rotation=20, ha="right")
    axes.grid(False, axis="x")
    _label(axes, "", label)


def _label(axes, x, y):
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if names := axes.get_legend_handles_labels()[1]:
        # Long names (pairs of runs) would be wider than the axes in two columns.
        wide = max(map(len, names)) > 24
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=1 if wide else 2,
                    fontsize=7 if wide else None)  # fmt: skip


# ---- The table -----------------------------------------------------------------------------------


def table(found) -> list[list[str]]:
    """Rows of text, the header first: a run each."""
    metric = found["metric"]
    scores = [f"validation {metric}"] if metric else []
    header = ["run", "init", "step", "train loss at start", "at end", *scores]
    rows = [header + ["distance", "relative", "degrees", "trace", "eigenvalue"]]
    for run in found["runs"]:
        row = [run["name"], run["init"], f"{run['step']:,}"]
        row += [text(at(run, alpha, "train", "loss")) for alpha in (0.0, 1.0)]
        row += [text(at(run, 1.0, "validation", metric)) for _ in scores]
        row += [text(run["distances"]["all"][key]) for key in ("distance", "relative", "degrees")]
        bent = run["hessian"] or {"trace": None, "eigenvalue": None}
        row.append(_trace(bent["trace"]) if bent["trace"] else "-")
        row.append(text(bent["eigenvalue"]["largest"]) if bent["eigenvalue"] else "-")
        rows.append(row)
    return rows


def aligned(rows) -> list[str]:
    """A table as lines of equal columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
