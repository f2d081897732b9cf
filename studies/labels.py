"""The labelled splits of a study as text, for the classic baseline: the same examples, the same subsets.

Read through the room that finetuning reads them through; called once by studies/three_ways.py.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from data import labelled
from tasks import batches
from tasks.config import TaskConfig
from training import config as configs


@dataclasses.dataclass(frozen=True)
class Labels:
    """Text and labels of each split, and the function that draws a label subset.

    Attributes:
      train, validation, test: (texts, labels), two lists of equal length; pairs are joined by a newline.
      subset: (labels, budget, seed) -> indices into train, as finetuning draws them.
    """

    train: tuple
    validation: tuple
    test: tuple
    subset: Callable


def of(config):
    """Labels of the task of a finetuning config (ConfigDict).

    Raises ValueError when the set has no labelled test split: there is nothing to compare on.
    """
    task = configs.resolve(TaskConfig, config.get("task", {}), "config.task")
    splits = labelled.load(
        task.source,
        task.text,
        task.text_pair,
        task.label,
        validation_fraction=task.validation_fraction,
    )
    if "test" not in splits or not splits["test"].label:
        raise ValueError(
            f"config.task.source={task.source!r} has no labelled test split; expected one to compare on; "
            f"add a test file with labels"
        )
    return Labels(*(_texts(splits[name]) for name in ("train", "validation", "test")), _subset)


def _subset(labels, budget, seed):
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
    return batches.subset(np.array([numbers[label] for label in labels]), budget, seed)


def _texts(split):
    if split.text_pair is None:
        return split.text, split.label
    pairs = zip(split.text, split.text_pair, strict=True)
    return ["\n".join(pair) for pair in pairs], split.label
