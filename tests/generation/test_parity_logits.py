"""The changes of logits against transformers' processors, on random scores."""

import jax.numpy as jnp
import numpy as np
import parity
import pytest

from generation import GenerationConfig, logits, sampling

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

RANDOM = np.random.default_rng(0)
ROWS, LENGTH, VOCAB_SIZE, EOS = 6, 14, 40, (3, 5)
SCORES = RANDOM.normal(0, 3, (ROWS, VOCAB_SIZE)).astype(np.float32)
TEXT = RANDOM.integers(0, 6, (ROWS, LENGTH)).astype(np.int32)
CASES = {
    "temperature": ({"temperature": 0.6}, ["TemperatureLogitsWarper(0.6)"]),
    "top_k": ({"top_k": 7}, ["TopKLogitsWarper(7)"]),
    "top_p": ({"top_p": 0.8}, ["TopPLogitsWarper(0.8)"]),
    "top_p of all but one": ({"top_p": 0.01}, ["TopPLogitsWarper(0.01)"]),
    "min_p": ({"min_p": 0.1}, ["MinPLogitsWarper(0.1)"]),
    "typical_p": ({"typical_p": 0.7}, ["TypicalLogitsWarper(0.7)"]),
    "all of them": (
        {"temperature": 1.7, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9},
        ["TemperatureLogitsWarper(1.7)", "TopKLogitsWarper(20)", "TopPLogitsWarper(0.9)",
         "MinPLogitsWarper(0.02)", "TypicalLogitsWarper(0.9)"]),
    "repetition_penalty": ({"repetition_penalty": 1.4}, ["RepetitionPenaltyLogitsProcessor(1.4)"]),
    "2-grams": ({"no_repeat_ngram_size": 2}, ["NoRepeatNGramLogitsProcessor(2)"]),
    "4-grams": ({"no_repeat_ngram_size": 4}, ["NoRepeatNGramLogitsProcessor(4)"]),
    "1-grams": ({"no_repeat_ngram_size": 1}, ["NoRepeatNGramLogitsProcessor(1)"]),
    "bias": ({"logit_bias": ((1, 2.0), (7, -1.0))},
             ["SequenceBiasLogitsProcessor([[[1], 2.0], [[7], -1.0]])"]),
    "banned": ({"banned_tokens": (1, 9)}, ["NoBadWordsLogitsProcessor([[1], [9]])"]),
    "min_new_tokens": ({"min_new_tokens": 5},
                       [f"MinNewTokensLengthLogitsProcessor({LENGTH - 4}, 5, [3, 5])"]),
    "bias and penalty": (
        {"logit_bias": ((1, 2.0),), "repetition_penalty": 0.7, "no_repeat_ngram_size": 3},
        ["SequenceBiasLogitsProcessor([[[1], 2.0]])", "RepetitionPenaltyLogitsProcessor(0.7)",
         "NoRepeatNGramLogitsProcessor(3)"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_transformers(name):
    options, classes = CASES[name]
    expected, text = torch.from_numpy(SCORES.copy()), torch.from_numpy(TEXT).long()
    for each in classes:
        expected = eval(f"transformers.{each}")(text, expected)
    samples = any(o in ("temperature", "top_k", "top_p", "min_p", "typical_p") for o in options)
    config = GenerationConfig(**({"temperature": 1.0} | options if samples else options))
    values = logits.values_of(config, VOCAB_SIZE)
    found = logits.process(
        jnp.asarray(SCORES), values, config.no_repeat_ngram_size, EOS, jnp.asarray(TEXT),
        jnp.int32(LENGTH), jnp.int32(4),
    )  # fmt: skip
    if samples:
        found = sampling.truncate(found, values, config.top_k)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected.numpy()))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
