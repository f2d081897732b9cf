"""The few shapes that batches of examples of similar length are padded to: each shape is one program.

Functions of the lengths of the examples alone, equal for every seed; used by tasks/loaded_labeled_task.py.
"""

import numpy as np

MAX_SHAPES = 4  # of training batches
_STEP = 8  # shapes are multiples of this
_SAMPLE = 2000  # batches by which shapes are chosen
_MAX_CANDIDATES = 256


def length_keys(lengths: np.ndarray) -> np.ndarray:
    """int64[N]: sorted by it, neighbors need little padding. lengths int[N, K], of the K sequences
    of an example: the order is by the first, and for equal padding by the second."""
    keys = lengths[:, 0].astype(np.int64)
    if lengths.shape[1] > 1:
        keys = -(-keys // _STEP) * 2**32 + lengths[:, 1]
    return keys


def choose_shapes(
    lengths: np.ndarray, full: tuple[int, ...], batch_size: int, window: int
) -> tuple[tuple[int, ...], ...]:
    """At most MAX_SHAPES shapes, ascending, that give the least padding to a sample of batches.

    The last one holds every batch.

    Args:
      lengths: int[N, K], of the K sequences of each training example.
      full: K lengths, the largest shape.
      batch_size, window: as in `example_order.grouped_at`.
    """
    random, size = np.random.Generator(np.random.Philox(0)), window * batch_size
    count = max(size, min(len(lengths) + size, _SAMPLE * batch_size))
    epochs = -(-count // len(lengths))
    order = np.concatenate([random.permutation(len(lengths)) for _ in range(epochs)])
    keys, longest = length_keys(lengths), []
    for start in range(0, count - size + 1, size):
        block = order[start : start + size]
        block = block[np.argsort(keys[block], kind="stable")]
        longest.append(lengths[block].reshape(window, batch_size, -1).max(1))
    return cover(np.concatenate(longest), lengths.max(0), full)


def cover(longest: np.ndarray, top, full: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """At most MAX_SHAPES shapes for batches whose longest sequences have the lengths int[M, K]; the last
    one holds `top`, K lengths. For K = 1 their padding is minimal.

    Batches are sorted by their size and divided into MAX_SHAPES groups at the best places; each group is
    padded to the maximum of its lengths, the last one to `top`.
    """
    step, full = _STEP, np.array(full)
    while True:  # a coarser grid if there are too many different lengths to try all divisions
        rounded = np.minimum(-(-longest // step) * step, full)
        shapes, counts = np.unique(rounded, axis=0, return_counts=True)
        if len(shapes) <= _MAX_CANDIDATES:
            break
        step *= 2
    order = np.argsort(shapes.sum(1), kind="stable")
    shapes, counts, n = shapes[order], counts[order], len(shapes)
    top = np.minimum(-(-np.asarray(top) // _STEP) * _STEP, full)
    # best[k][i] = (the fewest positions of the first i shapes in k groups, start of the last group)
    best = [[(0.0, 0)] + [(np.inf, 0)] * n]
    for number in range(1, MAX_SHAPES + 1):
        row = [(best[-1][i][0], i) for i in range(n + 1)]  # the last group may be empty
        for start in range(n):
            largest, total = np.zeros_like(top), 0
            for end in range(start + 1, n + 1):
                largest, total = np.maximum(largest, shapes[end - 1]), total + counts[end - 1]
                padded = top if number == MAX_SHAPES else largest
                row[end] = min(row[end], (best[-1][start][0] + total * int(padded.sum()), start))
        best.append(row)
    found, end = {tuple(top.tolist())}, best[MAX_SHAPES][n][1]
    for row in best[MAX_SHAPES - 1 : 0 : -1]:
        start = row[end][1]
        if start < end:
            found.add(tuple(shapes[start:end].max(0).tolist()))
        end = start
    return tuple(sorted(found, key=lambda shape: (sum(shape), shape)))


def halved_shapes(full: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """`full` and a half, a quarter and an eighth of it, ascending: shapes for examples of unknown lengths."""
    parts = [[-(-size // divisor) for size in full] for divisor in (8, 4, 2, 1)]
    rounded = (
        tuple(min(size, -(-part // _STEP) * _STEP) for size, part in zip(full, each, strict=True))
        for each in parts
    )
    return tuple(dict.fromkeys(rounded))


def smallest_shape(shapes, lengths) -> tuple[int, ...]:
    """The first of the shapes, ascending, that holds the lengths int[K]; the last one if none does."""
    return next((s for s in shapes if np.less_equal(lengths, s).all()), shapes[-1])
