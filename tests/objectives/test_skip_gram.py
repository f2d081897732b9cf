"""skip_gram against plain NumPy: subsampling, pairs, the loss and its gradients.

Statistics of subsampling, windows and negative samples follow the paper; invariants 1, 5 and 10.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import objectives
from objectives.base import ObjectiveSpec
from objectives.skip_gram import SkipGram, band
from objectives.unigram import Unigram, sample_by_weight
from objectives.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    size=40, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(), infill=(),
    sentinels=(), regular_token_ranges=((8, 25), (28, 40)),
)  # fmt: skip
REGULAR_TOKENS = [*range(8, 25), *range(28, 40)]
COUNTS = np.zeros(40)
COUNTS[REGULAR_TOKENS] = 1e6 / np.arange(1, len(REGULAR_TOKENS) + 1)
COUNTS[1] = 5e4  # [UNK] has a count but is never read
COUNTS[39] = 0  # a word that does not occur
SEQ_LEN, ROWS = 16, 6
SPEC = ObjectiveSpec("embeddings", VOCABULARY, SEQ_LEN, Unigram(COUNTS))
OBJECTIVE = SkipGram(
    window_size=3, num_negatives=4, num_shared_negatives=7, subsample_threshold=0.02
)


@functools.cache
def compiled(objective=OBJECTIVE, spec=SPEC):
    return jax.jit(jax.vmap(functools.partial(objective.corrupt, spec)))


def corrupted(rows, seed=0, objective=OBJECTIVE, spec=SPEC):
    rngs = jax.random.split(jax.random.key(seed), len(rows))
    with jax.numpy_dtype_promotion("strict"):
        batch = compiled(objective, spec)(rngs, jnp.asarray(rows, jnp.int32))
    return jax.tree.map(np.asarray, batch)


def make_rows(count, seed=0, spec=SPEC, objective=OBJECTIVE):
    """Rows of the corpus with documents of about ten words; the last one ends in padding."""
    random = np.random.default_rng(seed)
    raw = objective.lengths(spec).raw
    shares = spec.unigram.shares
    rows = random.choice(len(shares), (count, raw), p=shares)
    rows[random.random(rows.shape) < 0.1] = VOCABULARY.eos
    rows[-1, raw // 2 :] = VOCABULARY.pad
    return rows


@functools.cache
def setup():
    """(params, batch, jitted gradients and losses)."""
    model = models.build(models.ModelConfig(
        architecture="embeddings", vocab_size=40, max_length=SEQ_LEN, emb_dim=5,
    ))  # fmt: skip
    batch = corrupted(make_rows(ROWS))
    params = OBJECTIVE.init(model, jax.random.key(0), batch)
    rngs = iter(jax.random.split(jax.random.key(1), 2))
    params = jax.tree.map(lambda x: jax.random.normal(next(rngs), x.shape), params)

    def loss(params, batch):
        sums = OBJECTIVE.losses(model, params, batch, None)
        return sums["skip_gram"][0], sums

    return params, batch, jax.jit(jax.grad(loss, has_aux=True))


def reference(params, batch):
    """(loss, gradient of the input table, of the output table, hits) by equation 4, pair by pair."""
    table = np.asarray(params["embed"]["tokens"]["embedding"], np.float64)
    context = np.asarray(params["heads"]["context"]["embedding"], np.float64)
    d_table, d_context, loss, hits = np.zeros_like(table), np.zeros_like(context), 0.0, 0.0
    share = OBJECTIVE.num_negatives / OBJECTIVE.num_shared_negatives
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for b in range(len(batch.targets)):
        for n in np.flatnonzero(batch.loss_weights[b]):
            center = batch.inputs.tokens[b, batch.target_positions[b, n]]
            words = [(batch.targets[b, n], 1, 1.0)]
            words += [(word, 0, share) for word in batch.negatives[b]]
            for word, label, weight in words:
                score = table[center] @ context[word]
                p = sigmoid(score)
                loss -= weight * np.log(p if label else 1 - p)
                hits += weight * ((score > 0) == label)
                d_table[center] += weight * (p - label) * context[word]
                d_context[word] += weight * (p - label) * table[center]
    return loss, d_table, d_context, hits


def test_invariant_05_the_loss_and_its_gradients_are_equation_4_pair_by_pair():
    params, batch, gradient = setup()
    with jax.numpy_dtype_promotion("strict"):
        grads, sums = gradient(params, batch)
    loss, d_table, d_context, hits = reference(params, batch)
    pairs = batch.loss_weights.sum()
    assert pairs > 50 and sums["skip_gram"][1] == pairs
    np.testing.assert_allclose(sums["skip_gram"][0], loss, rtol=1e-5)
    np.testing.assert_allclose(grads["embed"]["tokens"]["embedding"], d_table, atol=2e-4)
    np.testing.assert_allclose(grads["heads"]["context"]["embedding"], d_context, atol=2e-4)
    np.testing.assert_allclose(sums["accuracy"][0], hits, rtol=1e-5)
    assert sums["accuracy"][1] == pairs * (1 + OBJECTIVE.num_negatives)


def test_the_worked_example():
    """The row of the docstring, with the first rng that draws the windows 2 1 2 2."""
    objective = SkipGram(window_size=2, subsample_threshold=0.0)
    spec = dataclasses.replace(SPEC, seq_len=4)
    batch = corrupted([[8, 9, 10, VOCABULARY.eos, 28]] * 200, 0, objective, spec)
    weights = batch.loss_weights.reshape(-1, 4, 4)  # [rows, offsets, centers]
    matches = (weights[:, 3, 0] == 1) & (weights[:, :, 1].sum(1) == 2) & (weights[:, 0, 2] == 1)
    row = np.flatnonzero(matches)[0]
    np.testing.assert_array_equal(batch.inputs.tokens[row], [8, 9, 10, 28])
    np.testing.assert_array_equal(batch.inputs.segment_ids[row], [1, 1, 1, 2])
    np.testing.assert_array_equal(
        batch.targets[row], [0, 0, 8, 9, 0, 8, 9, 10, 9, 10, 28, 0, 10, 28, 0, 0]
    )
    np.testing.assert_array_equal(
        batch.loss_weights[row], [0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0]
    )
    np.testing.assert_array_equal(batch.target_positions[row], np.tile(np.arange(4), 4))


def test_invariant_10_pairs_stay_in_their_document_and_exclude_special_tokens():
    rows = make_rows(64, seed=3)
    batch = corrupted(rows, seed=3)
    for row, tokens, segment_ids, weights, targets, positions, negatives in zip(
        rows, batch.inputs.tokens, batch.inputs.segment_ids, batch.loss_weights, batch.targets,
        batch.target_positions, batch.negatives, strict=True,
    ):  # fmt: skip
        kept = tokens[segment_ids > 0]
        assert np.isin(kept, REGULAR_TOKENS).all() and np.isin(negatives, REGULAR_TOKENS).all()
        # The kept tokens of each segment are a subsequence of its document in the row.
        documents = np.split(row, np.flatnonzero(row == VOCABULARY.eos) + 1)
        for number in np.unique(segment_ids[segment_ids > 0]):
            rest = iter(documents[number - 1].tolist())
            assert all(token in rest for token in tokens[segment_ids == number].tolist())
        is_target = weights > 0
        offsets = np.repeat([-3, -2, -1, 1, 2, 3], SEQ_LEN)
        neighbors = (positions + offsets)[is_target]
        assert (segment_ids[neighbors] == segment_ids[positions[is_target]]).all()
        assert (tokens[neighbors] == targets[is_target]).all()


def test_subsampling_windows_and_negatives_are_distributed_as_published():
    objective = dataclasses.replace(OBJECTIVE, num_shared_negatives=64)
    count = 3000
    rows = make_rows(count, seed=5)
    # The row is longer than the kept text, so nothing is cut off and each word shows its own rate.
    spec = dataclasses.replace(SPEC, seq_len=2 * SEQ_LEN)
    wide = np.full((count, objective.lengths(spec).raw), VOCABULARY.pad)
    wide[:, : rows.shape[1]] = rows
    batch = corrupted(wide, 5, objective, spec)
    shares = SPEC.unigram.shares
    before = np.bincount(rows.ravel(), minlength=40)
    after = np.bincount(batch.inputs.tokens[batch.inputs.segment_ids > 0], minlength=40)
    for word in REGULAR_TOKENS[:-1]:
        p = min(1.0, np.sqrt(0.02 / shares[word]))
        error = 4 * np.sqrt(p * (1 - p) / before[word]) + 1e-9
        assert abs(after[word] / before[word] - p) <= error, word
    expected = np.where(np.isin(np.arange(40), REGULAR_TOKENS), shares**0.75, 0)
    expected /= expected.sum()
    found = np.bincount(batch.negatives.ravel(), minlength=40) / batch.negatives.size
    error = 4 * np.sqrt(expected * (1 - expected) / batch.negatives.size)
    assert (np.abs(found - expected) <= error).all() and found[39] == 0
    # Centers whose widest window is within the document: 1, 2 or 3 neighbors per side, uniformly.
    segment_ids = batch.inputs.segment_ids
    whole = np.ones((count, 2 * SEQ_LEN), bool)
    for offset in range(-3, 4):
        whole &= (np.roll(segment_ids, offset, 1) == segment_ids) & (segment_ids > 0)
    whole[:, :3] = whole[:, -3:] = False
    window = batch.loss_weights.reshape(count, 6, -1).sum(1)[whole] / 2
    sizes = np.bincount(window.astype(int), minlength=4)[1:] / whole.sum()
    assert np.abs(sizes - 1 / 3).max() < 4 * np.sqrt(2 / 9 / whole.sum())


def test_subsampling_keeps_seq_len_of_the_raw_tokens_on_average():
    objective = dataclasses.replace(OBJECTIVE, subsample_threshold=0.005)
    spec = dataclasses.replace(SPEC, seq_len=200)
    random = np.random.default_rng(0)
    raw = objective.lengths(spec).raw
    assert raw > 2 * 200
    rows = random.choice(40, (200, raw), p=SPEC.unigram.shares)
    full = (corrupted(rows, 0, objective, spec).inputs.segment_ids > 0).mean()
    assert 0.95 < full <= 1


def test_invariant_01_a_row_depends_only_on_its_rng_and_jitted_equals_eager():
    rows = make_rows(ROWS)
    rngs = jax.random.split(jax.random.key(0), ROWS)
    batch = corrupted(rows)
    eager = OBJECTIVE.corrupt(SPEC, rngs[2], jnp.asarray(rows[2], jnp.int32))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[2], np.asarray(y)), batch, eager)
    other = corrupted(rows, seed=1)
    assert not np.array_equal(batch.negatives, other.negatives)


def test_band_has_the_diagonals_of_the_product():
    x, y = (jax.random.normal(jax.random.key(i), (2, 7, 3)) for i in (0, 1))
    scores = np.asarray(band(x, y, 2))
    for t in range(7):
        for j, offset in enumerate((-2, -1, 1, 2)):
            inside = 0 <= t + offset < 7
            expected = (x[:, t] * y[:, t + offset]).sum(-1) if inside else np.zeros(2)
            np.testing.assert_allclose(scores[:, j, t], expected, rtol=1e-5, atol=1e-6)


def test_sampling_by_weight_never_returns_an_entry_of_weight_zero():
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    bits = jax.random.bits(jax.random.key(0), (4000,), jnp.uint32)
    ends = jnp.array([0, 2**32 - 1], jnp.uint32)
    assert np.isin(sample_by_weight(ends, weights), [1, 3]).all()
    shares = np.bincount(np.asarray(sample_by_weight(bits, weights)), minlength=5) / 4000
    assert shares[[0, 2, 4]].sum() == 0 and abs(shares[3] - 0.75) < 0.03


def test_specs_with_equal_frequencies_are_equal_and_hash_alike():
    double = ObjectiveSpec("embeddings", VOCABULARY, SEQ_LEN, Unigram(COUNTS * 2))
    assert hash(double) == hash(SPEC) and double == SPEC
    other = COUNTS.copy()
    other[8] += 1
    assert Unigram(other) != SPEC.unigram


def test_skip_gram_needs_the_embeddings_architecture_and_frequencies():
    with pytest.raises(ValueError, match="skip_gram does not support architecture 'encoder'"):
        objectives.check(OBJECTIVE, "encoder")
    with pytest.raises(ValueError, match="causal_lm does not support.*'embeddings'.*skip_gram"):
        objectives.check(objectives.build("causal_lm"), "embeddings")
    with pytest.raises(ValueError, match="ObjectiveSpec\\(unigram"):
        OBJECTIVE.lengths(dataclasses.replace(SPEC, unigram=None))
    with pytest.raises(ValueError, match="embedding_size"):
        models.ModelConfig(architecture="embeddings", emb_dim=8, embedding_size=4)


def test_a_row_of_padding_has_no_pair():
    batch = corrupted(np.full((2, OBJECTIVE.lengths(SPEC).raw), VOCABULARY.pad))
    assert batch.loss_weights.sum() == 0 and (batch.inputs.segment_ids == 0).all()
    assert (batch.inputs.tokens == VOCABULARY.pad).all()
