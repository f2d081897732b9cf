"""`generate`: prompts of tokens -> generated tokens. Greedy search and sampling by temperature.

This version calls the whole model for each token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np

import models
from generation.config import GenerationConfig
from models.layers import lm_logits


@dataclass(frozen=True)
class Prompt:
    """The tokens that a model reads before it generates. No end token follows a text to be continued."""

    tokens: np.ndarray  # int32[n]; the encoder of an encoder-decoder reads them
    prefix: bool = False  # a decoder reads them bidirectionally (prefix LM)
    # int32[m] of an encoder-decoder: the start token, and tokens that the output begins with
    decoder_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    max_new_tokens: int = 0  # 0: the config's
    seed: int | None = None  # None: that of `seeds`, or config.seed + the index of the prompt


@dataclass(frozen=True)
class Generated:
    """One generated sequence."""

    tokens: np.ndarray  # int32[n] without the prompt, with the end token if one was generated
    log_probs: np.ndarray  # float32[n] under the model, before temperature and truncation
    finish_reason: str  # 'stop': an end token or on_tokens; 'length'
    score: float  # sum of log_probs; of a beam, divided by length ** length_penalty


def generate(
    model,
    params,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    *,
    eos_ids: tuple[int, ...],
    seeds: Sequence[int] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    on_tokens: Callable[[int, np.ndarray], bool] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[list[Generated]]:
    """The generated sequences of each prompt, best first.

    on_tokens(row, new tokens) is called with the tokens of a row as they come; it stops the row by
    returning True. Row i * num_return_sequences + j is sequence j of prompt i.
    """
    found = []
    for i, prompt in enumerate(prompts):
        seed = prompt.seed if prompt.seed is not None else (seeds[i] if seeds else config.seed + i)
        rows = []
        for j in range(config.num_return_sequences):
            key = jax.random.fold_in(jax.random.key(seed), j)
            row = i * config.num_return_sequences + j
            rows.append(_generate(model, params, prompt, config, eos_ids, key, row, on_tokens))
        found.append(sorted(rows, key=lambda row: -row.score))
    return found


def _generate(model, params, prompt, config, eos_ids, key, row, on_tokens):
    both = model.config.architecture == "encoder_decoder"
    text = list(prompt.decoder_tokens if both else prompt.tokens)
    start, limit = len(text), prompt.max_new_tokens or config.max_new_tokens
    log_probs, reason = [], "length"
    for position in range(limit):
        logits = _next_logits(model, params, prompt, text)
        scores = jax.nn.log_softmax(logits)
        if config.temperature:
            rng = jax.random.fold_in(key, position)
            token = int(jax.random.categorical(rng, logits / config.temperature))
        else:
            token = int(scores.argmax())
        text.append(token)
        log_probs.append(float(scores[token]))
        if (on_tokens and on_tokens(row, np.array([token], np.int32))) or token in eos_ids:
            reason = "stop"
            break
    log_probs = np.array(log_probs, np.float32)
    return Generated(np.array(text[start:], np.int32), log_probs, reason, float(log_probs.sum()))


def _next_logits(model, params, prompt, text):
    """float32[vocab_size] after the tokens of `text`."""
    limit = model.config.max_length if model.config.positions == "learned" else 1 << 30

    def inputs(tokens, attention, num_prefix=0):
        length = min(max(16, 1 << (len(tokens) - 1).bit_length()), limit)
        padded, segments = np.zeros((2, 1, length), np.int32)
        padded[0, : len(tokens)], segments[0, : len(tokens)] = tokens, 1
        prefix = np.arange(length)[None] < num_prefix if attention == "prefix" else None
        return models.make_inputs(padded, segments, attention, prefix)

    if model.config.architecture == "encoder_decoder":
        read = inputs(prompt.tokens, "bidirectional"), inputs(text, "causal")
    else:
        attention = "prefix" if prompt.prefix else "causal"
        read = (inputs(text, attention, len(prompt.tokens)),)
    return _logits_at(model, params, read, len(text) - 1)


@partial(jax.jit, static_argnums=0)
def _logits_at(model, params, inputs, index):
    hidden = model.apply({"params": params}, *inputs)[:, index][:, None]
    features = model.apply({"params": params}, hidden, method="lm_features")
    table, bias = model.apply({"params": params}, method="output_embedding")
    logits = lm_logits(features, table, bias, model.config.final_logit_softcap)
    return logits[0, 0, : model.config.vocab_size]
