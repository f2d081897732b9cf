"""The labelled splits of a study as text, for the classic baseline: the same examples, the same subsets.

Read through the room that finetuning reads them through; called once by studies/three_ways.py.
"""

import dataclasses
from collections.abc import Callable


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
