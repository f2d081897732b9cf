"""From the records of finetuning runs to the rows of a table, as JSON values; pure functions.

Called by studies/report.py and studies/objectives.py.
"""

import dataclasses
import itertools

from sweeps import statistics

FORMAT = 2  # of results.json


def summarize(study, pretraining, cells):
    """Rows of the table: one per (architecture, label budget, condition) with a finished cell.

    Args:
      study: StudyConfig.
      pretraining: {architecture: record of its pretraining run}.
      cells: records of the finetuning runs that have finished.
    """
    scores = {}
    for cell in cells:
        group = cell["base_model"], cell["label_budget"], cell["condition"]
        scores.setdefault(group, {})[cell["seed"]] = cell["test"]
    rows = []
    for group in itertools.product(study.architectures, study.label_budgets, study.conditions):
        if group not in scores:
            continue
        architecture, label_budget, condition = group
        matched = pretraining[architecture]["matched"]
        if condition == "random":
            matched = dict.fromkeys(matched, 0) | {"parameters": matched["parameters"]}
        reference = (architecture, label_budget, study.conditions[0])
        row = {
            "base_model": architecture,
            "label_budget": label_budget,
            "condition": condition,
            "learning_rate": study.learning_rate(architecture, condition, label_budget),
            "matched": matched,
        }
        reference_scores = scores.get(reference, {}) if group != reference else {}
        rows.append(row | compare(scores[group], reference_scores))
    return rows


def compare(scores, reference):
    """{'accuracy': {mean, std, ...}} of {seed: score}; and 'paired', the difference from a reference
    that has seeds in common."""
    row = {"accuracy": dataclasses.asdict(statistics.spread(list(scores.values())))}
    if scores.keys() & reference.keys():
        row["paired"] = dataclasses.asdict(statistics.paired(scores, reference))
    return row
