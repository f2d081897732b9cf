"""Random choices that objectives share: exactly k of n positions, ordinary pieces, spans.
Called from `corrupt` for one row; static shapes, so that they run on the device and vmap.
How many is a number of the row (it may hold padding), hence an array; how many at most is static.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from objectives.segments import ordinary
from objectives.vocabulary import Vocabulary


def count_of(real: jax.Array, length: int, rule: Callable[[int], int]) -> jax.Array:
    """rule(real) for a number of tokens in 0..length known on the device alone.

    A table made by Python: `round(0.15 * n)` then means the same here, in T5 and in a test; in
    float32 some n would round the other way.
    """
    return jnp.asarray([rule(n) for n in range(length + 1)], jnp.int32)[real]


def lowest(scores: jax.Array, count: jax.Array) -> jax.Array:
    """bool[L]: 1 = among the `count` lowest scores; ties go to the left, so the count is exact."""
    order = jnp.argsort(scores, stable=True)
    first = jnp.arange(scores.shape[0], dtype=jnp.int32) < count
    return jnp.zeros_like(first).at[order].set(first, unique_indices=True)


def choose(key: jax.Array, eligible: jax.Array, count: jax.Array) -> jax.Array:
    """bool[L]: `count` of the eligible positions (all, if they are fewer), each set as likely."""
    scores = jnp.where(eligible, jax.random.uniform(key, eligible.shape), jnp.float32(2))
    return lowest(scores, count) & eligible


def slots(chosen: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The chosen positions in ascending order, in a static number of slots.

    -> (indices int32[size], filled bool[size]); an empty slot has index 0.
    """
    (indices,) = jnp.nonzero(chosen, size=size, fill_value=0)
    filled = jnp.arange(size, dtype=jnp.int32) < chosen.sum(dtype=jnp.int32)
    return indices.astype(jnp.int32), filled


def random_ordinary(key: jax.Array, shape: tuple[int, ...], vocabulary: Vocabulary) -> jax.Array:
    """int32[shape]: ordinary pieces, each as likely, whatever ranges they lie in."""
    total = sum(high - low for low, high in vocabulary.ordinary)
    drawn = jax.random.randint(key, shape, 0, total, jnp.int32)
    pieces, before = drawn, 0
    for low, high in vocabulary.ordinary:
        pieces = jnp.where(drawn >= before, drawn - before + low, pieces)
        before += high - low
    return pieces


def masked_pieces(
    key: jax.Array,
    tokens: jax.Array,
    vocabulary: Vocabulary,
    rule: Callable[[int], int],
    size: int,
    random: float,
    keep: float,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """rule(number of ordinary pieces) of the ordinary pieces of tokens int32[L] become targets.

    -> (what is shown int32[L], and in `size` slots: targets, indices int32[size], filled
    bool[size]). A target shows a random ordinary piece with probability `random`, itself with
    probability `keep`, and else [MASK] (Devlin et al. 2019, section 3.1). An empty slot has target
    and index 0.
    """
    which_key, how_key, piece_key = jax.random.split(key, 3)
    eligible = ordinary(tokens, vocabulary)
    count = count_of(eligible.sum(dtype=jnp.int32), tokens.shape[0], rule)
    indices, filled = slots(choose(which_key, eligible, count), size)
    targets = tokens[indices]
    how, mask = jax.random.uniform(how_key, indices.shape), 1 - random - keep
    drawn = random_ordinary(piece_key, indices.shape, vocabulary)
    shown = jnp.where(how < mask + random, drawn, targets)
    shown = jnp.where(how < mask, vocabulary.mask, shown)
    unfilled = jnp.where(filled, indices, jnp.int32(tokens.shape[0]))  # out of range: not written
    shown = tokens.at[unfilled].set(shown, mode="drop")
    return shown, jnp.where(filled, targets, jnp.zeros_like(targets)), indices, filled


def random_spans(
    key: jax.Array, eligible: jax.Array, noise: jax.Array, spans: jax.Array
) -> jax.Array:
    """bool[L]: `noise` positions in `spans` spans, each inside one run of eligible positions.

    T5's random_spans_noise_mask (Raffel et al. 2020, section 3.1.4) cuts a row regardless of what
    is in it; this is its like for rows in which some positions must stay. Lengths are T5's: all
    ways of cutting `noise` into `spans` parts are as likely. Places are evenly spread: spans begin
    at the best of random scores, no two side by side. A span stops where its run ends and before
    it would touch the next one; what it lacks then makes other spans longer.

    Fewer spans come out if more are asked for than one in about three positions, and less noise
    if the runs that have spans are full (never if each run is as long as noise + spans).
    """
    length = eligible.shape[0]
    index = jnp.arange(length, dtype=jnp.int32)
    seed_key, cut_key, grow_key = jax.random.split(key, 3)

    scores = jnp.where(eligible, jax.random.uniform(seed_key, (length,)), jnp.float32(2))
    left, right = _shifted(scores, 2)
    valley = eligible & (scores < left) & (scores <= right)
    seeds = lowest(jnp.where(valley, scores, jnp.float32(2)), spans) & valley
    spans = seeds.sum(dtype=jnp.int32)

    # The noise as a line of `noise` tokens, cut behind `spans - 1` of them.
    cuts = choose(cut_key, index < noise - 1, jnp.maximum(spans - 1, 0))
    part = jnp.cumsum(cuts, dtype=jnp.int32) - cuts.astype(jnp.int32)
    ones = (index < noise).astype(jnp.int32)
    parts = jax.ops.segment_sum(ones, part, num_segments=length)
    wanted = parts[jnp.maximum(jnp.cumsum(seeds, dtype=jnp.int32) - 1, 0)]

    # A span begins at its seed and ends at the latest with its run, or one before the next seed.
    following = _shifted(_next(seeds), length)[1]
    limit = jnp.where(following < length, following - 1, following)
    limit = jnp.minimum(limit, _next(~eligible))
    owner = jnp.maximum(_last(seeds), 0)
    mask = seeds[owner] & (index < jnp.minimum(owner + wanted[owner], limit[owner]))
    return grow(grow_key, eligible, mask, noise - mask.sum(dtype=jnp.int32))


def grow(key: jax.Array, eligible: jax.Array, mask: jax.Array, more: jax.Array) -> jax.Array:
    """bool[L]: the spans of `mask` made longer by `more` positions in all, at random.

    They grow to the right within their run, up to one position before the next span; where that
    is not enough, the first one of a run grows to the left.
    """
    length = eligible.shape[0]
    index = jnp.arange(length, dtype=jnp.int32)
    before, after = _last(mask), _next(mask)
    behind = eligible & ~mask & (before > _last(~eligible))
    ahead = eligible & ~mask & ~behind & (after < _next(~eligible))
    behind &= ~_shifted(mask, False)[1]  # the position that keeps two spans apart
    free = behind | ahead
    draws = jax.random.uniform(key, (length,)) + jnp.where(behind, jnp.float32(0), jnp.float32(1))
    drawn = lowest(jnp.where(free, draws, jnp.float32(3)), jnp.maximum(more, 0)) & free

    def drawn_for(owner, side):  # how many positions on this side were drawn for the same span
        owner = jnp.where(side, owner, jnp.int32(length))
        ones = (drawn & side).astype(jnp.int32)
        return jax.ops.segment_sum(ones, owner, num_segments=length + 1)[owner]

    mask |= behind & (index - before <= drawn_for(before, behind))
    return mask | (ahead & (after - index <= drawn_for(after, ahead)))


def _shifted(x, outside):
    """What stands to the left of each position, and what to the right."""
    edge = jnp.full_like(x[:1], outside)
    return jnp.concatenate([edge, x[:-1]]), jnp.concatenate([x[1:], edge])


def _last(mask):
    """The last position of 1 at or before each; -1 if there is none."""
    index = jnp.arange(mask.shape[0], dtype=jnp.int32)
    return jax.lax.cummax(jnp.where(mask, index, jnp.full_like(index, -1)))


def _next(mask):
    """The next position of 1 at or after each; L if there is none."""
    index = jnp.arange(mask.shape[0], dtype=jnp.int32)
    return jax.lax.cummin(jnp.where(mask, index, jnp.full_like(index, mask.shape[0])), reverse=True)
