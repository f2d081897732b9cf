"""skip_gram recomputed by plain NumPy: what stays, who is whose neighbour, the loss and its gradients.

The statistics of subsampling, windows and noise words are those of the paper; laws 1, 5 and 10.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import objectives
from models.sequence import sequence_of
from objectives.base import Setting
from objectives.skip_gram import SkipGram, band
from objectives.unigram import Unigram, sampled
from objectives.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    size=40, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(), infill=(),
    sentinels=(), ordinary=((8, 25), (28, 40)),
)  # fmt: skip
ORDINARY = [*range(8, 25), *range(28, 40)]
COUNTS = np.zeros(40)
COUNTS[ORDINARY] = 1e6 / np.arange(1, len(ORDINARY) + 1)
COUNTS[1] = 5e4  # [UNK] is counted, but never read
COUNTS[39] = 0  # a word that does not occur
LENGTH, ROWS = 16, 6
SETTING = Setting("embeddings", VOCABULARY, LENGTH, Unigram(COUNTS))
OBJECTIVE = SkipGram(window=3, negatives=4, noise_words=7, subsampling=0.02)


@functools.cache
def corruption(objective=OBJECTIVE, setting=SETTING):
    return jax.jit(jax.vmap(functools.partial(objective.corrupt, setting)))


def corrupted(rows, seed=0, objective=OBJECTIVE, setting=SETTING):
    keys = jax.random.split(jax.random.key(seed), len(rows))
    with jax.numpy_dtype_promotion("strict"):
        batch = corruption(objective, setting)(keys, jnp.asarray(rows, jnp.int32))
    return jax.tree.map(np.asarray, batch)


def some_rows(count, seed=0, setting=SETTING, objective=OBJECTIVE):
    """Rows of the corpus, of documents of about ten words; the last one ends in padding."""
    random = np.random.default_rng(seed)
    raw = objective.shapes(setting).raw
    shares = setting.unigram.shares
    rows = random.choice(len(shares), (count, raw), p=shares)
    rows[random.random(rows.shape) < 0.1] = VOCABULARY.eos
    rows[-1, raw // 2 :] = VOCABULARY.pad
    return rows


@functools.cache
def made():
    """(model, params, batch, jitted losses and gradients)."""
    model = models.build(models.ModelConfig(
        architecture="embeddings", vocab_size=40, max_length=LENGTH, width=5,
    ))  # fmt: skip
    batch = corrupted(some_rows(ROWS))
    params = model.init(jax.random.key(0), batch.inputs, method="initialise")["params"]
    keys = iter(jax.random.split(jax.random.key(1), 2))
    params = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), params)

    def loss(params, batch):
        sums = OBJECTIVE.losses(model, params, batch, None)
        return sums["skip_gram"][0], sums

    return model, params, batch, jax.jit(jax.grad(loss, has_aux=True))


def by_hand(params, batch):
    """(loss, gradient of the input table, of the output table, hits) by equation 4, pair by pair."""
    table = np.asarray(params["embed"]["tokens"]["embedding"], np.float64)
    context = np.asarray(params["heads"]["context"]["embedding"], np.float64)
    d_table, d_context, loss, hits = np.zeros_like(table), np.zeros_like(context), 0.0, 0.0
    share = OBJECTIVE.negatives / OBJECTIVE.noise_words
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for b in range(len(batch.targets)):
        for n in np.flatnonzero(batch.weights[b]):
            centre, neighbour = batch.inputs.tokens[b, batch.indices[b, n]], batch.targets[b, n]
            told = [(neighbour, 1, 1.0)] + [(word, 0, share) for word in batch.noise[b]]
            for word, true, weight in told:
                score = table[centre] @ context[word]
                p = sigmoid(score)
                loss -= weight * np.log(p if true else 1 - p)
                hits += weight * ((score > 0) == true)
                d_table[centre] += weight * (p - true) * context[word]
                d_context[word] += weight * (p - true) * table[centre]
    return loss, d_table, d_context, hits


def test_law_05_the_loss_and_its_gradients_are_equation_4_pair_by_pair():
    _, params, batch, gradient = made()
    with jax.numpy_dtype_promotion("strict"):
        grads, sums = gradient(params, batch)
    loss, d_table, d_context, hits = by_hand(params, batch)
    pairs = batch.weights.sum()
    assert pairs > 50 and sums["skip_gram"][1] == pairs
    np.testing.assert_allclose(sums["skip_gram"][0], loss, rtol=1e-5)
    np.testing.assert_allclose(grads["embed"]["tokens"]["embedding"], d_table, atol=2e-4)
    np.testing.assert_allclose(grads["heads"]["context"]["embedding"], d_context, atol=2e-4)
    np.testing.assert_allclose(sums["accuracy"][0], hits, rtol=1e-5)
    assert sums["accuracy"][1] == pairs * (1 + OBJECTIVE.negatives)


def test_the_worked_example():
    """The docstring's row, by the first key that draws its windows 2 1 2 2; the pairs follow."""
    objective = SkipGram(window=2, subsampling=0.0)
    setting = dataclasses.replace(SETTING, length=4)
    batch = corrupted([[8, 9, 10, VOCABULARY.eos, 28]] * 200, 0, objective, setting)
    weights = batch.weights.reshape(-1, 4, 4)  # [rows, offsets, centres]
    drawn_so = (weights[:, 3, 0] == 1) & (weights[:, :, 1].sum(1) == 2) & (weights[:, 0, 2] == 1)
    row = np.flatnonzero(drawn_so)[0]
    np.testing.assert_array_equal(batch.inputs.tokens[row], [8, 9, 10, 28])
    np.testing.assert_array_equal(batch.inputs.segments[row], [1, 1, 1, 2])
    np.testing.assert_array_equal(
        batch.targets[row], [0, 0, 8, 9, 0, 8, 9, 10, 9, 10, 28, 0, 10, 28, 0, 0]
    )
    np.testing.assert_array_equal(
        batch.weights[row], [0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0]
    )
    np.testing.assert_array_equal(batch.indices[row], np.tile(np.arange(4), 4))


def test_law_10_pairs_stay_in_their_document_and_special_tokens_out():
    rows = some_rows(64, seed=3)
    batch = corrupted(rows, seed=3)
    for row, tokens, segments, weights, targets, indices, noise in zip(
        rows, batch.inputs.tokens, batch.inputs.segments, batch.weights, batch.targets,
        batch.indices, batch.noise, strict=True,
    ):  # fmt: skip
        kept = tokens[segments > 0]
        assert np.isin(kept, ORDINARY).all() and np.isin(noise, ORDINARY).all()
        # Documents of the row, without what is special: each kept run is a subsequence of one.
        documents = np.split(row, np.flatnonzero(row == VOCABULARY.eos) + 1)
        for number in np.unique(segments[segments > 0]):
            rest = iter(documents[number - 1].tolist())
            assert all(token in rest for token in tokens[segments == number].tolist())
        real = weights > 0
        places = indices[real] + np.repeat([-3, -2, -1, 1, 2, 3], LENGTH)[real]
        assert (segments[places] == segments[indices[real]]).all()
        assert (tokens[places] == targets[real]).all()


def test_subsampling_windows_and_noise_are_distributed_as_published():
    objective = dataclasses.replace(OBJECTIVE, noise_words=64)
    count = 3000
    rows = some_rows(count, seed=5)
    # A longer row than is ever left: nothing is cut off, so that each word's own rate shows.
    setting = dataclasses.replace(SETTING, length=2 * LENGTH)
    wide = np.full((count, objective.shapes(setting).raw), VOCABULARY.pad)
    wide[:, : rows.shape[1]] = rows
    batch = corrupted(wide, 5, objective, setting)
    shares = SETTING.unigram.shares
    given = np.bincount(rows.ravel(), minlength=40)
    left = np.bincount(batch.inputs.tokens[batch.inputs.segments > 0], minlength=40)
    for word in ORDINARY[:-1]:
        p = min(1.0, np.sqrt(0.02 / shares[word]))
        error = 4 * np.sqrt(p * (1 - p) / given[word]) + 1e-9
        assert abs(left[word] / given[word] - p) <= error, word
    expected = np.where(np.isin(np.arange(40), ORDINARY), shares**0.75, 0)
    expected /= expected.sum()
    drawn_words = np.bincount(batch.noise.ravel(), minlength=40) / batch.noise.size
    error = 4 * np.sqrt(expected * (1 - expected) / batch.noise.size)
    assert (np.abs(drawn_words - expected) <= error).all() and drawn_words[39] == 0
    # Centres with whole windows on both sides: 1, 2 or 3 neighbours a side, each as often.
    segments = batch.inputs.segments
    whole = np.ones((count, 2 * LENGTH), bool)
    for offset in range(-3, 4):
        whole &= (np.roll(segments, offset, 1) == segments) & (segments > 0)
    whole[:, :3] = whole[:, -3:] = False
    reach = batch.weights.reshape(count, 6, -1).sum(1)[whole] / 2
    sizes = np.bincount(reach.astype(int), minlength=4)[1:] / whole.sum()
    assert np.abs(sizes - 1 / 3).max() < 4 * np.sqrt(2 / 9 / whole.sum())


def test_a_row_is_as_full_as_it_says():
    """Of the raw words that `shapes` asks for, subsampling leaves `length` on average."""
    objective = dataclasses.replace(OBJECTIVE, subsampling=0.005)
    setting = dataclasses.replace(SETTING, length=200)
    random = np.random.default_rng(0)
    raw = objective.shapes(setting).raw
    assert raw > 2 * 200
    rows = random.choice(40, (200, raw), p=SETTING.unigram.shares)
    full = (corrupted(rows, 0, objective, setting).inputs.segments > 0).mean()
    assert 0.95 < full <= 1


def test_law_01_the_same_key_gives_the_same_row_alone_jitted_or_not():
    rows = some_rows(ROWS)
    keys = jax.random.split(jax.random.key(0), ROWS)
    batch = corrupted(rows)
    alone = OBJECTIVE.corrupt(SETTING, keys[2], jnp.asarray(rows[2], jnp.int32))  # not jitted
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x[2], y), batch, jax.tree.map(np.asarray, alone)
    )
    other = corrupted(rows, seed=1)
    assert not np.array_equal(batch.noise, other.noise)


def test_band_reads_the_diagonals_of_the_product():
    x, y = (jax.random.normal(jax.random.key(i), (2, 7, 3)) for i in (0, 1))
    found = np.asarray(band(x, y, 2))
    for t in range(7):
        for j, offset in enumerate((-2, -1, 1, 2)):
            inside = 0 <= t + offset < 7
            expected = (x[:, t] * y[:, t + offset]).sum(-1) if inside else np.zeros(2)
            np.testing.assert_allclose(found[:, j, t], expected, rtol=1e-5, atol=1e-6)


def test_drawing_by_weights_never_gives_what_has_none():
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    draws = jax.random.bits(jax.random.key(0), (4000,), jnp.uint32)
    found = np.asarray(sampled(draws, weights))
    assert np.isin(sampled(jnp.array([0, 2**32 - 1], jnp.uint32), weights), [1, 3]).all()
    counts = np.bincount(found, minlength=5) / 4000
    assert counts[[0, 2, 4]].sum() == 0 and abs(counts[3] - 0.75) < 0.03


def test_settings_of_the_same_counts_are_one_key_of_the_cache():
    twin = Setting(
        "embeddings", VOCABULARY, LENGTH, Unigram(COUNTS * 2)
    )  # counts of twice the text
    assert hash(twin) == hash(SETTING) and twin == SETTING
    COPY = COUNTS.copy()
    COPY[8] += 1
    assert Unigram(COPY) != SETTING.unigram


def test_only_the_embeddings_architecture_takes_it_and_takes_nothing_else():
    with pytest.raises(ValueError, match="skip_gram does not fit architecture 'encoder'"):
        objectives.check(OBJECTIVE, "encoder")
    with pytest.raises(
        ValueError, match="causal_lm does not fit architecture 'embeddings'.*skip_gram"
    ):
        objectives.check(objectives.build("causal_lm"), "embeddings")
    with pytest.raises(ValueError, match="Setting\\(unigram"):
        OBJECTIVE.shapes(dataclasses.replace(SETTING, unigram=None))
    with pytest.raises(ValueError, match="embedding_size"):
        models.ModelConfig(architecture="embeddings", width=8, embedding_size=4)


def test_padding_is_never_read():
    """A row of padding alone has no pair, and takes no part in the loss."""
    batch = corrupted(np.full((2, OBJECTIVE.shapes(SETTING).raw), VOCABULARY.pad))
    assert batch.weights.sum() == 0 and (batch.inputs.segments == 0).all()
    assert sequence_of(batch.inputs.tokens, batch.inputs.segments).tokens.max() == VOCABULARY.pad
