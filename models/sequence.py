"""Sequence: what a model reads, tokens with a description of who may see whom.
Made by objectives/ and tasks/ (for one row; `vmap` adds the batch axis), read by models/.
The data says what is visible; `allowed` alone turns it into a dense mask.
"""

import jax
import jax.numpy as jnp
from flax import struct

VISIBILITIES = ("all", "causal", "prefix")


@struct.dataclass
class Sequence:
    """Rows of tokens. Two packed documents of three and two tokens, then one of padding:

        tokens    [[ 21, 22, 23, 31, 32,  0 ]]
        segments  [[  1,  1,  1,  2,  2,  0 ]]
        positions [[  0,  1,  2,  0,  1,  0 ]]

    A segment is one contiguous run; in it positions count up by one. T5's relative bias relies on
    that: it reads the distance of two indices, which inside a segment is that of the positions.
    """

    tokens: jax.Array  # int32[B,T]
    segments: jax.Array  # int32[B,T]  document within the row, from 1; 0 is padding
    positions: jax.Array  # int32[B,T]  restarts in each segment
    prefix: jax.Array | None = None  # bool[B,T]  1 = seen by the whole of its segment
    types: jax.Array | None = None  # int32[B,T]  BERT's token types; None reads as 0
    visibility: str = struct.field(pytree_node=False, default="all")  # all | causal | prefix
    window: int = struct.field(pytree_node=False, default=0)  # |q - k| < window; 0 = no limit


def sequence_of(
    tokens: jax.Array,
    segments: jax.Array,
    visibility: str = "all",
    prefix: jax.Array | None = None,
    types: jax.Array | None = None,
) -> Sequence:
    """The Sequence of tokens int32[...,T] and segments int32[...,T] (prefix bool[...,T], types
    int32[...,T]): positions counted within each segment.

    Raises ValueError for an unknown visibility, and for "prefix" without a prefix or the reverse.
    """
    if visibility not in VISIBILITIES:
        raise ValueError(f"visibility {visibility!r}: expected one of {', '.join(VISIBILITIES)}")
    if (visibility == "prefix") != (prefix is not None):
        raise ValueError(
            f"visibility {visibility!r} with prefix {'absent' if prefix is None else 'given'}: "
            'the prefix belongs to visibility "prefix" and to that alone'
        )
    segments = segments.astype(jnp.int32)
    index = jnp.broadcast_to(jnp.arange(segments.shape[-1], dtype=jnp.int32), segments.shape)
    opens = jnp.concatenate(
        [jnp.ones_like(segments[..., :1], bool), segments[..., 1:] != segments[..., :-1]], axis=-1
    )
    start = jax.lax.cummax(jnp.where(opens, index, jnp.zeros_like(index)), axis=segments.ndim - 1)
    return Sequence(
        tokens=tokens.astype(jnp.int32),
        segments=segments,
        positions=jnp.where(segments > 0, index - start, jnp.zeros_like(index)),
        prefix=prefix,
        types=types,
        visibility=visibility,
    )


def allowed(
    q_segments: jax.Array,
    k_segments: jax.Array,
    visibility: str = "all",
    prefix: jax.Array | None = None,
    window: int = 0,
) -> jax.Array:
    """The dense mask bool[B,T,S]: 1 = query t may see key s.

    Same segment, and not padding; and all, or s <= t, or prefix[s]; and |t - s| < window.
    With q_segments = k_segments = [1 1 1 2 2 0]:

        all            causal         prefix [1 1 0 1 0 0]   causal, window 2
        1 1 1 0 0 0    1 0 0 0 0 0    1 1 0 0 0 0            1 0 0 0 0 0
        1 1 1 0 0 0    1 1 0 0 0 0    1 1 0 0 0 0            1 1 0 0 0 0
        1 1 1 0 0 0    1 1 1 0 0 0    1 1 1 0 0 0            0 1 1 0 0 0
        0 0 0 1 1 0    0 0 0 1 0 0    0 0 0 1 0 0            0 0 0 1 0 0
        0 0 0 1 1 0    0 0 0 1 1 0    0 0 0 1 1 0            0 0 0 1 1 0
        0 0 0 0 0 0    0 0 0 0 0 0    0 0 0 0 0 0            0 0 0 0 0 0

    Cross-attention is visibility 'all' between the segments of the two sequences.
    """
    mask = (q_segments[:, :, None] == k_segments[:, None, :]) & (k_segments > 0)[:, None, :]
    q = jnp.arange(q_segments.shape[1], dtype=jnp.int32)[:, None]
    k = jnp.arange(k_segments.shape[1], dtype=jnp.int32)[None, :]
    if visibility == "causal":
        mask &= (k <= q)[None]
    elif visibility == "prefix":
        if prefix is None:
            raise ValueError('visibility "prefix" without a prefix: give bool[B,S], 1 = prefix')
        mask &= (k <= q)[None] | prefix[:, None, :]
    elif visibility != "all":
        raise ValueError(f"visibility {visibility!r}: expected one of {', '.join(VISIBILITIES)}")
    if window:
        mask &= (jnp.abs(q - k) < window)[None]
    return mask
