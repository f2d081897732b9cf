"""Which labelled examples, in which order: a label budget, and the examples of each step.
finetune.py asks for the indices of a step and makes the batch from them: no iterator state.
Everything is a pure function of a seed, the same in every arm of a comparison (law 1).
"""

import functools
from collections.abc import Iterator

import grain
import numpy as np

PADDING = -1  # an index that stands for no example


def subset(labels: np.ndarray, examples: int, seed: int) -> np.ndarray:
    """Indices int64[examples], ascending, of a stratified random subset; 0: all of them.

    labels int[N]. Of each class as large a share as of the whole, every class at least once if
    there is room; a larger budget of the same seed contains the smaller one. ValueError if there
    are fewer examples.
    """
    labels = np.asarray(labels)
    if not 0 <= examples <= len(labels):
        raise ValueError(
            f"task.examples={examples} with {len(labels)} labelled examples: "
            "expected at most as many as there are; lower it, or 0 for all"
        )
    if not examples:
        return np.arange(len(labels))
    random = np.random.Generator(np.random.Philox(seed))
    order = random.permutation(len(labels))  # ties between classes, and the order within each
    classes, inverse, sizes = np.unique(labels[order], return_inverse=True, return_counts=True)
    rank = np.empty(len(labels))
    for number in range(len(classes)):
        rank[inverse == number] = np.arange(sizes[number])
    # The k-th example of a class comes when the share k / size of every class has been taken.
    first = np.argsort(rank / sizes[inverse], kind="stable")[:examples]
    return np.sort(order[first])


def indices_at(step: int, batch: int, examples: int, seed: int) -> np.ndarray:
    """Indices int64[batch] of the examples of step `step` (0-based): epochs one after another, each
    a permutation of its own, cut into batches without regard to where one ends."""
    return np.array(_stretch(step, batch, examples, seed), np.int64)


def alike_at(step: int, batch: int, lengths: np.ndarray, window: int, seed: int) -> np.ndarray:
    """As `indices_at`, of examples of `lengths` int[N], in batches of like length: what `window` steps
    read is sorted by length, cut into batches, and those are read in random order."""
    block, place = divmod(step, window)
    indices = np.array(_stretch(block, window * batch, len(lengths), seed), np.int64)
    groups = indices[np.argsort(lengths[indices], kind="stable")].reshape(window, batch)
    return groups[np.random.Generator(np.random.Philox([seed, block])).permutation(window)[place]]


@functools.lru_cache(maxsize=4)
def _stretch(number, size, examples, seed):
    order = _order(examples, seed)
    return tuple(order[i] for i in range(number * size, (number + 1) * size))


@functools.lru_cache(maxsize=64)
def _order(examples, seed):
    # Grain draws each epoch's permutation from (seed, epoch); it takes seeds of 32 bits.
    return grain.MapDataset.range(examples).shuffle(seed=seed % 2**32).repeat()


def evaluation_indices(examples: int, batch: int) -> Iterator[np.ndarray]:
    """int64[batch] at a time, every example once and in order; the last filled up with PADDING."""
    padded = np.full(-(-examples // batch) * batch, PADDING, np.int64)
    padded[:examples] = np.arange(examples)
    yield from padded.reshape(-1, batch)
