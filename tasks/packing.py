"""Packed batches of labeled tasks: which row of the model's input an example goes to.

A pure function of the examples of a step, so of (seed, step). objectives/packing.py moves the tokens.
"""

import numpy as np

from objectives.batch import Batch
from objectives.packing import Packing

_MAX_STARTS = 32


def lengths_of(batch: Batch) -> np.ndarray:
    """int[B, K]: tokens of the inputs, and of the decoder inputs where there are some."""
    sides = [side for side in (batch.inputs, batch.decoder_inputs) if side is not None]
    return np.stack([(side.segment_ids > 0).sum(1) for side in sides], 1)


def capacity_of(batch: Batch) -> list[int]:
    """K lengths of a packed row: those of the rows of the batch. A decoder that reads the start token
    alone reads up to _MAX_STARTS of them in a row."""
    widths = [batch.inputs.tokens.shape[1]]
    if batch.decoder_inputs is not None:
        width = batch.decoder_inputs.tokens.shape[1]
        widths.append(width if width > 1 else _MAX_STARTS)
    return widths


def first_fit(lengths: np.ndarray, capacity) -> tuple[np.ndarray, np.ndarray, int]:
    """(row int32[B], offsets int32[B, K], number of rows) of examples of lengths int[B, K], the longest
    first, each in the first row that has space for all of its K sequences.

    capacity: K lengths of a row.
    """
    rows, offsets = np.zeros(len(lengths), np.int32), np.zeros(lengths.shape, np.int32)
    used = np.zeros((len(lengths), lengths.shape[1]), np.int64)
    count = 0
    for example in np.argsort(-lengths.sum(1), kind="stable"):
        fits = (used[:count] + lengths[example] <= capacity).all(1)
        row = int(fits.argmax()) if fits.any() else count
        count = max(count, row + 1)
        rows[example], offsets[example] = row, used[row]
        used[row] += lengths[example]
    return rows, offsets, count


def pack(batch: Batch, num_rows: int, grad_accum_steps: int) -> Batch:
    """The Batch [B, ...] of NumPy arrays with its packing; without one if a microbatch needs more than
    `num_rows` rows. Microbatch m holds the examples m, m + grad_accum_steps, ..."""
    lengths = lengths_of(batch)
    capacity = capacity_of(batch)
    rows, offsets = np.zeros(len(lengths), np.int32), np.zeros(lengths.shape, np.int32)
    for number in range(grad_accum_steps):
        part = slice(number, None, grad_accum_steps)
        rows[part], offsets[part], count = first_fit(lengths[part], capacity)
        if count > num_rows:
            return batch
    packing = Packing(
        rows=rows,
        offsets=offsets[:, 0],
        decoder_offsets=offsets[:, -1],
        num_rows=num_rows,
        width=capacity[0],
        decoder_width=capacity[-1],
    )
    return batch.replace(packing=packing)
