"""Attention in blocks of queries and keys, with memory linear in the length, in plain JAX.

The softmax over the keys is computed online (Milakov & Gimelshein 2018; Rabe & Staats 2021), and the backward
pass computes the scores again from the log-sum-exp of each query (FlashAttention: Dao et al. 2022, algorithms
1 and 4). One loop visits the pairs of blocks that the kind of attention can reach: a causal model skips
the half above the diagonal, a sliding window all but its band. It runs on every backend.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.inputs import AttentionMask
from models.layers import MASKED_LOGIT, softcap

BLOCK = 128  # the fastest of 128, 256 and 512 on a CPU


class Options(NamedTuple):
    """Static arguments, hashable."""

    cap: float
    dropout_rate: float
    block: int  # queries, and keys, of a block


def chunked_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    bias: jax.Array | None,
    dropout_rngs: jax.Array | None,
    options: Options,
) -> jax.Array:
    """softmax(q k + bias) v: q[B,G,R,T,K], k and v [B,G,S,K] -> [B,G,R,T,K]; R query heads share a key head.

    A query without a visible key gets 0. Scores and sums are float32.

    Args:
      bias: float32[G,R,T+S-1], by distance: element T-1+s-t for key s and query t.
      dropout_rngs: [B,G], of the dropout of the probabilities; None: no dropout.
    """
    length, size = q.shape[3], options.block
    q = _pad(q, size, 3)
    k, v = _pad(k, size, 2), _pad(v, size, 2)
    mask = mask.replace(
        query_segment_ids=_pad(mask.query_segment_ids, size, 1),
        key_segment_ids=_pad(mask.key_segment_ids, size, 1),
        prefix=None if mask.prefix is None else _pad(mask.prefix, size, 1),
    )
    if bias is not None:  # the distances of padding too
        before = q.shape[3] - length + mask.num_leading
        after = q.shape[3] + k.shape[2] - 1 - before - bias.shape[2]
        bias = jnp.pad(bias, ((0, 0), (0, 0), (before, after)))
    out = _attention(options, q, k, v, mask, bias, dropout_rngs)
    return out[:, :, :, :length]


def _pad(x, size, axis):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, padding)


def _reached(mask: AttentionMask, first, key_start, size: int):
    """bool: whether a query of the block at `first` may attend to a key of the block at `key_start`."""
    key_start = key_start - mask.num_leading
    right, left = (
        key_start - first - size + 1,
        first - key_start - size + 1,
    )  # nearest keys of a query
    reached = (right <= 0) | (mask.attention != "causal")
    if mask.sliding_window:
        reached &= (right < mask.sliding_window) & (left < mask.sliding_window)
    return reached | (key_start < 0)


def reachable_blocks(mask: AttentionMask, num_queries: int, num_keys: int, size: int) -> np.ndarray:
    """int32[N,2]: the (block of queries, block of keys) in which a query may see a key; all pairs if
    the mask has only this device's queries (first_query)."""
    first, key_start = np.arange(0, num_queries, size)[:, None], np.arange(0, num_keys, size)[None]
    reached = np.ones((first.size, key_start.size), bool)
    if mask.first_query is None:
        reached &= _reached(mask, first, key_start, size)
    return np.argwhere(reached).astype(np.int32)


def _overlap(mask, pair, size):
    """bool[]: whether the segment ids of the two blocks overlap in some row; with first_query, also whether
    causality and the window allow the pair."""

    def ends(ids, block):
        ids = jax.lax.dynamic_slice_in_dim(ids, block * size, size, axis=1)
        return jnp.where(ids > 0, ids, jnp.iinfo(jnp.int32).max).min(1), ids.max(1)

    low, high = ends(mask.query_segment_ids, pair[0])
    key_low, key_high = ends(mask.key_segment_ids, pair[1])
    shared = ((low <= key_high) & (key_low <= high)).any()
    shared |= pair[1] * size < mask.num_leading
    if mask.first_query is not None:
        shared &= _reached(mask, mask.first_query + pair[0] * size, pair[1] * size, size)
    return shared


def _loop(options, q, k, mask, compute, carry):
    """`carry` after compute(pair int32[2], carry) for each pair of blocks in which a query sees a key."""
    pairs = jnp.asarray(reachable_blocks(mask, q.shape[3], k.shape[2], options.block))

    def step(i, carry):
        shared = _overlap(mask, pairs[i], options.block)
        return jax.lax.cond(shared, compute, lambda pair, carry: carry, pairs[i], carry)

    return jax.lax.fori_loop(0, len(pairs), step, carry)


def _first(mask):
    """int32[]: the index of the first query in its row."""
    return jnp.int32(0) if mask.first_query is None else mask.first_query


def _blocks(options, pair, q, k, v, mask, bias):
    """Of a pair of blocks: (function (q, k, bias) -> scores float32[B,G,R,t,s], its arguments, v of the
    block, visible bool[B,1,1,t,s])."""
    size = options.block
    start, key_start = pair[0] * size, pair[1] * size
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=size)
    visible = mask.block(
        cut(mask.query_segment_ids, start, axis=1),
        cut(mask.key_segment_ids, key_start, axis=1),
        None if mask.prefix is None else cut(mask.prefix, key_start, axis=1),
        _first(mask) + start + jnp.arange(size, dtype=jnp.int32),
        key_start + jnp.arange(size, dtype=jnp.int32),
    )[:, None, None]
    by_distance = None
    is_leading = (key_start + jnp.arange(size) < mask.num_leading)[None, None, None, None]
    if bias is not None:
        first = q.shape[3] - size + key_start - start
        by_distance = jax.lax.dynamic_slice_in_dim(bias, first, 2 * size - 1, axis=2)

    def scores(q, k, by_distance):
        logits = jnp.einsum("bgrtk,bgsk->bgrts", q, k, preferred_element_type=jnp.float32)
        logits = softcap(logits, options.cap)
        if by_distance is not None:
            bias = _toeplitz(by_distance)[None]
            logits = logits + (jnp.where(is_leading, 0.0, bias) if mask.num_leading else bias)
        return logits

    arguments = cut(q, start, axis=3), cut(k, key_start, axis=2), by_distance
    return scores, arguments, cut(v, key_start, axis=2), visible


def _toeplitz(by_distance):
    """[G,R,2n-1] -> [G,R,n,n]: element n-1+s-t at (t, s). Without a gather, whose gradient would be a
    scatter: the 2n-1 elements are repeated, from element n-1 on, and cut into rows of 2n-2, so that each row
    starts one element earlier than the row before."""
    n = (by_distance.shape[-1] + 1) // 2
    rows = jnp.tile(by_distance, (1, 1, n))[..., n - 1 :]
    rows = rows[..., : n * (2 * n - 2)]
    return rows.reshape(*by_distance.shape[:2], n, 2 * n - 2)[..., :n]


def _kept(options, dropout_rngs, mask, pair, shape):
    """float32[B,G,R,t,s] factors of the probabilities of a pair of blocks: 0 or 1 / (1 - rate)."""
    keep, number = 1.0 - options.dropout_rate, pair[0]
    if mask.first_query is not None:
        # The block's number in the whole row, so that dropout does not depend on the sharding. A block
        # that is not aligned with the blocks of the row gets a negative number, which no aligned block has.
        first = mask.first_query + pair[0] * options.block
        number = jnp.where(first % options.block == 0, first // options.block, -1 - first)

    def draw(rng):
        rng = jax.random.fold_in(jax.random.fold_in(rng, number), pair[1])
        return jax.random.bernoulli(rng, keep, shape[2:])

    return jax.vmap(jax.vmap(draw))(dropout_rngs).astype(jnp.float32) / jnp.float32(keep)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(options, q, k, v, mask, bias, dropout_rngs):
    return _forward(options, q, k, v, mask, bias, dropout_rngs)[0]


def _forward(options, q, k, v, mask, bias, dropout_rngs):
    size = options.block
    sums = jnp.zeros(q.shape, jnp.float32)
    highest = jnp.full(q.shape[:4], MASKED_LOGIT, jnp.float32)
    totals = jnp.zeros(q.shape[:4], jnp.float32)

    def compute(pair, carry):
        sums, highest, totals = carry
        start = pair[0] * size
        cut = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size, axis=3
        )
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=3)
        scores, arguments, values, visible = _blocks(options, pair, q, k, v, mask, bias)
        logits = jnp.where(visible, scores(*arguments), MASKED_LOGIT)
        old = cut(highest)
        new = jnp.maximum(old, logits.max(-1))
        p = jnp.where(visible, jnp.exp(logits - new[..., None]), 0.0)
        scale = jnp.exp(old - new)
        total = cut(totals) * scale + p.sum(-1)
        if dropout_rngs is not None:
            p = p * _kept(options, dropout_rngs, mask, pair, p.shape)
        part = jnp.einsum(
            "bgrts,bgsk->bgrtk", p.astype(v.dtype), values, preferred_element_type=jnp.float32
        )
        return (
            put(sums, cut(sums) * scale[..., None] + part),
            put(highest, new),
            put(totals, total),
        )

    sums, highest, totals = _loop(options, q, k, mask, compute, (sums, highest, totals))
    seen = totals > 0
    out = (sums / jnp.where(seen, totals, 1.0)[..., None]).astype(v.dtype)
    log_sums = jnp.where(seen, highest + jnp.log(jnp.where(seen, totals, 1.0)), 0.0)
    return out, (q, k, v, mask, bias, dropout_rngs, out, log_sums)


def _backward(options, residuals, gradient):
    q, k, v, mask, bias, dropout_rngs, out, log_sums = residuals
    size = options.block
    # rowsum(dO * O), D in the paper.
    delta = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)

    def compute(pair, carry):
        dq, dk, dv, dbias = carry
        start, key_start = pair[0] * size, pair[1] * size
        queries = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size, axis=3
        )
        scores, arguments, values, visible = _blocks(options, pair, q, k, v, mask, bias)
        logits, pull = jax.vjp(scores, *arguments)
        p = jnp.where(visible, jnp.exp(logits - queries(log_sums)[..., None]), 0.0)
        d_out = queries(gradient)
        dp = jnp.einsum("bgrtk,bgsk->bgrts", d_out, values, preferred_element_type=jnp.float32)
        dropped = p
        if dropout_rngs is not None:
            kept = _kept(options, dropout_rngs, mask, pair, p.shape)
            dropped, dp = p * kept, dp * kept
        dv_part = jnp.einsum(
            "bgrts,bgrtk->bgsk", dropped.astype(v.dtype), d_out, preferred_element_type=jnp.float32
        )
        parts = pull(p * (dp - queries(delta)[..., None]))
        dq, dk, dv = (
            _add(whole, part, at, axis)
            for whole, part, at, axis in (
                (dq, parts[0], start, 3),
                (dk, parts[1], key_start, 2),
                (dv, dv_part, key_start, 2),
            )
        )
        if bias is not None:
            dbias = _add(dbias, parts[2], q.shape[3] - size + key_start - start, 2)
        return dq, dk, dv, dbias

    zeros = [jnp.zeros(x.shape, jnp.float32) for x in (q, k, v)]
    zeros.append(None if bias is None else jnp.zeros_like(bias))
    dq, dk, dv, dbias = _loop(options, q, k, mask, compute, tuple(zeros))
    return (
        dq.astype(q.dtype),
        dk.astype(k.dtype),
        dv.astype(v.dtype),
        jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), mask),
        dbias,
        None if dropout_rngs is None else np.zeros(dropout_rngs.shape, jax.dtypes.float0),
    )


def _add(whole, part, start, axis):
    """`whole` with `part` added from `start` on."""
    old = jax.lax.dynamic_slice_in_dim(whole, start, part.shape[axis], axis)
    return jax.lax.dynamic_update_slice_in_dim(whole, old + part.astype(old.dtype), start, axis)


_attention.defvjp(_forward, _backward)
