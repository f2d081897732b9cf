"""How many labels an initialization is worth: the number with which the reference reaches the same accuracy.

The accuracy of the reference between two measured numbers of labels is linear in their logarithm.
"""

import math
import statistics

import numpy as np

from sweeps.statistics import geometric_mean


def labels_for(curve, accuracy):
    """The number of labels at which a learning curve first reaches an accuracy.

    Args:
      curve: [(number of labels, accuracy)], ascending.

    Returns:
      0.0 if the first point reaches it (with so many labels or fewer), inf if no point does.
    """
    if curve[0][1] >= accuracy:
        return 0.0
    for (few, low), (many, high) in zip(curve, curve[1:], strict=False):
        if high >= accuracy:
            share = (accuracy - low) / (high - low)
            return math.exp(math.log(few) + share * (math.log(many) - math.log(few)))
    return math.inf


def compare(scores, references):
    """The number of labels that an initialization is worth, paired by seed.

    Args:
      scores: {seed: accuracy} of the row.
      references: {number of labels: {seed: accuracy}} of the reference.

    Returns:
      {'labels': geometric mean over the seeds, 'interval95': [low, high], 'median', 'count', 'below',
      'above': seeds outside of the measured numbers, 'least', 'most': these}. 'labels' is None if a seed is
      outside, 'median' if its own is; 'interval95' is None then, and with one seed. None if no seed has two
      measured numbers of labels.
    """
    budgets = sorted(budget for budget in references if budget)  # 0 is all there are
    seeds = [
        seed for seed in scores if len(budgets) > 1 and all(seed in references[b] for b in budgets)
    ]
    if not seeds:
        return None
    values = [
        labels_for([(b, references[b][seed]) for b in budgets], scores[seed]) for seed in seeds
    ]
    found = {
        "labels": None, "interval95": None, "median": None, "count": len(seeds), "below": values.count(0.0),
        "above": values.count(math.inf), "least": budgets[0], "most": budgets[-1],
    }  # fmt: skip
    middle = statistics.median_low(values), statistics.median_high(values)
    if middle[0] > 0.0 and middle[1] < math.inf:
        found["median"] = sum(middle) / 2
    if not found["below"] and not found["above"]:
        found["labels"], found["interval95"] = geometric_mean(np.log(values))
    return found


def describe(found):
    """'540 (310 to 940)'; or '230 in the median (200 or fewer in 1 of 3 seeds)'."""
    if found["labels"] is None:
        of = f"of {found['count']} seeds"
        parts = [f"{found['least']:,} or fewer in {found['below']} {of}"] * bool(found["below"])
        parts += [f"more than {found['most']:,} in {found['above']} {of}"] * bool(found["above"])
        outside = ", ".join(parts)
        median = found["median"]
        return outside if median is None else f"{median:,.0f} in the median ({outside})"
    interval = found["interval95"]
    between = f" ({interval[0]:,.0f} to {interval[1]:,.0f})" if interval else ""
    return f"{found['labels']:,.0f}{between}"
