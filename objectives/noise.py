"""Random choices that objectives share: k of n positions, random tokens, placement of spans.
Called from `corrupt` for one row. Shapes are static, so all functions work under jit and vmap.
A count is an array, because it depends on the padding of the row; its upper bound is static.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from objectives.document_ids import is_regular_token, last_of, next_of
from objectives.vocabulary import Vocabulary


def lookup_count(
    tokens: jax.Array, length: int, *rules: Callable[[int], int], index: int | jax.Array = 0
) -> jax.Array:
    """rules[index](tokens): int32 with the shape of `tokens`, whose values are in 0..length.

    A rule is a Python function, evaluated for each value into a lookup table, so that
    `round(0.15 * n)` rounds as in T5; float32 arithmetic would round some n differently.
    """
    table = [[rule(n) for n in range(length + 1)] for rule in rules]
    return jnp.asarray(table, jnp.int32)[index, tokens]


def noise_count(density: float, tokens: int) -> int:
    """Number of noise tokens among `tokens` tokens, on the host: the rounded share, at least 1."""
    return max(1, round(density * tokens)) if tokens else 0


def check_token_probs(random_token_prob: float, keep_token_prob: float) -> None:
    """Raises ValueError if these two shares of the noise sum to more than 1."""
    if random_token_prob + keep_token_prob > 1 + 1e-6:
        raise ValueError(
            f"random_token_prob={random_token_prob} and keep_token_prob={keep_token_prob} sum to "
            f"{random_token_prob + keep_token_prob:g}: expected at most 1, because [MASK] gets the "
            "rest; lower one of them"
        )


def select_lowest(scores: jax.Array, count: jax.Array) -> jax.Array:
    """bool[L]: 1 = among the `count` int32[] lowest of scores float32[L]. The leftmost of equal scores
    comes first, so the count is exact."""
    order = jnp.argsort(scores, stable=True)
    first = jnp.arange(scores.shape[0], dtype=jnp.int32) < count
    return jnp.zeros_like(first).at[order].set(first, unique_indices=True)


def choose(rng: jax.Array, eligible: jax.Array, count: jax.Array) -> jax.Array:
    """bool[L]: `count` int32[] of the eligible positions bool[L], or all if there are fewer; all
    subsets have nearly equal probability.

    Each position draws a number, whose high bits are random and whose low bits are the position: no two
    are equal, and of equal random bits the earlier position wins. The threshold is found by sorting the
    numbers, which on a CPU is five times as fast as argsort and scatter.
    """
    length = eligible.shape[0]
    low = jnp.uint32(2 ** length.bit_length() - 1)
    index = jnp.arange(length, dtype=jnp.uint32)
    draws = (jax.random.bits(rng, (length,), jnp.uint32) >> 1) & ~low | index
    draws = jnp.where(eligible, draws, jnp.uint32(2**32 - 1))
    last = jnp.sort(draws).at[count - 1].get(mode="clip")
    return eligible & (draws <= last) & (count > 0)


def select_positions(chosen: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The indices of the ones in chosen bool[L], ascending, in a static number of slots.

    -> (positions int32[size], filled bool[size]); an empty slot has position 0.
    """
    (positions,) = jnp.nonzero(chosen, size=size, fill_value=0)
    filled = jnp.arange(size, dtype=jnp.int32) < chosen.sum(dtype=jnp.int32)
    return positions.astype(jnp.int32), filled


def random_regular_tokens(rng: jax.Array, shape: tuple[int, ...], vocabulary: Vocabulary):
    """int32[shape]: tokens drawn uniformly from all regular tokens."""
    total = sum(high - low for low, high in vocabulary.regular_token_ranges)
    drawn = jax.random.randint(rng, shape, 0, total, jnp.int32)
    tokens, before = drawn, 0
    for low, high in vocabulary.regular_token_ranges:
        tokens = jnp.where(drawn >= before, drawn - before + low, tokens)
        before += high - low
    return tokens


def replace_tokens(
    rng: jax.Array,
    tokens: jax.Array,
    vocabulary: Vocabulary,
    mask_prob: float,
    random_token_prob: float,
    group: jax.Array | None = None,
) -> jax.Array:
    """int32[N]: each of tokens int32[N] becomes [MASK] with probability `mask_prob`, a random regular
    token with probability `random_token_prob`, or is unchanged (Devlin et al. 2019, section 3.1).

    group int32[N]: tokens with the same group share this choice. Where the result is not used,
    a group number may be N or more.
    """
    masks = jnp.full_like(tokens, vocabulary.mask)
    if mask_prob >= 1:
        return masks
    choice_rng, token_rng = jax.random.split(rng)
    choice = jax.random.uniform(choice_rng, tokens.shape)
    if group is not None:
        choice = choice.at[group].get(mode="clip")
    drawn = random_regular_tokens(token_rng, tokens.shape, vocabulary)
    kept_or_random = jnp.where(choice < mask_prob + random_token_prob, drawn, tokens)
    return jnp.where(choice < mask_prob, masks, kept_or_random)


def mask_tokens(
    rng: jax.Array,
    tokens: jax.Array,
    vocabulary: Vocabulary,
    rule: Callable[[int], int],
    size: int,
    random_token_prob: float,
    keep_token_prob: float,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Chooses rule(n) of the n regular tokens in tokens int32[L] as targets, and corrupts them with
    `replace_tokens`.

    -> (corrupted int32[L], targets int32[size], positions int32[size], filled bool[size]). An empty
    slot has target 0 and position 0.
    """
    which_rng, replace_rng = jax.random.split(rng)
    eligible = is_regular_token(tokens, vocabulary)
    count = lookup_count(eligible.sum(dtype=jnp.int32), tokens.shape[0], rule)
    positions, filled = select_positions(choose(which_rng, eligible, count), size)
    targets = tokens[positions]
    mask_prob = 1 - random_token_prob - keep_token_prob
    replaced = replace_tokens(replace_rng, targets, vocabulary, mask_prob, random_token_prob)
    # An empty slot writes beyond the end, that is, nothing.
    written = jnp.where(filled, positions, jnp.int32(tokens.shape[0]))
    corrupted = tokens.at[written].set(replaced, mode="drop")
    return corrupted, jnp.where(filled, targets, jnp.zeros_like(targets)), positions, filled


def shuffle_tokens(
    rng: jax.Array, row: jax.Array, segment_ids: jax.Array, mask: jax.Array
) -> jax.Array:
    """int32[L]: row int32[L] with the tokens in mask bool[L] shuffled within each document of
    segment_ids int32[L]."""
    length = row.shape[0]
    last = jnp.int32(length + 1)  # sorts tokens outside the mask after all documents
    order = jnp.lexsort((jax.random.uniform(rng, row.shape), jnp.where(mask, segment_ids, last)))
    (positions,) = jnp.nonzero(mask, size=length, fill_value=length)
    return row.at[positions].set(row[order], mode="drop")


def place_spans(
    rng: jax.Array, eligible: jax.Array, lengths: jax.Array, num_spans: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Places spans of the given lengths in a row, in this order; all arrangements have equal probability.

    lengths int32[M]: the first `num_spans` int32[] of them are used; their sum is at most the number of
    eligible positions bool[L]. -> (mask bool[L]: 1 = in a span; owner int32[L]: the index of the last
    span that started at or before the position, M if none).

    Eligible positions outside the spans separate them, so no two spans touch; if there are too few
    separators, the last spans are dropped. A span that would leave its run of eligible positions (its
    document) is cut.
    """
    length, max_num_spans = eligible.shape[0], lengths.shape[0]
    index, number = (jnp.arange(n, dtype=jnp.int32) for n in (length, max_num_spans))
    lengths = jnp.where(number < num_spans, lengths, jnp.zeros_like(lengths))
    num_outside = eligible.sum(dtype=jnp.int32) - lengths.sum(dtype=jnp.int32)
    gaps = jnp.arange(length + 1, dtype=jnp.int32) <= num_outside
    gap, filled = select_positions(choose(rng, gaps, num_spans), max_num_spans)
    start = gap + jnp.cumsum(lengths, dtype=jnp.int32) - lengths  # counted in eligible positions
    (positions,) = jnp.nonzero(eligible, size=length, fill_value=length)
    start = positions.astype(jnp.int32).at[start].get(mode="fill", fill_value=length)
    start = jnp.where(filled, start, jnp.int32(length))
    started = jnp.full((length,), -1, jnp.int32).at[start].set(number, mode="drop")
    owner = jax.lax.cummax(started)
    inside = jnp.maximum(owner, 0)
    limit = jnp.minimum(start[inside] + lengths[inside], next_of(~eligible)[start[inside]])
    mask = (owner >= 0) & (index < limit)
    return mask, jnp.where(owner < 0, jnp.int32(max_num_spans), owner)


def fit_budget(
    chosen: jax.Array, rank: jax.Array, sizes: jax.Array, budget: jax.Array, passes: int
) -> jax.Array:
    """bool[L]: as many of the chosen positions bool[L] as `budget` int32[] allows, in ascending order
    of rank float32[L], the leftmost of equal ranks first.

    sizes int32[L] is the cost of each position. A pass stops at the first position that exceeds the
    rest of the budget; the next pass considers only positions that fit the rest.
    """
    order = jnp.argsort(jnp.where(chosen, rank, jnp.full_like(rank, jnp.inf)), stable=True)
    sizes, free = sizes[order], chosen[order]
    taken = jnp.zeros_like(free)
    for _ in range(passes):
        rest = budget - jnp.where(taken, sizes, jnp.zeros_like(sizes)).sum(dtype=jnp.int32)
        fits = free & ~taken & (sizes <= rest)
        used = jnp.cumsum(jnp.where(fits, sizes, jnp.zeros_like(sizes)), dtype=jnp.int32)
        taken |= fits & (used <= rest)
    return jnp.zeros_like(chosen).at[order].set(taken, unique_indices=True)


def grow_spans(rng: jax.Array, eligible: jax.Array, mask: jax.Array, more: jax.Array) -> jax.Array:
    """bool[L]: mask bool[L] with `more` int32[] further eligible positions, which lengthen random spans.

    Spans grow to the right within their run of eligible positions, and leave one position before the
    next span. If that is not enough, the first span of a run grows to the left.
    """
    length = eligible.shape[0]
    index = jnp.arange(length, dtype=jnp.int32)
    before, after = last_of(mask), next_of(mask)
    right = eligible & ~mask & (before > last_of(~eligible))
    left = eligible & ~mask & ~right & (after < next_of(~eligible))
    precedes_span = jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])
    right &= ~precedes_span  # the position that separates two spans
    free = right | left
    draws = jax.random.uniform(rng, (length,)) + jnp.where(right, jnp.float32(0), jnp.float32(1))
    drawn = jnp.where(free, draws, jnp.float32(3))
    drawn = select_lowest(drawn, jnp.maximum(more, 0)) & free

    def drawn_for(owner, side):  # positions drawn on this side of the same span
        owner = jnp.where(side, owner, jnp.int32(length))
        ones = (drawn & side).astype(jnp.int32)
        return jax.ops.segment_sum(ones, owner, num_segments=length + 1)[owner]

    mask |= right & (index - before <= drawn_for(before, right))
    return mask | (left & (after - index <= drawn_for(after, left)))
