"""Changes of the next token's scores that hold for greedy search, sampling and beam search.
They follow transformers' LogitsProcessors, in the same order; padding of a prompt does not count.
"""

import jax
import jax.numpy as jnp
import numpy as np

from generation.config import GenerationConfig


def values_of(config: GenerationConfig, vocab_size: int) -> dict[str, np.ndarray]:
    """The numbers of the options in force, which a compiled program takes as arguments: a program depends
    on which options are in force, not on their values."""
    without = {"temperature": 0.0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0,
               "repetition_penalty": 1.0, "min_new_tokens": 0}  # fmt: skip
    values = {
        name: np.asarray(getattr(config, name), np.float32 if isinstance(off, float) else np.int32)
        for name, off in without.items()
        if getattr(config, name) != off
    }
    if config.banned_tokens or config.logit_bias:
        bias = np.zeros(vocab_size, np.float32)
        for token, value in config.logit_bias:
            bias[token] += value
        bias[list(config.banned_tokens)] = -np.inf
        values["bias"] = bias
    return values


def process(
    scores: jax.Array, values: dict, ngram_size: int, eos_ids: tuple, text: jax.Array, end, count
) -> jax.Array:
    """scores float32[R,V] of the next tokens -> changed ones, -inf where a token is ruled out.

    text int32[R,L] holds each row's tokens before column `end`, and -1 elsewhere; `count` of them are
    generated.
    """
    if "bias" in values:
        scores = scores + values["bias"][None]
    if "repetition_penalty" in values:
        penalty = values["repetition_penalty"]
        penalized = jnp.where(scores < 0, scores * penalty, scores / penalty)
        scores = jnp.where(_mark(text, scores.shape), penalized, scores)
    if ngram_size:
        repeated = _ends_of_ngrams(text, end, ngram_size)
        scores = jnp.where(_mark(repeated, scores.shape), -jnp.inf, scores)
    if "min_new_tokens" in values and eos_ids:
        is_end = np.isin(np.arange(scores.shape[1]), eos_ids)
        too_early = jnp.asarray(is_end)[None] & (count < values["min_new_tokens"])
        scores = jnp.where(too_early, -jnp.inf, scores)
    return scores


def _mark(ids, shape):
    """bool[R,V]: the ids int32[R,N] of each row; -1 is none."""
    rows = jnp.arange(shape[0], dtype=jnp.int32)[:, None]
    ids = jnp.where(ids < 0, jnp.int32(shape[1]), ids)
    return jnp.zeros(shape, bool).at[rows, ids].set(True, mode="drop")


def _ends_of_ngrams(text, end, size):
    """int32[R,N]: the last token of each n-gram of the text whose others are the last ones before `end`, or
    -1."""
    count = text.shape[1] - size + 1
    if count < 1:
        return jnp.full((text.shape[0], 1), -1, jnp.int32)
    equal = text[:, size - 1 :] >= 0
    last = jax.lax.dynamic_slice_in_dim(text, end - (size - 1), size - 1, axis=1)
    for i in range(size - 1):
        part = text[:, i : i + count]
        equal &= (part == last[:, i : i + 1]) & (part >= 0)
    return jnp.where(equal, text[:, size - 1 :], jnp.int32(-1))
