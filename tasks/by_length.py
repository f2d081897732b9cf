"""Predictions of a split from batches of similar lengths: little padding, few compiled shapes.

The order of the examples is restored. Used by tools/predict.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from tasks.example_order import PADDING

_MULTIPLE = 8  # tokens


def widths(longest: int) -> tuple[int, ...]:
    """The lengths that batches are padded to: `longest` and a half, a quarter and an eighth of it,
    rounded up to a multiple of 8."""
    parts = (-(-longest // divisor) for divisor in (8, 4, 2, 1))
    return tuple(sorted({min(longest, -(-part // _MULTIPLE) * _MULTIPLE) for part in parts}))


def batches(lengths: np.ndarray, batch_size: int, longest: int) -> Iterator[tuple[np.ndarray, int]]:
    """(indices int64[batch_size], width) of the batches of rows with lengths int[N], the longest batch
    first; the index PADDING fills the last batch."""
    order = np.argsort(-lengths, kind="stable")
    padded = np.full(-(-len(order) // batch_size) * batch_size, PADDING, np.int64)
    padded[: len(order)] = order
    for indices in padded.reshape(-1, batch_size):
        yield indices, next(w for w in widths(longest) if w >= lengths[indices[0]])


def predict(task, split: str, predict: Callable[[Any], Any], shapes, report=lambda done: None):
    """The predictions of a split, as `tasks.base.evaluate` gives them.

    Args:
      task: LoadedLabeledTask.
      predict: function of a batch that returns its `LoadedTask.outputs`.
      shapes: function of a batch that returns the shapes of its outputs: those that follow the width of
        the batch are padded with zeros to the longest.
      report: receives the number of rows that are done.
    """
    encoded, found, order, waiting = task.encoded[split], [], [], []
    lengths = encoded.lengths.reshape(len(encoded), -1).max(1)  # of several texts: the longest
    longest = encoded.tokens.shape[-1]
    for indices, width in batches(lengths, task.eval_batch_size, longest):
        waiting.append(predict(task.batch(split, indices, width)))
        order.append(indices)
        if len(waiting) > 1:  # the host prepares a batch while the device computes the one before
            found.append(jax.device_get(waiting.pop(0)))
            report(int((indices != PADDING).sum()))
    found += jax.device_get(waiting)
    whole = shapes(task.batch(split, order[0], longest))
    order = np.concatenate(order)
    places = np.argsort(order[order != PADDING])
    outputs = jax.tree.map(
        lambda like, *rows: _joined(rows, like.shape[1:])[: len(places)][places], whole, *found
    )
    return task.collect(split, [outputs])


def _joined(arrays, shape) -> np.ndarray:
    """Arrays [B, ...] along their first axis, each of the others padded to `shape`."""
    return np.concatenate([
        np.pad(a, [(0, 0), *((0, size - had) for size, had in zip(shape, a.shape[1:], strict=True))])
        for a in arrays
    ])  # fmt: skip
