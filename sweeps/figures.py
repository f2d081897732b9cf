"""The figures of a sweep: the metric by each swept key, and parallel coordinates of all rows.

Called by sweeps/report.py with the content of results.json.
"""

import functools

import matplotlib
import numpy as np

from sweeps.algebra import short

COLOR, BEST = "#1f6feb", "#d98a00"
MOST_MEANS = 8  # values of a key up to which their means are drawn


def panels(found):
    """[(heading, function that draws on an Axes)]: one per swept key with several finished values."""
    rows = [row for row in found["rows"] if row["score"]]
    return [
        (short(key), functools.partial(by_key, found, key))
        for key in found["columns"]
        if len({row["coordinates"][key] for row in rows}) > 1
    ]


def scale(values):
    """(positions of the values, ticks, their labels, whether it is logarithmic) of texts: numbers on their
    scale, other values side by side."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not numbers:
        distinct = list(dict.fromkeys(values))
        labels = [value or "(default)" for value in distinct]
        return (
            [distinct.index(value) for value in values],
            list(range(len(distinct))),
            labels,
            False,
        )
    is_log = min(numbers) > 0 and max(numbers) / min(numbers) >= 8
    ticks = sorted(set(numbers))
    if len(ticks) > 8:
        low, high = ticks[0], ticks[-1]
        ticks = list(np.geomspace(low, high, 5) if is_log else np.linspace(low, high, 5))
    return numbers, ticks, [f"{tick:.3g}" for tick in ticks], is_log


def by_key(found, key, axes):
    """The metric by one key: runs as dots, the mean at each value, and the rows that share the other values
    of the best row."""
    rows = [row for row in found["rows"] if row["score"]]
    entries = {entry["folder"]: entry for entry in found["runs"]}
    pairs = [
        (row["coordinates"][key], entries[folder]["metrics"][found["metric"]])
        for row in rows
        for folder in row["folders"]
        if found["metric"] in entries[folder]["metrics"]
    ]
    places, ticks, labels, is_log = scale([value for value, _ in pairs])
    scores = [score for _, score in pairs]
    axes.plot(places, scores, ".", color=COLOR, alpha=0.45, label="runs")
    if len(set(places)) <= MOST_MEANS:
        x = sorted(set(places))
        means = [np.mean([s for p, s in zip(places, scores, strict=True) if p == at]) for at in x]
        axes.plot(x, means, "o-", color=COLOR, linewidth=2, label="mean")
    best = found["rows"][found["best"]]["coordinates"]
    alike = [row for row in rows if all(row["coordinates"][k] == best[k] for k in best if k != key)]
    if 1 < len(alike) < len(rows):
        where = {value: place for (value, _), place in zip(pairs, places, strict=True)}
        line = sorted((where[row["coordinates"][key]], row["score"]["mean"]) for row in alike)
        axes.plot(*zip(*line, strict=True), "s--", color=BEST, markersize=4,
                  label="others as in the best row")  # fmt: skip
    if is_log:
        axes.set_xscale("log")
    many = not is_log and max(map(len, labels)) * len(labels) > 40
    axes.set_xticks(ticks, labels, **({"rotation": 20, "ha": "right"} if many else {}))
    axes.minorticks_off()
    axes.set_xlabel(short(key))
    axes.set_ylabel(found["metric"])
    axes.figure.legend(loc="outside lower center", ncols=3)


def parallel(found, axes):
    """A line per row through the values of each key and the metric, colored by the metric."""
    rows = [row for row in found["rows"] if row["score"]]
    keys = [key for key in found["columns"] if len({row["coordinates"][key] for row in rows}) > 1]
    scores = np.array([row["score"]["mean"] for row in rows])
    tracks = []
    for key in keys:
        places, ticks, labels, is_log = scale([row["coordinates"][key] for row in rows])
        change = np.log if is_log else np.asarray
        tracks.append(
            (short(key), change(np.array(places, float)), change(np.array(ticks, float)), labels)
        )
    ticks = np.linspace(scores.min(), scores.max(), 5)
    tracks.append((found["metric"], scores, ticks, [f"{tick:.4g}" for tick in ticks]))
    heights = []
    for n, (_, places, ticks, labels) in enumerate(tracks):
        low, span = places.min(), np.ptp(places) or 1.0
        heights.append((places - low) / span)
        axes.axvline(n, color="#8b949e", linewidth=1, zorder=1)
        for tick, label in zip((ticks - low) / span, labels, strict=True):
            axes.annotate(label[:24], (n, tick), (4, 0), textcoords="offset points", fontsize=8,
                          va="center", zorder=4,
                          bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.5})  # fmt: skip
    colors = matplotlib.colormaps["viridis"]
    quality = heights[-1] if found["higher_is_better"] else 1.0 - heights[-1]
    best = [found["rows"].index(row) for row in rows].index(found["best"])
    for n in np.argsort(quality):
        line = [height[n] for height in heights]
        width = 3.0 if n == best else 1.2
        axes.plot(
            range(len(tracks)), line, color=colors(0.9 * quality[n]), linewidth=width, alpha=0.85
        )
    axes.set_xticks(range(len(tracks)), [name for name, *_ in tracks])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.1, len(tracks) - 0.6)
