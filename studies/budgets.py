"""Scores by the budget of pretraining, of several sweeps: where one way of pretraining passes another.

    python -m studies.budgets --workdirs runs/masked runs/causal --output=runs/budgets

Reads finished and running sweeps, such as configs/sweeps/masked_or_causal.py; writes results.json,
budgets.png and report.html.
"""

from training import cli

FLAGS = (
    ("--workdirs", {"required": True, "nargs": "+", "metavar": "DIR",
                    "help": "directories of sweeps that pretrain and finetune; the first is the reference"}),
    ("--output", {"required": True, "metavar": "DIR", "help": "directory of the report"}),
    ("--metric", {"default": "accuracy", "help": "metric of the test split; chooses the lr on validation"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip


def main(argv):
    """The command line of this file. Defined before the other imports, which `cli` makes in the process that
    it starts again."""
    given = cli.flags_parser(__doc__, FLAGS).parse_args(argv)
    from studies import budgets

    budgets.write(given.workdirs, given.output, given.metric)


if __name__ == "__main__":
    cli.main(main)

import itertools
import logging
import math
import pathlib

from studies import figures, results, table
from sweeps import drawing, manifest, page, run_files, statistics
from sweeps.table import quantity
from training import paths
from training.config import ConfigError

log = logging.getLogger("triptych")

COLORS = ("#1f6feb", "#d98a00", "#8a4fbe", "#1a7f37", "#cf222e", "#7d8590")
SAME = 0.05  # budgets that differ by less, relative, are one


def write(workdirs, output, metric="accuracy"):
    """Writes the report of several sweeps to the directory `output`; returns the content of results.json.

    Raises ConfigError for a directory without finished runs of the metric."""
    sweeps = [load(pathlib.Path(workdir), metric) for workdir in workdirs]
    names = [sweep["name"] for sweep in sweeps]
    for sweep, workdir in zip(sweeps, workdirs, strict=True):
        if names.count(sweep["name"]) > 1:
            sweep["name"] += f" ({workdir})"
    if (pathlib.Path(output) / manifest.MANIFEST).exists():
        raise ConfigError(
            f"--output={str(output)!r} is a sweep, which has a report; name another directory"
        )
    found = {
        "title": "Scores by the budget of pretraining", "metric": metric, "sweeps": sweeps,
        "pairs": [compare(sweeps[0], other) for other in sweeps[1:]],
    }  # fmt: skip
    folder = pathlib.Path(paths.make_directory(output, "output"))
    manifest.write_json(folder / "results.json", found)
    panels = [("Test " + metric, lambda axes: draw(found, axes))]
    panels += [
        (pair["name"], lambda axes, pair=pair: draw_pair(pair, axes))
        for pair in found["pairs"]
        if pair["points"]
    ]
    drawing.save_png(panels, folder / "budgets.png", columns=2)
    environment = page.environment(pathlib.Path(__file__).parent)
    text = environment.get_template("budgets.html").render(
        found,
        panels=panels,
        svg=drawing.svg,
        table=table,
        quantity=quantity,
        notes=list(notes(found)),
    )
    (folder / "report.html").write_text(text, encoding="utf-8")
    for line in lines(found):
        log.info(line)
    for name in ("results.json", "budgets.png", "report.html"):
        log.info(f"wrote {folder / name}")
    return found


def load(workdir, metric):
    """{'name', 'command', 'num_finished', 'num_planned', 'budgets': [{'tokens', 'flops', 'learning_rate',
    'scores': {seed: test score}}]} of a sweep, by ascending tokens of all its pretraining stages."""
    head, configs, planned = manifest.read_sweep(workdir)
    runs = {run["folder"]: run for run in planned}
    finetuned = [run for run in planned if run["program"] == "finetune.py" and run["parent"]]
    cells = []
    for run in finetuned:
        if not run_files.is_finished(workdir / run["folder"], "finetune.py"):
            continue
        scores = run_files.scores(workdir / run["folder"], "finetune.py")
        if f"validation/{metric}" not in scores or f"test/{metric}" not in scores:
            raise ConfigError(
                f"{workdir / run['folder']} has no validation/{metric} or test/{metric}; expected one of "
                f"{', '.join(sorted(scores))} as --metric, without its split"
            )
        split_scores = {split: scores[f"{split}/{metric}"] for split in ("validation", "test")}
        cells.append(results.cell_of(run, configs[run["folder"]]["config"]) | split_scores)
    if not cells:
        raise ConfigError(
            f"--workdirs: {str(workdir)!r} has no finished finetuning run; expected the --workdir of python "
            f"-m tools.sweep --config=configs/sweeps/masked_or_causal.py"
        )
    kinds = {(cell["base_model"], cell["label_budget"], cell["condition"]) for cell in cells}
    if len(kinds) > len({cell["base_model"] for cell in cells}):
        raise ConfigError(
            f"--workdirs: {str(workdir)!r} has several numbers of labels or initializations of a pretraining "
            f"run; expected one"
        )
    about = paths.read_object(workdir / cells[0]["folder"] / "manifest.json")
    found = {}
    for cell in results.best_rates(cells, run_files.sign_of(metric, about.get("best_metric", " "))):
        budget = found.setdefault(
            cell["base_model"], {"learning_rate": cell["learning_rate"], "scores": {}}
        )
        budget["scores"][cell["seed"]] = cell["test"]
    parents = {results.name_of(run["parent"]): run["parent"] for run in finetuned}
    budgets = [cost(workdir, runs, parents[name]) | budget for name, budget in found.items()]
    budgets.sort(key=lambda budget: budget["tokens"])
    return {
        "name": head["title"].removeprefix("Budgets of pretraining: "), "command": head["command"],
        "num_finished": len(cells), "num_planned": len(finetuned), "budgets": budgets,
    }  # fmt: skip


def cost(workdir, runs, folder):
    """{'tokens', 'flops'} of a pretraining run with all runs that it continues."""
    total = {"tokens": 0, "flops": 0}
    while folder:
        own = run_files.quantities(workdir / folder)
        total = {name: value + own.get(name, 0) for name, value in total.items()}
        folder = runs[folder]["parent"]
    return total


def compare(reference, other):
    """{'name', 'points': [{'tokens', 'paired'}], 'crossing'}: differences other - reference at the budgets
    that both have, paired by seed, and where they change their sign."""
    points, curves = [], {}
    for one, two in itertools.product(reference["budgets"], other["budgets"]):
        seeds = one["scores"].keys() & two["scores"].keys()
        if abs(math.log(two["tokens"] / one["tokens"])) < SAME and seeds:
            paired = statistics.paired(two["scores"], one["scores"])
            points.append({"tokens": one["tokens"], "paired": statistics.record(paired)})
            for seed in seeds:
                difference = two["scores"][seed] - one["scores"][seed]
                curves.setdefault(seed, []).append((one["tokens"], difference))
    return {
        "name": f"{other['name']} minus {reference['name']}", "points": points,
        "crossing": crossing(list(curves.values())),
    }  # fmt: skip


def crossing(curves):
    """{'tokens', 'interval95', 'count', 'never'}: where [(tokens, difference), ...] of each seed first
    changes its sign, linear in the logarithm of the tokens: geometric mean over the seeds that do
    ('count'), with Student's 95 % interval. 'tokens' is None if fewer than half of them do."""
    places = []
    for curve in curves:
        sides = [(tokens, difference) for tokens, difference in curve if difference]
        for (few, before), (many, after) in itertools.pairwise(sides):
            if before * after < 0:
                ties = [math.log(tokens) for tokens, _ in curve if few < tokens < many]
                share = before / (before - after)
                place = math.log(few) + share * (math.log(many) - math.log(few))
                places.append(statistics.spread(ties or [place]).mean)
                break
    found = {
        "tokens": None,
        "interval95": None,
        "count": len(places),
        "never": len(curves) - len(places),
    }
    if places and len(places) >= found["never"]:
        found["tokens"], found["interval95"] = statistics.geometric_mean(places)
    return found


def describe(pair):
    """The crossing of a pair in words."""
    found = pair["crossing"]
    seeds = found["count"] + found["never"]
    if not pair["points"]:
        return f"{pair['name']}: no budget in common"
    if found["tokens"] is None:
        return f"{pair['name']}: no change of sign in {found['never']} of {seeds} seeds"
    between = " to ".join(quantity(end) for end in found["interval95"] or ())
    return (
        f"{pair['name']}: changes its sign at {quantity(found['tokens'])} tokens"
        + f" ({between})" * bool(between) + f" in {found['count']} of {seeds} seeds"
    )  # fmt: skip


def lines(found):
    """The report as lines of text."""
    for sweep in found["sweeps"]:
        yield sweep["name"]
        for budget in sweep["budgets"]:
            spread = statistics.spread(list(budget["scores"].values()))
            yield (
                f"  {quantity(budget['tokens']):>8} tokens  {quantity(budget['flops']):>8} FLOPs  "
                f"lr {budget['learning_rate']:g}  {table.format_spread(spread.mean, spread.std)}"
            )
    for pair in found["pairs"]:
        yield pair["name"]
        for point in pair["points"]:
            yield f"  {quantity(point['tokens']):>8} tokens  {table.format_difference(point['paired'])}"
    yield from notes(found)


def notes(found):
    """Yields the notes below the tables, as lines of text."""
    yield f"test {found['metric']}: mean ± s.d. over seeds; difference: mean ± 95 % interval, paired by seed"
    yield from map(describe, found["pairs"])
    for sweep in found["sweeps"]:
        if sweep["num_finished"] < sweep["num_planned"]:
            yield (
                f"INCOMPLETE: {sweep['name']}: {sweep['num_finished']} of {sweep['num_planned']} finetuning "
                f"runs have finished"
            )


def draw(found, axes):
    """Test scores by tokens: mean and 95 % interval of each sweep."""
    for sweep, color in zip(found["sweeps"], itertools.cycle(COLORS), strict=False):
        x = [budget["tokens"] for budget in sweep["budgets"]]
        values = [list(budget["scores"].values()) for budget in sweep["budgets"]]
        figures.draw_band(axes, x, values, color)
        means = [statistics.spread(each).mean for each in values]
        axes.plot(x, means, "o-", color=color, linewidth=2, label=sweep["name"])
    label_tokens(axes, sorted({b["tokens"] for sweep in found["sweeps"] for b in sweep["budgets"]}))
    figures.add_labels(axes, "tokens of pretraining", f"test {found['metric']}")


def draw_pair(pair, axes):
    """Differences by tokens with their 95 % intervals, and the budget where they change their sign."""
    x = [point["tokens"] for point in pair["points"]]
    means = [point["paired"]["mean"] for point in pair["points"]]
    halves = [point["paired"]["interval95"] or 0.0 for point in pair["points"]]
    lines = axes.plot(x, means, "o-", color=COLORS[0], label="difference, 95 % interval")
    axes.errorbar(x, means, halves, fmt="none", ecolor=COLORS[0], capsize=3)
    axes.axhline(0, color="black", linewidth=1)
    if pair["crossing"]["tokens"] is not None:
        place = pair["crossing"]["tokens"]
        lines.append(axes.axvline(place, color=COLORS[1], linestyle="--", label="change of sign"))
    label_tokens(axes, x)
    figures.add_labels(axes, "tokens of pretraining", "difference", lines)


def label_tokens(axes, tokens):
    """A logarithmic axis with these numbers of tokens; of several that are one budget, the first."""
    places = [n for last, n in itertools.pairwise([0, *tokens]) if n > (1 + SAME) * last]
    axes.set_xscale("log")
    axes.set_xticks(places, [quantity(place) for place in places])
    axes.minorticks_off()
