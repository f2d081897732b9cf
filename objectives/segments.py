"""Which document a token of a raw row belongs to, and which tokens may be touched.
First step of every objective's `corrupt`; the stream marks documents by their closing token.
Nothing but comparisons and a running sum: one row int32[L], static shapes, vmappable.
"""

import jax
import jax.numpy as jnp

from objectives.vocabulary import Vocabulary


def documents(row: jax.Array, vocabulary: Vocabulary, architecture: str) -> jax.Array:
    """Segments int32[L] of a raw row: documents numbered from 1, padding 0.

    A document begins after a closing token and, for an encoder, at each [CLS]: a row cut just
    before a [SEP] shows [CLS] there, and the next document's own [CLS] right after it.
    """
    closes = row == vocabulary.closing(architecture)
    begins = left_of(closes, True)
    if architecture == "encoder":
        begins |= row == vocabulary.cls
    numbers = jnp.cumsum(begins, dtype=jnp.int32)
    return jnp.where(row == vocabulary.pad, jnp.zeros_like(numbers), numbers)


def ordinary(row: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """bool[L]: 1 = an ordinary piece, which may be masked, cut out or replaced."""
    return among(row, vocabulary.ordinary)


def among(ids: jax.Array, ranges: tuple[tuple[int, int], ...]) -> jax.Array:
    """bool, as ids: 1 = in one of the half-open ranges."""
    inside = jnp.zeros_like(ids, bool)
    for low, high in ranges:
        inside |= (ids >= low) & (ids < high)
    return inside


def left_of(x: jax.Array, outside: int) -> jax.Array:
    """[L], as x: what stands to the left of each position; `outside` left of the first one."""
    return jnp.concatenate([jnp.full_like(x[:1], outside), x[:-1]])


def last_of(mask: jax.Array) -> jax.Array:
    """int32[L]: the last position of 1 in bool[L] at or before each; -1 if there is none."""
    index = jnp.arange(mask.shape[0], dtype=jnp.int32)
    return jax.lax.cummax(jnp.where(mask, index, jnp.full_like(index, -1)))


def next_of(mask: jax.Array) -> jax.Array:
    """int32[L]: the next position of 1 in bool[L] at or after each; L if there is none."""
    index = jnp.arange(mask.shape[0], dtype=jnp.int32)
    return jax.lax.cummin(jnp.where(mask, index, jnp.full_like(index, mask.shape[0])), reverse=True)


def runs(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int32[L] each: of the run of 1 that a position of bool[L] lies in, the first position, and
    the first one behind it. Where the mask is 0 the second is not above the first."""
    return last_of(~mask) + 1, next_of(~mask)


def lengths(segments: jax.Array) -> jax.Array:
    """int32[L+1]: how many tokens segment number i has in the row; entry 0 counts the padding."""
    ones = jnp.ones_like(segments)
    return jax.ops.segment_sum(ones, segments, num_segments=segments.shape[0] + 1)
