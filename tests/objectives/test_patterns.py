"""The patterns draw what their papers say: over 10,000 rows, beside draws that NumPy makes itself.

Bounds are five standard errors of both sides.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from framed import ORDINARY, VOCABULARY, words_of

import objectives
from objectives import patterns
from objectives.base import Setting

MANY, LENGTH = 10_000, 96


def keys(count=MANY):
    return jax.random.split(jax.random.key(0), count)


def span_lengths(mask):
    """int[MANY, longest + 1]: how many spans of each length a row has."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    lengths = np.nonzero(edges == -1)[1] - starts
    counts = np.zeros((len(mask), LENGTH + 1), int)
    np.add.at(counts, (rows, lengths), 1)
    return counts


def simulated(chances, budget, seed=0):
    """The same counts of spans drawn one after the other until the budget is met, the last one cut
    short; spans of length zero stand in column 0."""
    random, counts = np.random.default_rng(seed), np.zeros((MANY, LENGTH + 1), int)
    draws = random.choice(len(chances), (MANY, 4 * budget + 20), p=chances)
    for row, lengths in zip(counts, draws, strict=True):
        left = budget
        for length in lengths:
            row[min(length, left)] += 1
            left -= length
            if left <= 0:
                break
    return counts


def assert_alike(ours, theirs):
    error = np.hypot(ours.std(0), theirs.std(0)) / MANY**0.5
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize(
    "pattern, mean, longest, density, published",
    [("geometric", 5.0, 10, 0.15, 3.8), ("poisson", 3.0, 0, 0.3, 3.0)],
)
def test_law_10_span_lengths_are_those_of_the_paper(pattern, mean, longest, density, published):
    chances = patterns.chances_of(pattern, mean, longest, zero=pattern == "poisson")
    assert abs(np.arange(len(chances)) @ chances - published) < 0.01
    if pattern == "geometric":  # SpanBERT: p = 0.2, at most 10
        np.testing.assert_allclose(chances[2:] / chances[1:-1], 0.8)
        assert len(chances) == 11 and chances[0] == 0
    else:
        np.testing.assert_allclose(chances[:3] / chances[0], [1, 3, 4.5])
    budget = round(density * LENGTH)

    @jax.jit
    @jax.vmap
    def draw(key):
        everywhere = jnp.ones(LENGTH, bool)
        return patterns.random_spans(key, everywhere, jnp.int32(budget), None, chances, 2 * budget)

    noise = jax.tree.map(np.asarray, draw(keys()))
    assert set(noise.mask.sum(1)) == {budget}  # exactly the share
    ours, theirs = span_lengths(noise.mask), simulated(chances, budget)
    ours[:, 0] = noise.inserted.sum(1)
    # A zero drawn behind the last span that counts is not there: neither is it in the simulation.
    assert_alike(ours, theirs)
    assert not (noise.inserted & noise.mask).any()
    share = noise.mask.mean(0)[12:-12]
    assert abs(share - share.mean()).max() < 5 * (density / MANY) ** 0.5


@functools.cache
def masked(name):
    """(words of each row, rows, shown, chosen) of rows of one long document."""
    objective, setting = objectives.build(name), Setting("encoder", VOCABULARY, LENGTH)
    rows = np.random.default_rng(0).choice(ORDINARY, (2000, LENGTH)).astype(np.int32)
    rows[:, 0], rows[:, -1] = VOCABULARY.cls, VOCABULARY.sep
    corrupt = jax.jit(functools.partial(objective.corrupt_batch, setting))
    batch = jax.tree.map(np.asarray, corrupt(keys(2000), jnp.asarray(rows)))
    chosen = np.zeros(rows.shape, bool)
    for row, told, indices in zip(chosen, batch.weights > 0, batch.indices, strict=True):
        row[indices[told]] = True
    return [words_of(row) for row in rows], rows, batch.inputs.tokens, chosen


@pytest.mark.parametrize("name", ["whole_word_masked_lm", "span_masked_lm"])
def test_law_10_a_whole_word_is_chosen_or_not_and_shown_as_published(name):
    """Each piece by itself as in BERT's repository; a span in one way as SpanBERT has it."""
    words, rows, shown, chosen = masked(name)
    budget = round(0.15 * (LENGTH - 2))
    ways, short = [], []
    for line, row, seen, told in zip(words, rows, shown, chosen, strict=True):
        assert told.sum() <= budget
        for word in line:
            assert len({bool(told[i]) for i in word}) == 1
            if told[word[0]]:
                alike = [[i] for i in word] if name == "whole_word_masked_lm" else [word]
                for group in alike:
                    masks = {seen[i] == VOCABULARY.mask for i in group}
                    assert len(masks) == 1
                    kept = all(seen[i] == row[i] for i in group)
                    ways.append("mask" if masks == {True} else "keep" if kept else "random")
        np.testing.assert_array_equal(seen[~told], row[~told])
        short.append(budget - told.sum())
    # What is missing is less than the word that did not fit; a word has three pieces here.
    assert np.mean(short) < (0.3 if name == "whole_word_masked_lm" else 3)
    shares = {way: ways.count(way) / len(ways) for way in set(ways)}
    error = 5 * (3 * len(ways)) ** -0.5 * (3 if name == "span_masked_lm" else 1)
    assert abs(shares["mask"] - 0.8) < error and abs(shares["keep"] - 0.1) < error


def test_law_10_spans_of_words_have_the_published_lengths_in_words():
    words, _, _, chosen = masked("span_masked_lm")
    lengths = []
    for line, told in zip(words, chosen, strict=True):
        run = 0
        for word in [*line, None]:
            if word is not None and told[word[0]]:
                run += 1
            elif run:
                lengths.append(run)
                run = 0
    assert max(lengths) <= 10
    assert (
        1.5 < np.mean(lengths) < 3.8
    )  # the budget of 14 pieces is five words: spans are cut short


def test_shuffled_tokens_stay_in_their_document_and_every_order_is_as_likely():
    objective, setting = objectives.build("deshuffling"), Setting("encoder", VOCABULARY, 8)
    row = jnp.asarray([2, 121, 122, 123, 3, 2, 131, 3], jnp.int32)
    shown = np.asarray(jax.jit(jax.vmap(lambda key: objective.corrupt(setting, key, row)))(keys())
                       .inputs.tokens)  # fmt: skip
    assert (shown[:, [0, 4, 5, 6, 7]] == [2, 3, 2, 131, 3]).all()
    orders, counts = np.unique(shown[:, 1:4], axis=0, return_counts=True)
    assert len(orders) == 6 and abs(counts / MANY - 1 / 6).max() < 5 * (5 / 36 / MANY) ** 0.5
