"""The document of each token of a raw row, and the tokens that an objective may change.
First step of every objective's `corrupt`. A closing token ends each document of a row.
All functions take one row int32[L], have static shapes and work under vmap.
"""

import jax
import jax.numpy as jnp

from objectives.vocabulary import Vocabulary


def document_ids(row: jax.Array, vocabulary: Vocabulary, architecture: str) -> jax.Array:
    """int32[L]: the document number of each token of a raw row, from 1; 0 for padding.

    A document starts after a closing token. For an encoder it also starts at each [CLS], because [CLS]
    replaces the first token of a row: if that was a [SEP], the [CLS] of the next document follows.
    """
    closes = row == vocabulary.closing(architecture)
    starts = left_of(closes, True)
    if architecture == "encoder":
        starts |= row == vocabulary.cls
    numbers = jnp.cumsum(starts, dtype=jnp.int32)
    return jnp.where(row == vocabulary.pad, jnp.zeros_like(numbers), numbers)


def is_regular_token(row: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """bool[L]: 1 = a regular token, that is, one that may be masked, removed or replaced."""
    return in_ranges(row, vocabulary.regular_token_ranges)


def in_ranges(ids: jax.Array, ranges: tuple[tuple[int, int], ...]) -> jax.Array:
    """bool, with the shape of ids: 1 = in one of the half-open ranges."""
    inside = jnp.zeros_like(ids, bool)
    for low, high in ranges:
        inside |= (ids >= low) & (ids < high)
    return inside


def left_of(x: jax.Array, fill: int) -> jax.Array:
    """[L], with the dtype of x: the value to the left of each position; `fill` for the first one."""
    return jnp.concatenate([jnp.full_like(x[:1], fill), x[:-1]])


def last_of(mask: jax.Array) -> jax.Array:
    """int32[L]: the index of the last 1 in mask bool[L] at or before each position; -1 if none."""
    index = jnp.arange(mask.shape[0], dtype=jnp.int32)
    return jax.lax.cummax(jnp.where(mask, index, jnp.full_like(index, -1)))


def next_of(mask: jax.Array) -> jax.Array:
    """int32[L]: the index of the first 1 in mask bool[L] at or after each position; L if none."""
    index = jnp.arange(mask.shape[0], dtype=jnp.int32)
    return jax.lax.cummin(jnp.where(mask, index, jnp.full_like(index, mask.shape[0])), reverse=True)


def runs(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(start, end), int32[L] each: the run of ones in mask bool[L] that contains each position, `end`
    exclusive. Where the mask is 0, end <= start."""
    return last_of(~mask) + 1, next_of(~mask)


def document_lengths(segment_ids: jax.Array) -> jax.Array:
    """int32[L+1]: the number of tokens of each document in the row; entry 0 counts the padding."""
    ones = jnp.ones_like(segment_ids)
    return jax.ops.segment_sum(ones, segment_ids, num_segments=segment_ids.shape[0] + 1)
