"""Random choices that objectives share: exactly k of n positions, ordinary pieces, places of spans.
Called from `corrupt` for one row; static shapes, so that they run on the device and vmap.
How many is a number of the row (it may hold padding), hence an array; how many at most is static.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from objectives.segments import last_of, next_of, ordinary
from objectives.vocabulary import Vocabulary


def count_of(
    real: jax.Array, length: int, *rules: Callable[[int], int], which: int | jax.Array = 0
) -> jax.Array:
    """rules[which](real), int32 as real, for numbers of tokens in 0..length known on the device
    alone.

    A table made by Python: `round(0.15 * n)` then means the same here, in T5 and in a test; in
    float32 some n would round the other way.
    """
    table = [[rule(n) for n in range(length + 1)] for rule in rules]
    return jnp.asarray(table, jnp.int32)[which, real]


def noise_count(density: float, tokens: int) -> int:
    """How many of so many tokens are noise, on the host: their share, rounded, and one at least."""
    return max(1, round(density * tokens)) if tokens else 0


def check_shares(random: float, keep: float) -> None:
    """Raises ValueError unless what `altered` shows otherwise leaves a share for [MASK], or none."""
    if random + keep > 1 + 1e-6:
        raise ValueError(
            f"random={random} and keep={keep} sum to {random + keep:g}: expected at most "
            "1, the rest of the noise is [MASK]; lower one of them"
        )


def lowest(scores: jax.Array, count: jax.Array) -> jax.Array:
    """bool[L]: 1 = among the `count` int32[] lowest of scores float32[L]; ties go to the left, so the
    count is exact."""
    order = jnp.argsort(scores, stable=True)
    first = jnp.arange(scores.shape[0], dtype=jnp.int32) < count
    return jnp.zeros_like(first).at[order].set(first, unique_indices=True)


def choose(key: jax.Array, eligible: jax.Array, count: jax.Array) -> jax.Array:
    """bool[L]: `count` int32[] of the eligible positions bool[L] (all, if they are fewer), each set
    as likely.

    Each position draws a number whose low bits are its own index, so that no two are equal and a
    sort of plain numbers finds the threshold: five times as fast on a CPU as argsort and scatter.
    """
    length = eligible.shape[0]
    low = jnp.uint32(2 ** length.bit_length() - 1)
    index = jnp.arange(length, dtype=jnp.uint32)
    draws = (jax.random.bits(key, (length,), jnp.uint32) >> 1) & ~low | index
    draws = jnp.where(eligible, draws, jnp.uint32(2**32 - 1))
    last = jnp.sort(draws).at[count - 1].get(mode="clip")
    return eligible & (draws <= last) & (count > 0)


def slots(chosen: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The chosen positions bool[L] in ascending order, in a static number of slots.

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


def altered(
    key: jax.Array,
    pieces: jax.Array,
    vocabulary: Vocabulary,
    mask: float,
    random: float,
    group: jax.Array | None = None,
) -> jax.Array:
    """What is shown for pieces int32[N]: [MASK] with probability `mask`, a random ordinary piece with
    probability `random`, else the piece itself (Devlin et al. 2019, section 3.1).

    group int32[N] are numbers below N: pieces of one group fare alike.
    """
    masks = jnp.full_like(pieces, vocabulary.mask)
    if mask >= 1:
        return masks
    how_key, piece_key = jax.random.split(key)
    how = jax.random.uniform(how_key, pieces.shape)
    if group is not None:
        how = how.at[group].get(mode="clip")
    drawn = random_ordinary(piece_key, pieces.shape, vocabulary)
    return jnp.where(how < mask, masks, jnp.where(how < mask + random, drawn, pieces))


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
    bool[size]). A target is shown as `altered` has it. An empty slot has target and index 0.
    """
    which_key, how_key = jax.random.split(key)
    eligible = ordinary(tokens, vocabulary)
    count = count_of(eligible.sum(dtype=jnp.int32), tokens.shape[0], rule)
    indices, filled = slots(choose(which_key, eligible, count), size)
    targets = tokens[indices]
    shown = altered(how_key, targets, vocabulary, 1 - random - keep, random)
    unfilled = jnp.where(filled, indices, jnp.int32(tokens.shape[0]))  # out of range: not written
    shown = tokens.at[unfilled].set(shown, mode="drop")
    return shown, jnp.where(filled, targets, jnp.zeros_like(targets)), indices, filled


def shuffled(key: jax.Array, row: jax.Array, segments: jax.Array, mask: jax.Array) -> jax.Array:
    """int32[L]: the row int32[L] with the tokens of mask bool[L] in random order, each within its
    document of segments int32[L]."""
    length = row.shape[0]
    behind = jnp.int32(length + 1)  # what stays sorts behind all documents
    order = jnp.lexsort((jax.random.uniform(key, row.shape), jnp.where(mask, segments, behind)))
    (places,) = jnp.nonzero(mask, size=length, fill_value=length)
    return row.at[places].set(row[order], mode="drop")


def place(
    key: jax.Array, eligible: jax.Array, lengths: jax.Array, spans: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Spans of given lengths laid into a row, every arrangement of them as likely.

    lengths int32[S], of which the first `spans` count, in the order of the row; their sum is at
    most the number of eligible positions. -> (mask bool[L], owner int32[L]: the span that began
    last, S where none has). Each span begins before another one of the positions that stay, so that
    no two touch; where there are fewer of those than spans, the last spans are left out. A span
    ends at the latest with its run of eligible positions (its document).
    """
    length, most = eligible.shape[0], lengths.shape[0]
    index, number = (jnp.arange(n, dtype=jnp.int32) for n in (length, most))
    lengths = jnp.where(number < spans, lengths, jnp.zeros_like(lengths))
    stay = eligible.sum(dtype=jnp.int32) - lengths.sum(dtype=jnp.int32)
    places = jnp.arange(length + 1, dtype=jnp.int32) <= stay
    gap, filled = slots(choose(key, places, spans), most)
    start = gap + jnp.cumsum(lengths, dtype=jnp.int32) - lengths  # counted in eligible positions
    (nth,) = jnp.nonzero(eligible, size=length, fill_value=length)
    start = nth.astype(jnp.int32).at[start].get(mode="fill", fill_value=length)
    start = jnp.where(filled, start, jnp.int32(length))
    began = jnp.full((length,), -1, jnp.int32).at[start].set(number, mode="drop")
    owner = jax.lax.cummax(began)
    inside = jnp.maximum(owner, 0)
    limit = jnp.minimum(start[inside] + lengths[inside], next_of(~eligible)[start[inside]])
    mask = (owner >= 0) & (index < limit)
    return mask, jnp.where(owner < 0, jnp.int32(most), owner)


def within(
    chosen: jax.Array, rank: jax.Array, sizes: jax.Array, budget: jax.Array, passes: int
) -> jax.Array:
    """bool[L]: of the chosen bool[L], by rank float32[L] and then from the left, as many as `budget`
    int32[] has room for.

    sizes int32[L] is what each takes of the budget. A pass ends at the first one that is too large
    for what is left; the next pass goes on behind it, with those that are not.
    """
    order = jnp.argsort(jnp.where(chosen, rank, jnp.full_like(rank, jnp.inf)), stable=True)
    sizes, free = sizes[order], chosen[order]
    taken = jnp.zeros_like(free)
    for _ in range(passes):
        room = budget - jnp.where(taken, sizes, jnp.zeros_like(sizes)).sum(dtype=jnp.int32)
        fits = free & ~taken & (sizes <= room)
        used = jnp.cumsum(jnp.where(fits, sizes, jnp.zeros_like(sizes)), dtype=jnp.int32)
        taken |= fits & (used <= room)
    return jnp.zeros_like(chosen).at[order].set(taken, unique_indices=True)


def grow(key: jax.Array, eligible: jax.Array, mask: jax.Array, more: jax.Array) -> jax.Array:
    """bool[L]: the spans of mask bool[L] made longer by `more` int32[] eligible positions in all, at
    random.

    They grow to the right within their run, up to one position before the next span; where that
    is not enough, the first one of a run grows to the left.
    """
    length = eligible.shape[0]
    index = jnp.arange(length, dtype=jnp.int32)
    before, after = last_of(mask), next_of(mask)
    behind = eligible & ~mask & (before > last_of(~eligible))
    ahead = eligible & ~mask & ~behind & (after < next_of(~eligible))
    opens_next = jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])
    behind &= ~opens_next  # the position that keeps two spans apart
    free = behind | ahead
    draws = jax.random.uniform(key, (length,)) + jnp.where(behind, jnp.float32(0), jnp.float32(1))
    drawn = lowest(jnp.where(free, draws, jnp.float32(3)), jnp.maximum(more, 0)) & free

    def drawn_for(owner, side):  # how many positions on this side were drawn for the same span
        owner = jnp.where(side, owner, jnp.int32(length))
        ones = (drawn & side).astype(jnp.int32)
        return jax.ops.segment_sum(ones, owner, num_segments=length + 1)[owner]

    mask |= behind & (index - before <= drawn_for(before, behind))
    return mask | (ahead & (after - index <= drawn_for(after, ahead)))
