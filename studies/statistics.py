"""The few statistics of a comparison over paired seeds, with NumPy.

studies/results.py applies them to the cells of a study. Seed s fixes the label subset, the head and
the order in every arm, so arms are compared pair by pair.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spread:
    """A sample's mean, its standard deviation (n - 1 in the denominator) and the mean's error.

    With one value the deviation and the error are not defined: nan.
    """

    mean: float
    deviation: float
    error: float
    count: int


@dataclasses.dataclass(frozen=True)
class Paired:
    """One arm against another over the same seeds.

    Attributes:
      difference: Spread of (arm - reference), one difference a seed.
      ratio: mean difference over its standard error; nan with fewer than two seeds, infinite
        where every pair differs by exactly the same amount.
      won: pairs in which the arm is strictly better.
      tied: pairs in which both are equal.
    """

    difference: Spread
    ratio: float
    won: int
    tied: int


def spread(values):
    """Spread of a non-empty sequence of numbers."""
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise ValueError("spread of no values; expected at least one seed; run a cell first")
    deviation = float(values.std(ddof=1)) if values.size > 1 else math.nan
    return Spread(float(values.mean()), deviation, deviation / math.sqrt(values.size), values.size)


def paired(arm, reference):
    """Compares {seed: value} of an arm with {seed: value} of a reference over the seeds of both."""
    seeds = sorted(arm.keys() & reference.keys())
    if not seeds:
        raise ValueError(
            f"no seed in common between {sorted(arm)} and {sorted(reference)}; "
            f"expected the same seeds in every arm; let the study finish"
        )
    differences = np.array([arm[seed] - reference[seed] for seed in seeds])
    difference = spread(differences)
    if difference.error:
        ratio = difference.mean / difference.error  # nan for a single seed
    else:
        ratio = math.copysign(math.inf, difference.mean) if difference.mean else math.nan
    won, tied = int((differences > 0).sum()), int((differences == 0).sum())
    return Paired(difference, ratio, won, tied)


def proportion_error(accuracy, examples):
    """Standard error of an accuracy measured on `examples` independent examples (binomial)."""
    return math.sqrt(accuracy * (1.0 - accuracy) / examples)
