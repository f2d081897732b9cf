"""ModelInputs: the tokens that a model reads, with a description of the attention between them.
Made by objectives/ (one row each; `vmap` adds the batch axis) and by tasks/ (whole batches).
`AttentionMask.dense` makes the whole mask from it, `block` a part of the mask.
"""

import jax
import jax.numpy as jnp
from flax import struct

ATTENTION_TYPES = ("bidirectional", "causal", "prefix")


@struct.dataclass
class ModelInputs:
    """Rows of tokens. Two packed documents of three and two tokens, then one position of padding:

        tokens      [[ 21, 22, 23, 31, 32,  0 ]]
        segment_ids [[  1,  1,  1,  2,  2,  0 ]]
        positions   [[  0,  1,  2,  0,  1,  0 ]]

    A segment is contiguous, and its positions increase by one. T5's relative bias relies on this: it
    uses the distance between two indices in the row, which equals the distance between positions.
    """

    tokens: jax.Array  # int32[B,T]
    segment_ids: jax.Array  # int32[B,T]  document within the row, from 1; 0 is padding
    positions: jax.Array  # int32[B,T]  restart in each segment
    prefix: jax.Array | None = None  # bool[B,T]  1 = its whole segment attends to it
    token_type_ids: jax.Array | None = None  # int32[B,T]  as in BERT; None means all 0
    attention: str = struct.field(pytree_node=False, default="bidirectional")  # ATTENTION_TYPES


def make_inputs(
    tokens: jax.Array,
    segment_ids: jax.Array,
    attention: str = "bidirectional",
    prefix: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
) -> ModelInputs:
    """ModelInputs with positions counted within each segment; all arrays are [...,T].

    Raises ValueError for an unknown attention type, or if `prefix` is given without
    attention='prefix' or is missing with it.
    """
    _check_attention(attention, prefix)
    segment_ids = segment_ids.astype(jnp.int32)
    index = jnp.broadcast_to(jnp.arange(segment_ids.shape[-1], dtype=jnp.int32), segment_ids.shape)
    is_start = jnp.diff(segment_ids, prepend=-1) != 0
    zeros = jnp.zeros_like(index)
    start = jax.lax.cummax(jnp.where(is_start, index, zeros), axis=segment_ids.ndim - 1)
    return ModelInputs(
        tokens=tokens.astype(jnp.int32),
        segment_ids=segment_ids,
        positions=jnp.where(segment_ids > 0, index - start, zeros),
        prefix=prefix,
        token_type_ids=token_type_ids,
        attention=attention,
    )


@struct.dataclass
class AttentionMask:
    """Which keys a query attends to, as a description.

    A query attends to keys of its own segment, and nothing attends to padding. Causal attention also
    requires s <= t, prefix attention s <= t or prefix[s], and a sliding window |t - s| < sliding_window.
    With query_segment_ids = key_segment_ids = [1 1 1 2 2 0]:

        bidirectional  causal         prefix [1 1 0 1 0 0]   causal, sliding_window 2
        1 1 1 0 0 0    1 0 0 0 0 0    1 1 0 0 0 0            1 0 0 0 0 0
        1 1 1 0 0 0    1 1 0 0 0 0    1 1 0 0 0 0            1 1 0 0 0 0
        1 1 1 0 0 0    1 1 1 0 0 0    1 1 1 0 0 0            0 1 1 0 0 0
        0 0 0 1 1 0    0 0 0 1 0 0    0 0 0 1 0 0            0 0 0 1 0 0
        0 0 0 1 1 0    0 0 0 1 1 0    0 0 0 1 1 0            0 0 0 1 1 0
        0 0 0 0 0 0    0 0 0 0 0 0    0 0 0 0 0 0            0 0 0 0 0 0

    Cross-attention is bidirectional attention between two sequences. Leading keys, which an adapter adds
    before the others, are visible to every query.
    """

    query_segment_ids: jax.Array  # int32[B,T]
    key_segment_ids: jax.Array  # int32[B,S]
    prefix: jax.Array | None = None  # bool[B,S]
    attention: str = struct.field(pytree_node=False, default="bidirectional")  # ATTENTION_TYPES
    sliding_window: int = struct.field(pytree_node=False, default=0)  # |q - k| < this; 0: no limit
    num_leading: int = struct.field(pytree_node=False, default=0)
    # int32[]: the index in the row of this device's first query, if devices split the queries
    first_query: jax.Array | None = None

    def dense(self) -> jax.Array:
        """bool[B,T,S]: 1 = query t attends to key s."""
        queries, keys = (
            jnp.arange(ids.shape[1], dtype=jnp.int32)
            for ids in (self.query_segment_ids, self.key_segment_ids)
        )
        return self.block(self.query_segment_ids, self.key_segment_ids, self.prefix, queries, keys)

    def block(self, query_segment_ids, key_segment_ids, prefix, queries, keys) -> jax.Array:
        """bool[B,t,s]: the part of some queries and keys, given their segment ids, prefix and indices
        int32[t], int32[s]."""
        mask = query_segment_ids[:, :, None] == key_segment_ids[:, None, :]
        mask &= (key_segment_ids > 0)[:, None, :]
        q, k = queries[:, None], keys[None, :] - jnp.int32(self.num_leading)
        if self.attention == "causal":
            mask &= (k <= q)[None]
        elif self.attention == "prefix":
            mask &= (k <= q)[None] | prefix[:, None, :]
        if self.sliding_window:
            mask &= (jnp.abs(q - k) < self.sliding_window)[None]
        return mask | (k < 0)[None] if self.num_leading else mask

    def with_leading(self, count: int) -> "AttentionMask":
        """The mask with `count` more leading keys."""
        ids = jnp.pad(self.key_segment_ids, ((0, 0), (count, 0)))
        prefix = None if self.prefix is None else jnp.pad(self.prefix, ((0, 0), (count, 0)))
        count += self.num_leading
        return self.replace(key_segment_ids=ids, prefix=prefix, num_leading=count)


def make_attention_mask(
    query_segment_ids: jax.Array,
    key_segment_ids: jax.Array,
    attention: str = "bidirectional",
    prefix: jax.Array | None = None,
    sliding_window: int = 0,
) -> AttentionMask:
    """The mask of queries int32[B,T] and keys int32[B,S]; prefix is bool[B,S].

    Raises ValueError for an unknown attention type, or if `prefix` is given without attention='prefix' or
    is missing with it.
    """
    _check_attention(attention, prefix)
    return AttentionMask(query_segment_ids, key_segment_ids, prefix, attention, sliding_window)


def _check_attention(attention, prefix):
    if attention not in ATTENTION_TYPES:
        raise ValueError(f"attention={attention!r}: expected one of {', '.join(ATTENTION_TYPES)}")
    if (attention == "prefix") != (prefix is not None):
        raise ValueError(
            f"attention={attention!r} with prefix {'absent' if prefix is None else 'given'}: "
            "expected a prefix with attention='prefix' and only there"
        )
