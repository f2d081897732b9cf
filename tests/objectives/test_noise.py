"""Law 10's other half: the noise has the statistics it claims, beside NumPy's own draws.

Bounds are five standard errors, so that a seedless repeat would fail once in a million.
"""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import objectives
from objectives.base import Setting, Shapes
from objectives.noise import choose, random_ordinary, slots
from objectives.patterns import spans
from objectives.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    size=210, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 113)),
    ordinary=((113, 150), (160, 200)),
)  # fmt: skip
ORDINARY = np.r_[113:150, 160:200]
MANY = 4000


def keys(count=MANY, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def uniform_p(counts):
    """The chance of counts this uneven if all were equally likely."""
    return stats.chisquare(counts).pvalue


@functools.cache
def draw_spans(length):
    def draw(key, noise, count):
        return spans(key, jnp.ones(length, bool), noise, count, length).mask

    return jax.jit(jax.vmap(draw, (0, None, None)))


def spans_of(length, noise, count):
    """bool[MANY, length] out of a row that is one run."""
    return np.asarray(draw_spans(length)(keys(), jnp.int32(noise), jnp.int32(count)))


def lengths_in(mask):
    """The lengths of the runs of 1 in each row of a mask."""
    edges = np.diff(np.pad(mask.astype(int), ((0, 0), (1, 1))), axis=1)
    return [np.flatnonzero(row == -1) - np.flatnonzero(row == 1) for row in edges]


def test_choose_takes_exactly_so_many_of_the_eligible_each_as_likely():
    eligible = jnp.asarray([1, 0, 1, 1, 1, 0, 1, 1], bool)
    draw = jax.jit(jax.vmap(lambda key, count: choose(key, eligible, count)))
    counts = np.arange(MANY) % 9
    chosen = np.asarray(draw(keys(), jnp.asarray(counts, jnp.int32)))
    np.testing.assert_array_equal(chosen.sum(1), np.minimum(counts, 6))
    assert not chosen[:, ~np.asarray(eligible)].any()
    assert uniform_p(chosen[counts == 2].sum(0)[np.asarray(eligible)]) > 1e-6
    pairs = Counter(tuple(np.flatnonzero(row)) for row in chosen[counts == 2])
    assert len(pairs) == 15 and uniform_p(list(pairs.values())) > 1e-6


def test_slots_list_the_chosen_in_order():
    indices, filled = slots(jnp.asarray([0, 1, 0, 1, 1], bool), 4)
    np.testing.assert_array_equal(indices, [1, 3, 4, 0])
    np.testing.assert_array_equal(filled, [1, 1, 1, 0])


def test_random_ordinary_draws_each_ordinary_piece_as_often():
    drawn = np.asarray(random_ordinary(jax.random.key(1), (40_000,), VOCABULARY))
    pieces, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(pieces, ORDINARY)
    assert uniform_p(counts) > 1e-6


@pytest.mark.parametrize("noise, count", [(9, 3), (90, 4), (30, 30), (5, 1), (150, 51)])
def test_spans_are_as_many_and_as_long_as_asked_and_never_touch(noise, count):
    mask = spans_of(200, noise, count)
    np.testing.assert_array_equal(mask.sum(1), noise)
    assert {len(row) for row in lengths_in(mask)} == {count}


def test_span_lengths_are_those_of_t5():
    """T5 cuts the noise into parts, all ways as likely: `random_segmentation` again, in NumPy."""
    noise, count = 12, 4
    random = np.random.default_rng(0)
    cuts = np.stack([np.sort(random.choice(noise - 1, count - 1, False)) for _ in range(MANY)]) + 1
    theirs = np.diff(np.pad(cuts, ((0, 0), (1, 1)), constant_values=(0, noise)), axis=1)
    ours = np.stack(lengths_in(spans_of(200, noise, count)))
    for which in (*range(count), slice(None)):  # first, ..., last span; and all of them
        # Of spans in one row the lengths depend on each other: one of each row at a time.
        a, b = theirs[:, which].ravel(), ours[:, which].ravel()
        if isinstance(which, int):
            table = [np.bincount(np.minimum(x, 7), minlength=8)[1:] for x in (a, b)]
            assert stats.chi2_contingency(table).pvalue > 1e-6
        assert abs(a.mean() - b.mean()) < 5 * np.hypot(a.std(), b.std()) / MANY**0.5


def test_noise_falls_evenly_on_a_row():
    mask = spans_of(200, 30, 10)
    share = mask.mean(0)
    error = (0.15 * 0.85 / MANY) ** 0.5
    # At the ends of a run there is no span that could reach over from outside.
    assert abs(share[8:-8] - 0.15).max() < 5 * error
    assert abs(share[[0, -1]] - 10 / 171).max() < 5 * error


def test_spans_stay_within_runs_and_come_to_each_by_its_length():
    eligible = np.ones(43, bool)
    eligible[[0, 11, 42]] = False
    draw = jax.vmap(
        lambda key: spans(key, jnp.asarray(eligible), jnp.int32(3), jnp.int32(1), 1).mask
    )
    mask = np.asarray(jax.jit(draw)(keys()))
    assert not mask[:, ~eligible].any()
    np.testing.assert_array_equal(mask.sum(1), 3)
    assert {len(row) for row in lengths_in(mask)} == {1}
    assert abs(mask[:, 1:11].any(1).mean() - 0.25) < 5 * (0.25 * 0.75 / MANY) ** 0.5


def test_spans_come_out_shorter_where_there_is_no_room():
    eligible = jnp.asarray([0, 1, 0, 1, 1, 0, 1, 0], bool)
    draw = jax.jit(jax.vmap(lambda key, n: spans(key, eligible, n, jnp.int32(9), 9).mask))
    for noise in (0, 1, 2, 3, 4, 9):
        mask = np.asarray(draw(keys(200), jnp.full(200, noise, jnp.int32)))
        np.testing.assert_array_equal(mask, mask & np.asarray(eligible))
        assert (mask.sum(1) <= min(noise, 4)).all() and (mask.sum(1) >= min(noise, 1)).all()


def test_masked_lm_has_the_shares_of_bert():
    objective = objectives.build("masked_lm")
    setting = Setting("encoder", VOCABULARY, 64)
    random = np.random.default_rng(0)
    rows = np.pad(random.choice(ORDINARY, (MANY, 62)), ((0, 0), (1, 1)), constant_values=(2, 3))
    rows[: MANY // 2, 40:] = 0  # half of them short: 39 pieces and no [SEP]
    batch = jax.jit(jax.vmap(lambda k, r: objective.corrupt(setting, k, r)))(
        keys(), jnp.asarray(rows, jnp.int32)
    )
    weights = np.asarray(batch.weights)
    np.testing.assert_array_equal(weights.sum(1)[: MANY // 2], round(0.15 * 39))
    np.testing.assert_array_equal(weights.sum(1)[MANY // 2 :], round(0.15 * 62))
    told, targets = weights > 0, np.asarray(batch.targets)
    indices = np.asarray(batch.indices)
    assert (
        uniform_p(np.bincount(indices[MANY // 2 :][told[MANY // 2 :]], minlength=64)[1:63]) > 1e-6
    )
    shown = np.take_along_axis(np.asarray(batch.inputs.tokens), indices, 1)[told]
    targets = targets[told]
    masks, same = shown == VOCABULARY.mask, shown == targets
    error = 5 / len(shown) ** 0.5
    by_chance = 0.1 / len(ORDINARY)  # a random piece may be the same one
    assert abs(masks.mean() - 0.8) < error * 0.4
    assert abs(same.mean() - 0.1 - by_chance) < error * 0.3
    pieces, counts = np.unique(shown[~masks & ~same], return_counts=True)
    np.testing.assert_array_equal(pieces, ORDINARY)
    assert uniform_p(counts) > 1e-6


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_prefix_lm_splits_each_document_uniformly_and_apart_from_the_others(architecture):
    objective = objectives.build("prefix_lm")
    setting = Setting(architecture, VOCABULARY, 24)
    row = [*range(113, 122), 4, *range(122, 127), 4]
    row += [0] * (objective.shapes(setting).raw - len(row))
    corrupt = jax.jit(
        jax.vmap(lambda k: objective.corrupt(setting, k, jnp.asarray(row, jnp.int32)))
    )
    batch = corrupt(keys())
    targets = np.where(batch.weights > 0, batch.targets, 0)
    first = np.isin(targets, range(113, 122)).sum(1) + 1  # and its [EOS]
    second = np.isin(targets, range(122, 127)).sum(1) + 1
    for length, left in ((10, first), (6, second)):
        counts = np.bincount(left, minlength=length)
        assert counts[0] == 0 and len(counts) == length and uniform_p(counts[1:]) > 1e-6
    assert stats.chi2_contingency(np.histogram2d(first, second, (9, 5))[0]).pvalue > 1e-6


def test_span_corruption_has_the_lengths_of_t5():
    """seqio's random_spans_helper, written again; 512 gives the published 568 and 114."""

    def helper(inputs_length, density, mean):
        def lengths(tokens):
            noise = int(round(tokens * density))
            spans = int(round(noise / mean))
            return tokens - noise + spans + 1, noise + spans + 1

        tokens = inputs_length - 1
        while lengths(tokens + 1)[0] <= inputs_length:
            tokens += 1
        return tokens, lengths(tokens)[1]

    def ours(length, density, mean):
        hyperparameters = {"noise_density": density, "mean_span_length": mean}
        objective = objectives.build("span_corruption", hyperparameters)
        return objective.shapes(Setting("encoder_decoder", VOCABULARY, length))

    assert ours(512, 0.15, 3.0) == Shapes(raw=568, inputs=512, targets=114, overlap=0)
    for length in (64, 128, 256, 512):
        for density, mean in ((0.15, 3.0), (0.15, 8.0), (0.3, 5.0), (0.25, 10.0)):
            shapes = ours(length, density, mean)
            assert (shapes.raw, shapes.targets) == helper(length, density, mean)


def test_span_corruption_cuts_exactly_its_share_of_a_full_row():
    objective = objectives.build("span_corruption")
    setting = Setting("encoder_decoder", VOCABULARY, 512)
    random = np.random.default_rng(0)
    rows = random.choice(ORDINARY, (64, 568))
    rows[:, [60, 61, 200, 450]] = 4  # four documents, one of them but [EOS], and a cut one
    batch = jax.jit(jax.vmap(lambda k, r: objective.corrupt(setting, k, r)))(
        keys(64), jnp.asarray(rows, jnp.int32)
    )
    targets = np.asarray(batch.targets)
    sentinels = (targets >= 13) & (targets < 113)
    assert set(np.isin(targets, ORDINARY).sum(1)) == {85} and set(sentinels.sum(1)) == {28}
    assert set((targets == 4).sum(1)) == {1} and batch.weights.min() == 1
    assert set(np.asarray(batch.inputs.segments > 0).sum(1)) == {512}
    np.testing.assert_array_equal(batch.inputs.tokens[:, -1], 4)
