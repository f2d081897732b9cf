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
    begins = jnp.concatenate([jnp.ones_like(closes[:1]), closes[:-1]])
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


def runs(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int32[L] each: of the run of 1 that a position lies in, the first position, and the first one
    behind it. Where the mask is 0 the second is not above the first."""
    index = jnp.arange(mask.shape[0], dtype=jnp.int32)
    before = jax.lax.cummax(jnp.where(mask, jnp.int32(-1), index))
    after = jax.lax.cummin(jnp.where(mask, jnp.int32(mask.shape[0]), index), reverse=True)
    return before + 1, after


def lengths(segments: jax.Array) -> jax.Array:
    """int32[L+1]: how many tokens segment number i has in the row; entry 0 counts the padding."""
    ones = jnp.ones_like(segments)
    return jax.ops.segment_sum(ones, segments, num_segments=segments.shape[0] + 1)
