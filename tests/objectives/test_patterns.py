"""Patterns have the distributions of their papers: 10,000 rows, compared with draws by NumPy.

Bounds are five standard errors of the difference.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documents import REGULAR_TOKENS, VOCABULARY, words_of

import objectives
from objectives import patterns
from objectives.base import ObjectiveSpec

MANY, LENGTH = 10_000, 96


def rngs(count=MANY):
    return jax.random.split(jax.random.key(0), count)


def span_lengths(mask):
    """int[MANY, longest + 1]: the number of spans of each length in each row."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    lengths = np.nonzero(edges == -1)[1] - starts
    counts = np.zeros((len(mask), LENGTH + 1), int)
    np.add.at(counts, (rows, lengths), 1)
    return counts


def simulate(probs, budget, seed=0):
    """The same counts for spans that NumPy draws until the budget is used up, the last one cut to it.
    Column 0 counts spans of length zero."""
    random, counts = np.random.default_rng(seed), np.zeros((MANY, LENGTH + 1), int)
    draws = random.choice(len(probs), (MANY, 4 * budget + 20), p=probs)
    for row, lengths in zip(counts, draws, strict=True):
        left = budget
        for length in lengths:
            row[min(length, left)] += 1
            left -= length
            if left <= 0:
                break
    return counts


def assert_equal_means(ours, theirs):
    error = np.hypot(ours.std(0), theirs.std(0)) / MANY**0.5
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize(
    "pattern, mean, longest, density, published",
    [("geometric", 5.0, 10, 0.15, 3.8), ("poisson", 3.0, 0, 0.3, 3.0)],
)
def test_invariant_10_span_lengths_have_the_published_distribution(
    pattern, mean, longest, density, published
):
    probs = patterns.length_probs(pattern, mean, longest, allow_empty=pattern == "poisson")
    assert abs(np.arange(len(probs)) @ probs - published) < 0.01
    if pattern == "geometric":  # SpanBERT: p = 0.2, at most 10
        np.testing.assert_allclose(probs[2:] / probs[1:-1], 0.8)
        assert len(probs) == 11 and probs[0] == 0
    else:
        np.testing.assert_allclose(probs[:3] / probs[0], [1, 3, 4.5])
    budget = round(density * LENGTH)

    @jax.jit
    @jax.vmap
    def draw(rng):
        everywhere = jnp.ones(LENGTH, bool)
        return patterns.random_length_spans(
            rng, everywhere, jnp.int32(budget), None, probs, 2 * budget
        )

    noise = jax.tree.map(np.asarray, draw(rngs()))
    assert set(noise.mask.sum(1)) == {budget}  # exactly the budget
    ours, theirs = span_lengths(noise.mask), simulate(probs, budget)
    ours[:, 0] = noise.empty_before.sum(1)
    # An empty span drawn after the budget is used up does not count, here or in the simulation.
    assert_equal_means(ours, theirs)
    assert not (noise.empty_before & noise.mask).any()
    share = noise.mask.mean(0)[12:-12]
    assert abs(share - share.mean()).max() < 5 * (density / MANY) ** 0.5


def test_invariant_10_a_row_of_100_000_tokens_has_its_noise():
    """The product of the budget and the number of tokens does not fit into int32."""
    length, budget = 100_000, 30_000
    everywhere, words = jnp.ones(length, bool), jnp.arange(length, dtype=jnp.int32)
    probs = patterns.length_probs("poisson", 3.0, 0, allow_empty=True)
    for word, least in ((None, budget), (words, budget), (words // 2, budget - 1)):
        noise = patterns.random_length_spans(
            jax.random.key(0), everywhere, jnp.int32(budget), word, probs, 2 * budget
        )
        assert least <= noise.mask.sum() <= budget


@pytest.mark.parametrize("length, budget", [(42, 6), (LENGTH, 7)])
def test_words_of_one_token_have_the_noise_of_tokens(length, budget):
    probs = patterns.length_probs("poisson", 3.0, 0, allow_empty=True)

    @functools.partial(jax.vmap, in_axes=(0, None))
    def draw(rng, word):
        everywhere = jnp.ones(length, bool)
        return patterns.random_length_spans(
            rng, everywhere, jnp.int32(budget), word, probs, 2 * budget
        )

    of_words = draw(rngs(), jnp.arange(length, dtype=jnp.int32))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, of_words, draw(rngs(), None)))


@functools.cache
def corrupt_rows(name):
    """(words of each row, rows, inputs, is_noise) for rows of one long document."""
    objective, spec = objectives.build(name), ObjectiveSpec("encoder", VOCABULARY, LENGTH)
    rows = np.random.default_rng(0).choice(REGULAR_TOKENS, (2000, LENGTH)).astype(np.int32)
    rows[:, 0], rows[:, -1] = VOCABULARY.cls, VOCABULARY.sep
    corrupt = jax.jit(functools.partial(objective.corrupt_batch, spec))
    batch = jax.tree.map(np.asarray, corrupt(rngs(2000), jnp.asarray(rows)))
    is_noise = np.zeros(rows.shape, bool)
    slots = zip(is_noise, batch.loss_weights > 0, batch.target_positions, strict=True)
    for row, filled, positions in slots:
        row[positions[filled]] = True
    return [words_of(row) for row in rows], rows, batch.inputs.tokens, is_noise


@pytest.mark.parametrize("name", ["whole_word_masked_lm", "span_masked_lm"])
def test_invariant_10_whole_words_are_noise_and_corrupted_as_published(name):
    """Each token independently in BERT's repository; all tokens of a span alike in SpanBERT."""
    words, rows, inputs, is_noise = corrupt_rows(name)
    budget = round(0.15 * (LENGTH - 2))
    ways, unused = [], []
    for row_words, row, tokens, noise in zip(words, rows, inputs, is_noise, strict=True):
        assert noise.sum() <= budget
        for word in row_words:
            assert len({bool(noise[i]) for i in word}) == 1
            if noise[word[0]]:
                groups = [[i] for i in word] if name == "whole_word_masked_lm" else [word]
                for group in groups:
                    masks = {tokens[i] == VOCABULARY.mask for i in group}
                    assert len(masks) == 1
                    kept = all(tokens[i] == row[i] for i in group)
                    ways.append("mask" if masks == {True} else "keep" if kept else "random")
        np.testing.assert_array_equal(tokens[~noise], row[~noise])
        unused.append(budget - noise.sum())
    # Less is unused than the word that did not fit; a word has three tokens here.
    assert np.mean(unused) < (0.3 if name == "whole_word_masked_lm" else 3)
    shares = {way: ways.count(way) / len(ways) for way in set(ways)}
    error = 5 * (3 * len(ways)) ** -0.5 * (3 if name == "span_masked_lm" else 1)
    assert abs(shares["mask"] - 0.8) < error and abs(shares["keep"] - 0.1) < error


def test_invariant_10_spans_of_words_have_the_published_lengths_in_words():
    words, _, _, is_noise = corrupt_rows("span_masked_lm")
    lengths = []
    for row_words, noise in zip(words, is_noise, strict=True):
        run = 0
        for word in [*row_words, None]:
            if word is not None and noise[word[0]]:
                run += 1
            elif run:
                lengths.append(run)
                run = 0
    assert max(lengths) <= 10
    # The budget of 14 tokens is five words, so many spans are cut to it.
    assert 1.5 < np.mean(lengths) < 3.8


def test_shuffled_tokens_stay_in_their_document_and_all_orders_are_equally_likely():
    objective, spec = objectives.build("deshuffling"), ObjectiveSpec("encoder", VOCABULARY, 8)
    row = jnp.asarray([2, 121, 122, 123, 3, 2, 131, 3], jnp.int32)
    corrupt = jax.jit(jax.vmap(lambda rng: objective.corrupt(spec, rng, row)))
    tokens = np.asarray(corrupt(rngs()).inputs.tokens)
    assert (tokens[:, [0, 4, 5, 6, 7]] == [2, 3, 2, 131, 3]).all()
    orders, counts = np.unique(tokens[:, 1:4], axis=0, return_counts=True)
    assert len(orders) == 6 and abs(counts / MANY - 1 / 6).max() < 5 * (5 / 36 / MANY) ** 0.5
