"""From the records of a study to results.json: every cell, what was matched, and the summary rows.

Called by studies/report.py, at the end of a study or at any time before; pure.
"""

import math

from studies import statistics
from training import config as configs

ABOUT = (
    "command",
    "commit",
    "python",
    "versions",
    "devices",
    "cores",
)  # taken from a run's manifest
MATCHED = ("tokens", "parameters", "flops", "targets")  # what every row of the table states


def collect(config, pretraining, cells, baseline):
    """Everything a report is made of, as plain JSON values.

    Args:
      config: StudyConfig.
      pretraining: {architecture: record of its pretraining}.
      cells: records of finetuning runs, in any number.
      baseline: record of studies.baselines.run.
    """
    wanted = len(config.architectures) * len(config.arms) * len(config.budgets) * len(config.seeds)
    return {
        "format": 1,
        "complete": len(cells) == wanted,
        "cells_done": len(cells),
        "cells_wanted": wanted,
        "config": configs.to_dict(config),
        "fingerprint": sorted({record["fingerprint"] for record in pretraining.values()}),
        "about": next(iter(pretraining.values()))["about"] if pretraining else {},
        "pretraining": pretraining,
        "baseline": baseline,
        "summary": summary(config, pretraining, cells),
        "cells": cells,
    }


def summary(config, pretraining, cells):
    """Rows of the table: one per (architecture, labels, arm) that has a finished cell."""
    rows = []
    for architecture in config.architectures:
        for budget in config.budgets:
            scores = {
                arm: {
                    cell["seed"]: cell["test"]
                    for cell in cells
                    if (cell["architecture"], cell["budget"], cell["arm"])
                    == (architecture, budget, arm)
                }
                for arm in config.arms
            }
            reference = scores[config.arms[0]]
            for arm in config.arms:
                if not scores[arm]:
                    continue
                rows.append(
                    _row(architecture, budget, arm, scores[arm], reference, config, pretraining)
                )
    return rows


def _row(architecture, budget, arm, scores, reference, config, pretraining):
    accuracy = statistics.spread(list(scores.values()))
    row = {
        "architecture": architecture,
        "budget": budget,
        "arm": arm,
        "rate": config.rate(architecture, arm, budget),
        "accuracy": _numbers(accuracy),
        "matched": {
            name: 0
            if arm == "none" and name != "parameters"
            else pretraining[architecture]["matched"][name]
            for name in MATCHED
        },
    }
    if arm != config.arms[0] and scores.keys() & reference.keys():
        row["paired"] = {"reference": config.arms[0], **paired(scores, reference)}
    return row


def paired(scores, reference):
    """{seed: score} of two arms -> their paired difference, as a row holds it."""
    found = statistics.paired(scores, reference)
    return {
        **_numbers(found.difference),
        "ratio": _finite(found.ratio),
        "won": found.won,
        "tied": found.tied,
    }


def matched(manifest):
    """What a comparison holds equal or states, out of a pretraining run's manifest.

    Tokens read by the model (both stacks), parameters outside the embedding tables, model FLOPs and
    targets scored, each over the whole run.
    """
    updates = manifest["total_steps"]
    return {
        "tokens": updates * manifest["tokens_per_step"],
        "parameters": manifest["parameters"]["non_embedding"],
        "flops": updates * manifest["flops_per_step"],
        "targets": updates * manifest["targets_per_step"],
    }


def _numbers(spread):
    return {
        "mean": spread.mean,
        "deviation": _finite(spread.deviation),
        "error": _finite(spread.error),
        "count": spread.count,
    }


def _finite(value):
    """JSON has no nan and no infinity: absent is written as null, infinity as a large number."""
    if math.isnan(value):
        return None
    return math.copysign(1e9, value) if math.isinf(value) else value
