"""Statistics of a comparison over paired seeds, with NumPy.

Seed s fixes the label subset, the head and the data order in every condition, so conditions are
compared seed by seed. sweeps/results.py applies this to the runs of a sweep, studies/results.py to the
finetuning runs of a study.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and spread of a sample."""

    mean: float
    std: float | None  # n - 1 in the denominator; None for a single value
    stderr: float | None  # standard error of the mean; None for a single value
    count: int


@dataclasses.dataclass(frozen=True)
class Paired(Spread):
    """Differences (condition - reference), one per seed."""

    wins: int  # seeds for which the condition is strictly better
    ties: int  # seeds for which both are equal


def spread(values):
    """Spread of a non-empty sequence of numbers."""
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise ValueError("spread of 0 values; expected at least one seed; finish a run first")
    std = float(values.std(ddof=1)) if values.size > 1 else None
    stderr = None if std is None else std / math.sqrt(values.size)
    return Spread(float(values.mean()), std, stderr, values.size)


def interval95(spread):
    """Half of Student's 95 % interval of the mean of a Spread; None for a single value."""
    if spread.stderr is None:
        return None
    from scipy import stats  # half a second

    return float(stats.t.ppf(0.975, spread.count - 1)) * spread.stderr


def geometric_mean(logarithms):
    """(geometric mean, Student's 95 % interval [low, high] or None for a single value) of positive numbers,
    from their natural logarithms."""
    found = spread(logarithms)
    half = interval95(found)
    ends = None if half is None else [math.exp(found.mean - half), math.exp(found.mean + half)]
    return math.exp(found.mean), ends


def record(spread):
    """A Spread as a dict of JSON values, with half of its 95 % interval."""
    return {**dataclasses.asdict(spread), "interval95": interval95(spread)}


def paired(scores, reference):
    """Paired comparison of {seed: score} with the {seed: score} of a reference, over common seeds."""
    seeds = sorted(scores.keys() & reference.keys())
    if not seeds:
        raise ValueError(
            f"seeds {sorted(scores)} and {sorted(reference)} have none in common; expected the same seeds "
            f"in every condition; let the study finish"
        )
    differences = np.array([scores[seed] - reference[seed] for seed in seeds])
    wins, ties = int((differences > 0).sum()), int((differences == 0).sum())
    return Paired(**dataclasses.asdict(spread(differences)), wins=wins, ties=ties)


def accuracy_stderr(accuracy, num_examples):
    """Standard error of an accuracy measured on `num_examples` independent examples (binomial)."""
    return math.sqrt(accuracy * (1.0 - accuracy) / num_examples)
