"""From the run directories of a sweep to the content of a study's results.json, also while it runs.

Called by studies/three_ways.py; sweeps/manifest.py knows the runs and their configs.
"""

import dataclasses
import itertools

from studies import label_value
from studies.table import ARCHITECTURES
from sweeps import manifest, run_files, statistics
from training import logs, paths
from training.config import ConfigError

FORMAT = 5  # of results.json
# The first that a study has is the reference.
CONDITIONS = ("random", "vectors", "embeddings", "pretrained")
# Fields of a run's manifest that describe its code and machine.
ENVIRONMENT = ("commit", "python", "versions", "devices", "cores")
MAX_CURVE_POINTS = 200


def load(workdir):
    """(results without 'baseline', the resolved config of a finetuning run) of a sweep, from the runs that
    have finished so far.

    Of several learning rates, each initialization and number of labels has the best on validation.
    Raises ConfigError if `workdir` is not a sweep that pretrains and finetunes, if no finetuning run has
    finished, or if two of them have different labels.
    """
    head, configs, planned = manifest.read_sweep(workdir)
    cells = [
        cell_of(record, configs[record["folder"]]["config"])
        for record in planned
        if record["program"] == "finetune.py" and record["parent"]
    ]
    if not cells:
        raise ConfigError(
            f"--workdir={str(workdir)!r} is not a sweep that pretrains and finetunes; expected the --workdir "
            f"of python -m tools.sweep --config=configs/sweeps/three_ways.py"
        )
    done = [
        cell for cell in cells if run_files.is_finished(workdir / cell["folder"], "finetune.py")
    ]
    if not done:
        raise ConfigError(
            f"no finetuning run of the sweep in {str(workdir)!r} has finished; expected at least one; "
            f"repeat its command, or wait"
        )
    pretraining = {}
    for record in planned:
        folder = workdir / record["folder"]
        if record["program"] == "train.py" and run_files.is_finished(folder, "train.py"):
            about = _pretraining(folder, configs[record["folder"]]["config"])
            pretraining[name_of(record["folder"])] = {"folder": record["folder"], **about}
    if missing := sorted({cell["base_model"] for cell in done} - pretraining.keys()):
        raise ConfigError(
            f"pretraining run {missing[0]!r} of the sweep in {str(workdir)!r} has no final checkpoint; "
            "repeat the sweep's command"
        )
    headings = [about["heading"] for about in pretraining.values()]
    for name, about in pretraining.items():
        if headings.count(about["heading"]) > 1:
            about["heading"] += f" ({name})"
    num_finished = len(done)
    for cell in done:
        cell |= _scores(workdir / cell["folder"])
    labels = {cell.pop("data"): cell["folder"] for cell in done}
    if len(labels) > 1:
        one, other = list(labels.values())[:2]
        raise ConfigError(
            f"{one} and {other} have different labels, whose files changed between the two; delete the "
            f"directories of the older runs and repeat the sweep's command"
        )
    done = best_rates(done)
    names = {"base_model": "base_models", "label_budget": "label_budgets", "seed": "seeds"}
    plan = {names[key]: list(dict.fromkeys(cell[key] for cell in cells)) for key in names}
    found = {cell["condition"] for cell in cells}
    plan["conditions"] = [name for name in CONDITIONS if name in found]
    plan["learning_rates"] = sorted({cell["learning_rate"] for cell in cells})
    plan["tuned"] = len({(*_group(cell), cell["seed"]) for cell in cells}) < len(cells)
    first = next(iter(pretraining.values()))
    results = {
        "format": FORMAT,
        "title": head["title"],
        "command": head["command"],
        "file": head["file"],
        "num_finished": num_finished,
        "num_planned": len(cells),
        "plan": plan,
        "fingerprints": sorted({record["fingerprint"] for record in pretraining.values()}),
        "label_fingerprints": list(labels),
        "environment": first["environment"],
        "pretraining": pretraining,
        "summary": summarize(plan, pretraining, done),
        "cells": done,
    }
    return results, configs[done[0]["folder"]]["config"]


def name_of(folder):
    """'pretrain/encoder' -> 'encoder'."""
    return folder.partition("/")[2]


def cell_of(record, config):
    """One finetuning run of a study."""
    return {
        "folder": record["folder"],
        "base_model": name_of(record["parent"]),
        "condition": "vectors" if config.get("embeddings_from") else config["init"],
        "label_budget": config["task"].get("num_train_examples", 0),
        "seed": config["seed"]["data"],
        "learning_rate": config["optimizer"]["learning_rate"],
        "vectors": config.get("embeddings_from", ""),
    }


def _group(cell):
    return cell["base_model"], cell["label_budget"], cell["condition"]


def best_rates(cells, sign=1.0):
    """The cells of the learning rate with the best mean validation score, of each group; sign: -1.0 if lower
    is better. Rates with fewer finished seeds than another one, of an unfinished sweep or after a failed run,
    are not candidates."""
    scores = {}
    for cell in cells:
        seeds = scores.setdefault(_group(cell), {}).setdefault(cell["learning_rate"], {})
        if cell["seed"] in seeds:
            raise ConfigError(
                f"{cell['folder']}: another run has the same model, initialization, labels, learning rate "
                "and seed; expected a sweep over these alone"
            )
        seeds[cell["seed"]] = cell["validation"]
    best = {}
    for group, rates in scores.items():
        most = max(map(len, rates.values()))
        means = {rate: sum(v.values()) / most for rate, v in rates.items() if len(v) == most}
        best[group] = max(means, key=lambda rate, means=means: sign * means[rate])
    return [cell for cell in cells if cell["learning_rate"] == best[_group(cell)]]


def _scores(folder):
    """The accuracies and curves of a finished finetuning run. Raises ConfigError if it has none."""
    scores = run_files.scores(folder, "finetune.py")
    for name in ("test/accuracy", "validation/accuracy"):
        if name not in scores:
            raise ConfigError(
                f"{folder} has no {name}; expected a task with classes, labeled validation and test splits, "
                f"and evaluation.test=True (a sweep with tune= has no test scores: run the study's sweep "
                f"there)"
            )
    return {
        "data": paths.read_object(folder / "manifest.json").get("data", ""),
        "validation": scores["validation/accuracy"],
        "test": scores["test/accuracy"],
        "curves": {
            "accuracy": _curve(folder, "validation", "accuracy"),
            "loss": _curve(folder, "train", "loss"),
        },
    }


def _pretraining(folder, config):
    """The record of a finished pretraining run."""
    about = paths.read_object(folder / "manifest.json")
    architecture = config["model"]["architecture"]
    return {
        "heading": ARCHITECTURES.get(architecture, architecture),
        "objective": config["objective"]["name"],
        "matched": run_files.quantities(folder),  # of the whole run; parameters without embeddings
        "target_entropy": about["target_entropy"].get("loss"),
        "fingerprint": about["data"],
        "environment": {key: about[key] for key in ENVIRONMENT},
        "curves": {split: _curve(folder, split, "loss") for split in ("train", "validation")},
    }


def _curve(run, split, metric):
    """[[step, value], ...] of a metric in a run's metrics.jsonl, thinned out for plots."""
    lines = logs.read_metrics(run, split)
    return thin_out([[line["step"], line[metric]] for line in lines if metric in line])


def thin_out(points, limit=MAX_CURVE_POINTS):
    """At most `limit` points: the mean of each group of neighbors, at the last step of the group."""
    size = -(-len(points) // limit) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [[group[-1][0], sum(value for _, value in group) / len(group)] for group in groups]


def summarize(plan, pretraining, cells):
    """Rows of the table: one per pretraining run, label budget and condition with a finished cell."""
    scores, rates, rows, vectors = {}, {}, [], {}
    for cell in cells:
        vectors[_group(cell)] = cell["vectors"]
        scores.setdefault(_group(cell), {})[cell["seed"]] = cell["test"]
        rates[_group(cell)] = cell["learning_rate"]
    order = itertools.product(plan["base_models"], plan["label_budgets"], plan["conditions"])
    for group in [group for group in order if group in scores]:
        name, budget, condition = group
        matched = pretraining[name]["matched"]
        if condition in ("random", "vectors"):
            spent = run_files.quantities(vectors[group].partition("@")[0]) if vectors[group] else {}
            same = {"parameters": matched["parameters"]}
            matched = {quantity: spent.get(quantity, 0) for quantity in matched} | same
        row = {
            "base_model": name,
            "label_budget": budget,
            "condition": condition,
            "learning_rate": rates[group],
            "matched": matched,
            "accuracy": dataclasses.asdict(statistics.spread(list(scores[group].values()))),
        }
        reference = (name, budget, plan["conditions"][0])
        others = scores.get(reference, {}) if group != reference else {}
        if scores[group].keys() & others.keys():
            row["paired"] = statistics.record(statistics.paired(scores[group], others))
        if group != reference:
            curves = {b: scores.get((name, b, reference[2]), {}) for b in plan["label_budgets"]}
            row["worth"] = label_value.compare(scores[group], curves)
        rows.append(row)
    return rows
