"""Patterns: which tokens of a row are noise. First word of the denoisers' grammar.
Called by objectives/denoising.py for one row: (key, row) -> Noise, static shapes, on the device.
A pattern draws units, single pieces or whole words; a unit is noise as a whole or not at all.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from objectives.noise import choose, grow, place, within
from objectives.segments import left_of
from objectives.vocabulary import Vocabulary


class Noise(NamedTuple):
    """What a pattern drew for a row of L tokens."""

    mask: jax.Array  # bool[L]  1 = noise
    group: jax.Array  # int32[L]  what is corrupted in one way: a unit, or a span of them
    inserted: jax.Array  # bool[L]  1 = a span of length zero stands before this token


def units(row: jax.Array, eligible: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """The word int32[L] of each token of row int32[L], ascending from 0. What is not eligible,
    bool[L], is a word of its own."""
    joins = jnp.asarray(np.frombuffer(vocabulary.joins, np.uint8))[row]
    both = left_of(eligible, False) & eligible
    goes_on = (joins % 2 == 1) & (left_of(joins, 0) >= 2) & both
    return jnp.cumsum(~goes_on, dtype=jnp.int32) - 1


def single(
    key: jax.Array, eligible: jax.Array, budget: jax.Array, word: jax.Array | None = None
) -> Noise:
    """`iid`: exactly `budget` int32[] of the eligible pieces bool[L], each as likely (Devlin et al.
    2019, section 3.1; Raffel et al. 2020, section 3.1.4).

    With `word` int32[L] (from `units`) whole words in random order, those that fit into the budget,
    each piece of them corrupted by itself, as BERT's repository does it.
    """
    group, inserted = jnp.arange(eligible.shape[0], dtype=jnp.int32), jnp.zeros_like(eligible)
    if word is None:
        return Noise(choose(key, eligible, budget), group, inserted)
    sizes = _sizes(eligible, word)
    rank = jax.random.uniform(key, eligible.shape)
    mask = within(sizes > 0, rank, sizes, budget, passes=3)
    return Noise(mask[word], group, inserted)


def spans(
    key: jax.Array, eligible: jax.Array, budget: jax.Array, count: jax.Array, most: int
) -> Noise:
    """`span`: `budget` of the eligible pieces bool[L] in `count` spans (int32[] both; `most` is the
    static bound of `count`), never across a document.

    T5's random_spans_noise_mask (Raffel et al. 2020, section 3.3.4) cuts a row regardless of what
    is in it; this is its like for rows in which some positions must stay. All ways of cutting the
    noise into parts are as likely, and all ways of laying them into the row. What the end of a
    document cuts off makes spans of the row longer, as long as their documents have room.

    Fewer spans come out if there are fewer pieces to keep them apart.
    """
    cut_key, place_key, grow_key = jax.random.split(key, 3)
    real = eligible.sum(dtype=jnp.int32)
    budget = jnp.minimum(budget, real)
    count = jnp.minimum(count, real - budget + 1)
    # The noise as a line of `budget` pieces, cut behind `count - 1` of them.
    line = jnp.arange(eligible.shape[0], dtype=jnp.int32)
    cuts = choose(cut_key, line < budget - 1, jnp.maximum(count - 1, 0))
    part = jnp.cumsum(cuts, dtype=jnp.int32) - cuts.astype(jnp.int32)
    lengths = jax.ops.segment_sum((line < budget).astype(jnp.int32), part, num_segments=most)
    mask, owner = place(place_key, eligible, lengths, jnp.where(budget > 0, count, 0))
    mask = grow(grow_key, eligible, mask, budget - mask.sum(dtype=jnp.int32))
    return Noise(mask, owner, jnp.zeros_like(mask))


def random_spans(
    key: jax.Array,
    eligible: jax.Array,
    budget: jax.Array,
    word: jax.Array | None,
    chances: np.ndarray,
    most: int,
) -> Noise:
    """`geometric` and `poisson`: spans of l units with probability chances[l], one after the other
    until `budget` int32[] of the eligible pieces bool[L] are noise; the last one is cut short. Units
    are those of word int32[L] (from `units`), or single pieces.

    Lengths are independent, as SpanBERT (Joshi et al. 2020, section 3.1) and BART (Lewis et al.
    2020, section 2.2) draw them. A third more spans than needed are laid into the row, and count in
    the order of their drawing, so that others take the place of what the end of a document cuts
    off. At most `most` spans count.
    """
    length_key, order_key, place_key = jax.random.split(key, 3)
    pieces, index = eligible.sum(dtype=jnp.int32), jnp.arange(eligible.shape[0], dtype=jnp.int32)
    sizes = _sizes(eligible, index if word is None else word)
    eligible = sizes > 0
    room = eligible.sum(dtype=jnp.int32)
    mean = float(np.arange(len(chances)) @ chances)
    apart = (room.astype(jnp.float32) * (mean / (1 + mean))).astype(jnp.int32)
    # In units, of which some are of several pieces: rounded up.
    needed = (budget * room + pieces - 1) // jnp.maximum(pieces, 1)
    wanted = jnp.minimum(jnp.maximum(needed, jnp.minimum(needed * 4 // 3 + 1, apart)), room)

    draws = 2 * most + 8
    number = jnp.arange(draws, dtype=jnp.int32)
    edges = jnp.asarray(np.cumsum(chances)[:-1], jnp.float32)
    uniform = jax.random.uniform(length_key, (draws,))
    lengths = jnp.searchsorted(edges, uniform, side="right").astype(jnp.int32)
    before = jnp.cumsum(lengths, dtype=jnp.int32) - lengths
    count = (before < wanted).sum(dtype=jnp.int32)
    lengths = jnp.clip(lengths, 0, jnp.maximum(wanted - before, 0))

    mixed = jnp.where(number < count, jax.random.uniform(order_key, (draws,)), jnp.float32(2))
    drawing = jnp.argsort(mixed).astype(jnp.int32)  # the n-th span of the row was drawn as this one
    mask, owner = place(place_key, eligible, lengths[drawing], count)
    rank = drawing.at[owner].get(mode="fill", fill_value=draws)
    first = owner != left_of(owner, draws)
    counts = rank < most
    empty = first & counts & (lengths[rank] == 0) & (before[rank] < needed)
    mask = within(mask & counts, rank.astype(jnp.float32), sizes, budget, passes=1)
    noise = Noise(mask, owner, empty)
    return noise if word is None else _of_words(noise, word)


def _sizes(eligible, word):
    """int32[L]: the pieces of each word; 0 where there is none, or nothing eligible."""
    return jax.ops.segment_sum(eligible.astype(jnp.int32), word, num_segments=word.shape[0])


def _of_words(noise, word):
    """The noise of tokens out of that of their words."""
    opens = word != left_of(word, -1)
    return Noise(noise.mask[word], noise.group[word], noise.inserted[word] & opens)


@functools.lru_cache(maxsize=64)
def chances_of(pattern: str, mean: float, longest: int, zero: bool) -> np.ndarray:
    """float64[longest + 1]: how likely a span of each length is.

    geometric: p = 1 / mean from 1 on (SpanBERT, section 3.1); poisson: of that mean (BART, section
    2.2), its spans of length zero left out unless `zero`. Lengths above `longest` (0: those that
    come less often than once in a million) are left out, and the others are so much likelier.
    """
    ends = range(1, 10_000)
    if pattern == "geometric":
        chances = [0.0, *((1 - 1 / mean) ** (n - 1) / mean for n in ends)]
    else:
        chances = [math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in (0, *ends)]
        chances[0] *= zero
    chances = np.asarray(chances)
    beyond = np.cumsum(chances[::-1])[::-1]
    chances = chances[: longest + 1] if longest else chances[: int((beyond > 1e-6).sum())]
    return chances / chances.sum()
