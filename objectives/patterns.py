"""Patterns: which tokens of a row are noise. The first word of the denoisers' grammar.
Called by objectives/denoising.py for one row: (rng, eligible tokens, ...) -> Noise, with static shapes.
A pattern draws units, which are tokens or whole words; all tokens of a unit are noise, or none.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from objectives.document_ids import left_of
from objectives.noise import choose, fit_budget, grow_spans, place_spans
from objectives.vocabulary import Vocabulary


class Noise(NamedTuple):
    """The noise in a row of L tokens."""

    mask: jax.Array  # bool[L]  1 = noise
    group: jax.Array  # int32[L]  a token or a span; inputs=bert treats all tokens of a group alike
    empty_before: jax.Array  # bool[L]  1 = a span of length zero precedes this token


def word_ids(row: jax.Array, eligible: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """int32[L]: the word number of each token of row int32[L], ascending from 0. A token that is not
    eligible (bool[L]) counts as a word."""
    flags = jnp.asarray(np.frombuffer(vocabulary.word_continuation, np.uint8))[row]
    both = left_of(eligible, False) & eligible
    continues = (flags % 2 == 1) & (left_of(flags, 0) >= 2) & both
    return jnp.cumsum(~continues, dtype=jnp.int32) - 1


def without_first(
    row: jax.Array, eligible: jax.Array, segment_ids: jax.Array, word_vocabulary: Vocabulary | None
) -> jax.Array:
    """bool[L]: the eligible tokens bool[L], without the first token of each document (segment_ids int32[L]),
    which no earlier position can predict. With `word_vocabulary`, which defines words: without the first
    word."""
    first = segment_ids != left_of(segment_ids, 0)
    if word_vocabulary is not None:
        word = word_ids(row, eligible, word_vocabulary)
        first = jnp.zeros_like(first).at[word].max(first)[word]
    return eligible & ~first


def iid_noise(
    rng: jax.Array, eligible: jax.Array, budget: jax.Array, word: jax.Array | None = None
) -> Noise:
    """`iid`: exactly `budget` int32[] of the eligible tokens bool[L], chosen uniformly without
    replacement (Devlin et al. 2019, section 3.1). T5's iid_noise_mask (Raffel et al. 2020, section 3.1.4)
    draws each token independently, so the number of noise tokens varies.

    With `word` int32[L] (from `word_ids`): random whole words, as many as fit the budget. Each token
    of a word is corrupted independently, as in BERT's repository.
    """
    group, empty = jnp.arange(eligible.shape[0], dtype=jnp.int32), jnp.zeros_like(eligible)
    if word is None:
        return Noise(choose(rng, eligible, budget), group, empty)
    sizes = _word_sizes(eligible, word)
    rank = jax.random.uniform(rng, eligible.shape)
    mask = fit_budget(sizes > 0, rank, sizes, budget, passes=3)
    return Noise(mask[word], group, empty)


def fixed_number_of_spans(
    rng: jax.Array, eligible: jax.Array, budget: jax.Array, count: jax.Array, max_num_spans: int
) -> Noise:
    """`span`: `budget` int32[] of the eligible tokens bool[L] in `count` int32[] spans, each within a
    document. `max_num_spans` is the static upper bound of `count`.

    T5's random_spans_noise_mask (Raffel et al. 2020, section 3.3.4) ignores document boundaries and
    special tokens; this function respects both. All partitions of the noise into spans have equal
    probability, and so do all placements of the spans. If a document ends before its span, other spans
    of the row are lengthened by the missing tokens, as far as their documents allow.

    There are fewer spans if too few tokens are left to separate them.
    """
    cut_rng, place_rng, grow_rng = jax.random.split(rng, 3)
    num_eligible = eligible.sum(dtype=jnp.int32)
    budget = jnp.minimum(budget, num_eligible)
    count = jnp.minimum(count, num_eligible - budget + 1)
    # Divide `budget` noise tokens into `count` spans by `count - 1` random cuts between them.
    index = jnp.arange(eligible.shape[0], dtype=jnp.int32)
    cuts = choose(cut_rng, index < budget - 1, jnp.maximum(count - 1, 0))
    span = jnp.cumsum(cuts, dtype=jnp.int32) - cuts.astype(jnp.int32)
    in_budget = (index < budget).astype(jnp.int32)
    lengths = jax.ops.segment_sum(in_budget, span, num_segments=max_num_spans)
    mask, owner = place_spans(place_rng, eligible, lengths, jnp.where(budget > 0, count, 0))
    mask = grow_spans(grow_rng, eligible, mask, budget - mask.sum(dtype=jnp.int32))
    return Noise(mask, owner, jnp.zeros_like(mask))


def random_length_spans(
    rng: jax.Array,
    eligible: jax.Array,
    budget: jax.Array,
    word: jax.Array | None,
    length_probs: np.ndarray,
    max_num_spans: int,
) -> Noise:
    """`geometric` and `poisson`: spans of l units with probability length_probs[l], drawn until
    `budget` int32[] of the eligible tokens bool[L] are noise; the last span is cut to the budget.
    Units are the words in `word` int32[L] (from `word_ids`), or tokens if it is None.

    Span lengths are independent, as in SpanBERT (Joshi et al. 2020, section 3.1) and BART (Lewis et
    al. 2020, section 2.2). A third more spans than needed are placed. They are used in the order in
    which they were drawn until the budget is spent, so that later spans make up for those that the end
    of a document cuts. At most `max_num_spans` are used.
    """
    length_rng, order_rng, place_rng = jax.random.split(rng, 3)
    num_eligible = eligible.sum(dtype=jnp.int32)
    index = jnp.arange(eligible.shape[0], dtype=jnp.int32)
    sizes = _word_sizes(eligible, index if word is None else word)
    eligible = sizes > 0
    units = eligible.sum(dtype=jnp.int32)
    mean = float(np.arange(len(length_probs)) @ length_probs)
    # The number of units in spans if a single unit separates each span from the next; all others are noise.
    separable = (units.astype(jnp.float32) * (mean / (1 + mean))).astype(jnp.int32)
    # The budget in units: words may have several tokens.
    needed = budget if word is None else _ceil_product_over(units, budget, num_eligible)
    wanted = jnp.minimum(jnp.maximum(needed, jnp.minimum(needed * 4 // 3 + 1, separable)), units)

    draws = 2 * max_num_spans + 8
    number = jnp.arange(draws, dtype=jnp.int32)
    edges = jnp.asarray(np.cumsum(length_probs)[:-1], jnp.float32)
    uniform = jax.random.uniform(length_rng, (draws,))
    lengths = jnp.searchsorted(edges, uniform, side="right").astype(jnp.int32)
    before = jnp.cumsum(lengths, dtype=jnp.int32) - lengths
    count = (before < wanted).sum(dtype=jnp.int32)
    lengths = jnp.clip(lengths, 0, jnp.maximum(wanted - before, 0))

    shuffled = jnp.where(number < count, jax.random.uniform(order_rng, (draws,)), jnp.float32(2))
    # Index of a span in the row -> number of the draw.
    drawn_as = jnp.argsort(shuffled).astype(jnp.int32)
    mask, owner = place_spans(place_rng, eligible, lengths[drawn_as], count)
    rank = drawn_as.at[owner].get(mode="fill", fill_value=draws)
    first = owner != left_of(owner, draws)
    is_used = rank < max_num_spans
    empty = first & is_used & (lengths[rank] == 0) & (before[rank] < needed)
    mask = fit_budget(mask & is_used, rank.astype(jnp.float32), sizes, budget, passes=1)
    if word is None:
        return Noise(mask, owner, empty)
    starts = word != left_of(word, -1)
    return Noise(mask[word], owner[word], empty[word] & starts)


def _ceil_product_over(units, budget, total):
    """ceil(units * budget / total), int32[], exact although the product may not fit into int32; all of them
    are below 2**19."""
    total = jnp.maximum(total, 1)
    whole, rest = jnp.divmod(units * (budget // 256), total)
    return whole * 256 - (-(rest * 256 + units * (budget % 256)) // total)


def _word_sizes(eligible, word):
    """int32[L]: the number of eligible tokens of each word number."""
    return jax.ops.segment_sum(eligible.astype(jnp.int32), word, num_segments=word.shape[0])


@functools.lru_cache(maxsize=64)
def length_probs(pattern: str, mean: float, longest: int, allow_empty: bool) -> np.ndarray:
    """float64[longest + 1]: the probability of each span length.

    geometric: p = 1 / mean, lengths from 1 (SpanBERT, section 3.1). poisson: lambda = mean (BART,
    section 2.2), with length 0 only if `allow_empty`. Lengths above `longest` have probability 0 (longest=0:
    lengths with a tail probability of at most one in a million), and the rest is normalized.
    """
    ends = range(1, 10_000)
    if pattern == "geometric":
        probs = [0.0, *((1 - 1 / mean) ** (n - 1) / mean for n in ends)]
    else:
        probs = [math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in (0, *ends)]
        probs[0] *= allow_empty
    probs = np.asarray(probs)
    tail = np.cumsum(probs[::-1])[::-1]
    probs = probs[: longest + 1] if longest else probs[: int((tail > 1e-6).sum())]
    return probs / probs.sum()
