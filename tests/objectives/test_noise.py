"""Invariant 10: noise has the documented statistics, compared with draws by NumPy.

Bounds are five standard errors: with random seeds a test would fail once in a million runs.
"""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import objectives
from objectives.base import ObjectiveSpec, SequenceLengths
from objectives.noise import choose, random_regular_tokens, select_positions
from objectives.patterns import fixed_number_of_spans
from objectives.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    size=210, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 113)),
    regular_token_ranges=((113, 150), (160, 200)),
)  # fmt: skip
REGULAR_TOKENS = np.r_[113:150, 160:200]
MANY = 4000


def rngs(count=MANY, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def uniform_p(counts):
    """p-value of the counts under a uniform distribution."""
    return stats.chisquare(counts).pvalue


@functools.cache
def draw_spans(length):
    def draw(rng, noise, count):
        return fixed_number_of_spans(rng, jnp.ones(length, bool), noise, count, length).mask

    return jax.jit(jax.vmap(draw, (0, None, None)))


def spans_of(length, noise, count):
    """bool[MANY, length] for a row that is one run of eligible positions."""
    return np.asarray(draw_spans(length)(rngs(), jnp.int32(noise), jnp.int32(count)))


def lengths_in(mask):
    """The lengths of the runs of 1 in each row of a mask."""
    edges = np.diff(np.pad(mask.astype(int), ((0, 0), (1, 1))), axis=1)
    return [np.flatnonzero(row == -1) - np.flatnonzero(row == 1) for row in edges]


def test_choose_returns_exactly_that_many_eligible_positions_uniformly():
    eligible = jnp.asarray([1, 0, 1, 1, 1, 0, 1, 1], bool)
    draw = jax.jit(jax.vmap(lambda rng, count: choose(rng, eligible, count)))
    counts = np.arange(MANY) % 9
    chosen = np.asarray(draw(rngs(), jnp.asarray(counts, jnp.int32)))
    np.testing.assert_array_equal(chosen.sum(1), np.minimum(counts, 6))
    assert not chosen[:, ~np.asarray(eligible)].any()
    assert uniform_p(chosen[counts == 2].sum(0)[np.asarray(eligible)]) > 1e-6
    pairs = Counter(tuple(np.flatnonzero(row)) for row in chosen[counts == 2])
    assert len(pairs) == 15 and uniform_p(list(pairs.values())) > 1e-6


def test_slots_list_the_chosen_positions_in_order():
    positions, filled = select_positions(jnp.asarray([0, 1, 0, 1, 1], bool), 4)
    np.testing.assert_array_equal(positions, [1, 3, 4, 0])
    np.testing.assert_array_equal(filled, [1, 1, 1, 0])


def test_random_regular_tokens_are_uniform_over_all_ranges():
    drawn = np.asarray(random_regular_tokens(jax.random.key(1), (40_000,), VOCABULARY))
    tokens, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(tokens, REGULAR_TOKENS)
    assert uniform_p(counts) > 1e-6


@pytest.mark.parametrize("noise, count", [(9, 3), (90, 4), (30, 30), (5, 1), (150, 51)])
def test_fixed_spans_have_the_given_number_and_total_length_and_never_touch(noise, count):
    mask = spans_of(200, noise, count)
    np.testing.assert_array_equal(mask.sum(1), noise)
    assert {len(row) for row in lengths_in(mask)} == {count}


def test_fixed_span_lengths_have_t5s_distribution():
    """T5's `random_segmentation`, in NumPy: all partitions of the noise have equal probability."""
    noise, count = 12, 4
    random = np.random.default_rng(0)
    cuts = np.stack([np.sort(random.choice(noise - 1, count - 1, False)) for _ in range(MANY)]) + 1
    theirs = np.diff(np.pad(cuts, ((0, 0), (1, 1)), constant_values=(0, noise)), axis=1)
    ours = np.stack(lengths_in(spans_of(200, noise, count)))
    for which in (*range(count), slice(None)):  # first, ..., last span; and all of them
        # Span lengths in one row are dependent: test one span of each row at a time.
        a, b = theirs[:, which].ravel(), ours[:, which].ravel()
        if isinstance(which, int):
            table = [np.bincount(np.minimum(x, 7), minlength=8)[1:] for x in (a, b)]
            assert stats.chi2_contingency(table).pvalue > 1e-6
        assert abs(a.mean() - b.mean()) < 5 * np.hypot(a.std(), b.std()) / MANY**0.5


def test_noise_is_uniform_over_a_row():
    mask = spans_of(200, 30, 10)
    share = mask.mean(0)
    error = (0.15 * 0.85 / MANY) ** 0.5
    # No span reaches into a run from outside, so its ends have less noise.
    assert abs(share[8:-8] - 0.15).max() < 5 * error
    assert abs(share[[0, -1]] - 10 / 171).max() < 5 * error


def test_spans_stay_within_runs_and_hit_each_run_in_proportion_to_its_length():
    eligible = np.ones(43, bool)
    eligible[[0, 11, 42]] = False
    draw = jax.vmap(
        lambda rng: (
            fixed_number_of_spans(rng, jnp.asarray(eligible), jnp.int32(3), jnp.int32(1), 1).mask
        )
    )
    mask = np.asarray(jax.jit(draw)(rngs()))
    assert not mask[:, ~eligible].any()
    np.testing.assert_array_equal(mask.sum(1), 3)
    assert {len(row) for row in lengths_in(mask)} == {1}
    assert abs(mask[:, 1:11].any(1).mean() - 0.25) < 5 * (0.25 * 0.75 / MANY) ** 0.5


def test_spans_are_shorter_where_too_few_positions_are_eligible():
    eligible = jnp.asarray([0, 1, 0, 1, 1, 0, 1, 0], bool)
    draw = jax.jit(
        jax.vmap(lambda rng, n: fixed_number_of_spans(rng, eligible, n, jnp.int32(9), 9).mask)
    )
    for noise in (0, 1, 2, 3, 4, 9):
        mask = np.asarray(draw(rngs(200), jnp.full(200, noise, jnp.int32)))
        np.testing.assert_array_equal(mask, mask & np.asarray(eligible))
        assert (mask.sum(1) <= min(noise, 4)).all() and (mask.sum(1) >= min(noise, 1)).all()


def test_masked_lm_has_berts_shares_of_mask_random_and_kept_tokens():
    objective = objectives.build("masked_lm")
    spec = ObjectiveSpec("encoder", VOCABULARY, 64)
    random = np.random.default_rng(0)
    rows = np.pad(
        random.choice(REGULAR_TOKENS, (MANY, 62)), ((0, 0), (1, 1)), constant_values=(2, 3)
    )
    rows[: MANY // 2, 40:] = 0  # half of them short: 39 tokens and no [SEP]
    batch = jax.jit(jax.vmap(lambda k, r: objective.corrupt(spec, k, r)))(
        rngs(), jnp.asarray(rows, jnp.int32)
    )
    weights = np.asarray(batch.loss_weights)
    np.testing.assert_array_equal(weights.sum(1)[: MANY // 2], round(0.15 * 39))
    np.testing.assert_array_equal(weights.sum(1)[MANY // 2 :], round(0.15 * 62))
    predicted, targets = weights > 0, np.asarray(batch.targets)
    positions = np.asarray(batch.target_positions)
    assert (
        uniform_p(np.bincount(positions[MANY // 2 :][predicted[MANY // 2 :]], minlength=64)[1:63])
        > 1e-6
    )
    shown = np.take_along_axis(np.asarray(batch.inputs.tokens), positions, 1)[predicted]
    targets = targets[predicted]
    masks, same = shown == VOCABULARY.mask, shown == targets
    error = 5 / len(shown) ** 0.5
    by_chance = 0.1 / len(REGULAR_TOKENS)  # a random token may equal the original
    assert abs(masks.mean() - 0.8) < error * 0.4
    assert abs(same.mean() - 0.1 - by_chance) < error * 0.3
    tokens, counts = np.unique(shown[~masks & ~same], return_counts=True)
    np.testing.assert_array_equal(tokens, REGULAR_TOKENS)
    assert uniform_p(counts) > 1e-6


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_prefix_lm_splits_each_document_uniformly_and_independently(architecture):
    objective = objectives.build("prefix_lm")
    spec = ObjectiveSpec(architecture, VOCABULARY, 24)
    row = [*range(113, 122), 4, *range(122, 127), 4]
    row += [0] * (objective.lengths(spec).raw - len(row))
    corrupt = jax.jit(jax.vmap(lambda k: objective.corrupt(spec, k, jnp.asarray(row, jnp.int32))))
    batch = corrupt(rngs())
    targets = np.where(batch.loss_weights > 0, batch.targets, 0)
    first = np.isin(targets, range(113, 122)).sum(1) + 1  # with its [EOS]
    second = np.isin(targets, range(122, 127)).sum(1) + 1
    for length, left in ((10, first), (6, second)):
        counts = np.bincount(left, minlength=length)
        assert counts[0] == 0 and len(counts) == length and uniform_p(counts[1:]) > 1e-6
    assert stats.chi2_contingency(np.histogram2d(first, second, (9, 5))[0]).pvalue > 1e-6


def test_span_corruption_has_t5s_lengths():
    """An independent copy of seqio's random_spans_helper; 512 gives the published 568 and 114."""

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
        hyperparameters = {"noise_density": density, "mean_noise_span_length": mean}
        objective = objectives.build("span_corruption", hyperparameters)
        return objective.lengths(ObjectiveSpec("encoder_decoder", VOCABULARY, length))

    assert ours(512, 0.15, 3.0) == SequenceLengths(raw=568, inputs=512, targets=114, overlap=0)
    for length in (64, 128, 256, 512):
        for density, mean in ((0.15, 3.0), (0.15, 8.0), (0.3, 5.0), (0.25, 10.0)):
            found = ours(length, density, mean)
            assert (found.raw, found.targets) == helper(length, density, mean)


def test_span_corruption_removes_exactly_its_share_of_a_full_row():
    objective = objectives.build("span_corruption")
    spec = ObjectiveSpec("encoder_decoder", VOCABULARY, 512)
    random = np.random.default_rng(0)
    rows = random.choice(REGULAR_TOKENS, (64, 568))
    rows[:, [60, 61, 200, 450]] = 4  # four documents, one of them only [EOS], and a cut one
    batch = jax.jit(jax.vmap(lambda k, r: objective.corrupt(spec, k, r)))(
        rngs(64), jnp.asarray(rows, jnp.int32)
    )
    targets = np.asarray(batch.targets)
    sentinels = (targets >= 13) & (targets < 113)
    assert set(np.isin(targets, REGULAR_TOKENS).sum(1)) == {85} and set(sentinels.sum(1)) == {28}
    assert set((targets == 4).sum(1)) == {1} and batch.loss_weights.min() == 1
    assert set(np.asarray(batch.inputs.segment_ids > 0).sum(1)) == {512}
    np.testing.assert_array_equal(batch.inputs.tokens[:, -1], 4)
