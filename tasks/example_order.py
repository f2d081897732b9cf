"""Which labeled examples a step reads: a label budget, and the order of the examples.

Pure functions of a seed, equal in every condition of a comparison; there is no iterator state.
"""

import functools
from collections.abc import Iterator

import grain
import numpy as np

PADDING = -1  # the index of a padding row


def stratified_subset(labels: np.ndarray, num_examples: int, seed: int) -> np.ndarray:
    """Indices int64[num_examples], ascending, of a random subset; 0: all of them.

    labels int[N]. Each class keeps its share, and at least one example if the budget allows it. With
    the same seed, a larger budget contains the smaller one. Raises ValueError for too large a budget.
    """
    labels = np.asarray(labels)
    if not 0 <= num_examples <= len(labels):
        raise ValueError(
            f"task.num_train_examples={num_examples}, but there are {len(labels)} labeled examples: lower "
            "it, or set it to 0 for all of them"
        )
    if not num_examples:
        return np.arange(len(labels))
    random = np.random.Generator(np.random.Philox(seed))
    order = random.permutation(len(labels))  # breaks ties between classes, and orders each class
    classes, inverse, sizes = np.unique(labels[order], return_inverse=True, return_counts=True)
    rank = np.empty(len(labels))
    for number in range(len(classes)):
        rank[inverse == number] = np.arange(sizes[number])
    # The k-th example of a class follows once every class has given the share k / size.
    first = np.argsort(rank / sizes[inverse], kind="stable")[:num_examples]
    return np.sort(order[first])


def shuffled_at(step: int, batch_size: int, num_examples: int, seed: int) -> np.ndarray:
    """Indices int64[batch_size] of the examples of a step: one permutation per epoch, one epoch after
    another, cut into batches that may span two epochs."""
    return np.array(_block(step, batch_size, num_examples, seed), np.int64)


def grouped_at(
    step: int, batch_size: int, lengths: np.ndarray, window: int, seed: int
) -> np.ndarray:
    """Like `shuffled_at`, but each batch has examples of similar length: the examples of `window` steps
    are sorted by their lengths int[N] and cut into batches, which are read in random order."""
    number, place = divmod(step, window)
    indices = np.array(_block(number, window * batch_size, len(lengths), seed), np.int64)
    groups = indices[np.argsort(lengths[indices], kind="stable")].reshape(window, batch_size)
    return groups[np.random.Generator(np.random.Philox([seed, number])).permutation(window)[place]]


@functools.lru_cache(maxsize=4)
def _block(number, size, num_examples, seed):
    order = _order(num_examples, seed)
    return tuple(order[i] for i in range(number * size, (number + 1) * size))


@functools.lru_cache(maxsize=64)
def _order(num_examples, seed):
    # Grain draws the permutation of each epoch from (seed, epoch); its seeds have 32 bits.
    return grain.MapDataset.range(num_examples).shuffle(seed=seed % 2**32).repeat()


def sequential(num_examples: int, batch_size: int) -> Iterator[np.ndarray]:
    """int64[batch_size] at a time: every example once, in order; PADDING fills the last batch."""
    padded = np.full(-(-num_examples // batch_size) * batch_size, PADDING, np.int64)
    padded[:num_examples] = np.arange(num_examples)
    yield from padded.reshape(-1, batch_size)
