"""Draws have the frequencies of the distribution, and each option changes the scores as it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from generation import GenerationConfig, logits, sampling

DRAWS, VOCAB_SIZE = 20_000, 12
SCORES = np.random.default_rng(3).normal(0, 1.5, VOCAB_SIZE).astype(np.float32)


def expected(temperature=1.0, top_k=0, top_p=1.0):
    """The truncated distribution, by a loop over the tokens."""
    p = np.exp(SCORES.astype(np.float64) / temperature)
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    kept, total = np.zeros(VOCAB_SIZE, bool), 0.0
    for token in order:
        if total < top_p:
            kept[token] = True
        total += p[token]
    return np.where(kept, p, 0) / p[kept].sum()


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.8}, {"top_k": 6, "top_p": 0.7}],
    ids=str,
)
def test_frequencies_of_20_000_draws_are_within_3_standard_errors(options):
    config = GenerationConfig(**{"temperature": 1.0, **options})
    values = logits.values_of(config, VOCAB_SIZE)

    @jax.jit
    def draw(seeds):
        scores = jnp.broadcast_to(jnp.asarray(SCORES)[None], (DRAWS, VOCAB_SIZE))
        kept = sampling.truncate(scores, values, config.top_k)
        return sampling.sample(kept, sampling.row_keys(seeds, jnp.zeros_like(seeds)), 5)

    tokens = np.asarray(draw(jnp.arange(DRAWS, dtype=jnp.uint32)))
    found = np.bincount(tokens, minlength=VOCAB_SIZE) / DRAWS
    p = expected(**options)
    assert (found[p == 0] == 0).all()
    assert (np.abs(found - p) <= 3 * np.sqrt(p * (1 - p) / DRAWS)).all()


def processed(options, text, end=None, count=0, eos_ids=(), scores=None):
    config = GenerationConfig(**options)
    text = np.asarray(text, np.int32)
    scores = np.zeros((len(text), 8), np.float32) if scores is None else scores
    out = logits.process(
        jnp.asarray(scores), logits.values_of(config, 8), config.no_repeat_ngram_size, eos_ids,
        jnp.asarray(text), jnp.int32(text.shape[1] if end is None else end), jnp.int32(count),
    )  # fmt: skip
    return np.asarray(out)


def test_banned_tokens_and_biases_change_their_tokens_alone():
    found = processed({"banned_tokens": (2,), "logit_bias": ((3, 1.5), (3, 1.0))}, [[1]])
    assert found.tolist() == [[0, 0, -np.inf, 2.5, 0, 0, 0, 0]]


def test_padding_counts_neither_for_the_penalty_nor_for_n_grams():
    scores = np.array([[2.0, -2.0, 1, 1, 1, 1, 1, 1]], np.float32)
    found = processed({"repetition_penalty": 2.0}, [[-1, 0, 1, -1]], scores=scores)
    assert found.tolist() == [[1.0, -4.0, 1, 1, 1, 1, 1, 1]]
    text = [[-1, -1, 5, 3, 4, 5, 3, -1], [1, 2, 1, 2, 1, 2, 1, -1], [-1] * 6 + [6, -1]]
    found = processed({"no_repeat_ngram_size": 3}, text, end=7)
    banned = [np.flatnonzero(np.isneginf(row)).tolist() for row in found]
    assert banned == [[4], [2], []]
    found = processed({"no_repeat_ngram_size": 1}, text, end=7)
    assert np.flatnonzero(np.isneginf(found[0])).tolist() == [3, 4, 5]


def test_no_end_before_min_new_tokens():
    options = {"min_new_tokens": 3}
    assert np.isneginf(processed(options, [[1]], count=2, eos_ids=(4, 6))[0, [4, 6]]).all()
    assert not np.isneginf(processed(options, [[1]], count=3, eos_ids=(4, 6))).any()
