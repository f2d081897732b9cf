"""Prompts and results of `generate`, the checks of prompts, and their batches.
A batch holds prompts of one length bucket, padded on the left, so that a row's shape is its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

import models
from generation.batches import bucket
from generation.config import GenerationConfig, GenerationError
from models import ModelConfig
from models.positions import rescaling_length
from models.virtual_tokens import PromptTuning

SMALLEST = 16  # tokens of the smallest bucket


@dataclass(frozen=True)
class Prompt:
    """The tokens that a model reads before it generates. No end token follows a text to be continued."""

    tokens: np.ndarray  # int32[n]; the encoder of an encoder-decoder reads them
    prefix: bool = False  # a decoder reads them bidirectionally (prefix LM)
    # int32[m] of an encoder-decoder: the start token, and tokens that the output begins with
    decoder_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    max_new_tokens: int = 0  # 0: the config's
    seed: int | None = None  # None: from `seeds`, or config.seed + the index of the prompt


@dataclass(frozen=True)
class Generated:
    """One generated sequence."""

    tokens: np.ndarray  # int32[n] without the prompt, with the end token if one was generated
    log_probs: np.ndarray  # float32[n] under the model, before any option changes its logits
    finish_reason: str  # 'stop': an end token or on_tokens; 'length'
    score: float  # sum of log_probs; of a beam, its rank: see length_penalty


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are read together; `indices` are their places in the list of prompts."""

    indices: tuple[int, ...]
    inputs: models.ModelInputs  # [P,S]; NumPy arrays
    decoder_inputs: models.ModelInputs | None
    limits: np.ndarray  # int32[P]  new tokens at most; 0 for rows that fill up the batch
    seeds: np.ndarray  # uint32[P]
    new_tokens: int  # bucket of the largest limit


def check_prompts(
    model, prompts: Sequence[Prompt], config: GenerationConfig, eos_ids, on_tokens, log
) -> None:
    """Raises GenerationError for prompts and options that do not fit the model, naming the first."""
    own = model.config
    if own.architecture not in ("decoder", "encoder_decoder"):
        raise GenerationError(
            f"a model of architecture {own.architecture} does not generate from left to right; use a "
            f"decoder or an encoder_decoder, or tools.fill_mask"
        )
    ids = [*config.banned_tokens, *(token for token, _ in config.logit_bias), *eos_ids]
    _check_ids(own, np.array(ids, np.int64), "banned_tokens, logit_bias or eos_ids")
    if len(set(config.banned_tokens)) >= own.vocab_size:
        raise GenerationError("banned_tokens has every token of the vocabulary; leave some out")
    if config.num_beams > 1 and on_tokens is not None:
        raise GenerationError(
            f"num_beams={config.num_beams} cannot report tokens as they come: beams change until the "
            f"end; set num_beams=1"
        )
    if config.rows_per_prompt > config.batch_size:
        raise GenerationError(
            f"batch_size={config.batch_size} is smaller than the {config.rows_per_prompt} beams or samples "
            f"of a prompt; raise it"
        )
    longest = 0
    for number, prompt in enumerate(prompts):
        longest = max(longest, _check_prompt(model, prompt, number, config))
    limit = rescaling_length(own)
    if limit and longest > limit:
        tuned = isinstance(getattr(model, "adapter", None), PromptTuning)
        if config.num_beams > 1 or tuned:
            what = f"num_beams={config.num_beams}" if config.num_beams > 1 else "a tuned prompt"
            raise GenerationError(
                f"{what} with rope_scaling={own.rope_scaling}: keys change when a text grows beyond {limit} "
                f"tokens, and up to {longest} are needed; lower max_new_tokens or shorten the prompts"
            )
    if longest > own.max_length and own.positions != "learned":
        log(
            f"warning: prompts and max_new_tokens={config.max_new_tokens} exceed the {own.max_length} tokens "
            "that the model was trained on"
        )


def _check_prompt(model, prompt, number, config):
    """The number of positions that this prompt needs, with its new tokens."""
    own, both = model.config, model.config.architecture == "encoder_decoder"
    where, text = f"prompt {number}", prompt.decoder_tokens if both else prompt.tokens
    for name, tokens in (("tokens", prompt.tokens), ("decoder_tokens", prompt.decoder_tokens)):
        _check_ids(own, np.asarray(tokens), f"{where}, {name}")
    if not len(prompt.tokens) or not len(text):
        needed = "a start token in decoder_tokens" if len(prompt.tokens) else "at least one token"
        raise GenerationError(f"{where} is empty: expected {needed}")
    if both and prompt.prefix:
        raise GenerationError(f"{where}: prefix=True is for decoders; leave it out")
    if prompt.max_new_tokens < 0:
        raise GenerationError(
            f"{where}: max_new_tokens={prompt.max_new_tokens}; expected at least 0"
        )
    limit, added = prompt.max_new_tokens or config.max_new_tokens, adapter_positions(model)
    needed = {"decoder": len(text) + limit - 1 + added["decoder"]}  # the last token is not read
    if both:
        needed["encoder"] = len(prompt.tokens) + added["encoder"]
    for stack, length in needed.items():
        if length > own.max_length and own.positions == "learned":
            most, remedy = limit + own.max_length - length, "shorten the prompt"
            if stack == "decoder" and most > 0:
                remedy += f", or set max_new_tokens to at most {most}"
            raise GenerationError(
                f"{where} needs {length} positions of the {stack} ({len(text)} tokens, {limit} new ones), "
                f"but the model has {own.max_length} learned ones; {remedy}"
            )
    return max(needed.values())


def _check_ids(config: ModelConfig, ids, where):
    wrong = ids[(ids < 0) | (ids >= config.vocab_size)] if len(ids) else ids
    if len(wrong):
        raise GenerationError(
            f"{where}: id {wrong[0]} is not below the {config.vocab_size} tokens of the model; use its "
            f"tokenizer"
        )


def adapter_positions(model) -> dict[str, int]:
    """Positions that the adapter of a model takes before the text, in each stack. Those of prompt tuning
    are of the first stack, and take slots of a cache too."""
    adapter = getattr(model, "adapter", None)
    count = getattr(adapter, "num_virtual_tokens", 0)
    both = model.config.architecture == "encoder_decoder"
    in_decoder = 0 if both and isinstance(adapter, PromptTuning) else count
    return {"encoder": count, "decoder": in_decoder}


def make_batches(model, prompts, config, seeds, shards: int) -> list[PromptBatch]:
    """The prompts in batches of one length bucket each. The rows of a batch, `rows_per_prompt` for each
    prompt, are a power of two or a multiple of it, and divide among `shards` devices where they can."""
    both = model.config.architecture == "encoder_decoder"
    groups = {}
    for index, prompt in enumerate(prompts):
        limit = bucket(prompt.max_new_tokens or config.max_new_tokens, SMALLEST)
        lengths = _lengths(model, prompt, both)
        groups.setdefault((prompt.prefix, lengths, limit), []).append(index)
    size = max(1, config.batch_size // config.rows_per_prompt)
    batches = []
    for (prefix, lengths, limit), indices in sorted(groups.items()):
        for start in range(0, len(indices), size):
            part = tuple(indices[start : start + size])
            count = 1 << (len(part) - 1).bit_length()
            count = -(-count // shards) * shards
            rows = [prompts[i] for i in part] + [prompts[part[0]]] * (count - len(part))
            decoder_inputs = None
            if both:
                decoder_inputs = _pad([r.decoder_tokens for r in rows], lengths[1], "causal")
            attention = "bidirectional" if both else "prefix" if prefix else "causal"
            inputs = _pad([r.tokens for r in rows], lengths[0], attention, right=both)
            limits = np.array([r.max_new_tokens or config.max_new_tokens for r in rows], np.int32)
            limits[len(part) :] = 0
            own = np.array([seeds[i] for i in part] + [0] * (count - len(part)), np.uint32)
            batches.append(PromptBatch(part, inputs, decoder_inputs, limits, own, limit))
    return batches


def _lengths(model, prompt, both):
    """The padded lengths of a prompt: (tokens,) or (tokens, decoder_tokens)."""
    most = model.config.max_length if model.config.positions == "learned" else 1 << 30
    read = min(bucket(len(prompt.tokens), SMALLEST), most)
    if both:  # short forced beginnings keep their length: most have the start token alone
        length = len(prompt.decoder_tokens)
        return read, length if length < 4 else bucket(length, SMALLEST)
    if isinstance(getattr(model, "adapter", None), PromptTuning):
        return (len(prompt.tokens),)  # padding would be between its tokens and the text
    return (read,)


def _pad(rows, length, attention, right=False):
    tokens, segments = np.zeros((2, len(rows), length), np.int32)
    for number, row in enumerate(rows):
        where = slice(0, len(row)) if right else slice(length - len(row), length)
        tokens[number, where], segments[number, where] = row, 1
    starts = length - np.array([[len(row)] for row in rows])
    index = np.arange(length)[None] - (0 if right else starts)
    return models.ModelInputs(
        tokens=tokens,
        segment_ids=segments,
        positions=np.where(segments > 0, index, 0).astype(np.int32),
        prefix=segments > 0 if attention == "prefix" else None,
        attention=attention,
    )


def make_generated(tokens, log_probs, eos_ids, stopped=False, score=None) -> Generated:
    """A Generated of the tokens int32[N] and log_probs float32[N] of a row; -1 is after its end."""
    length = int((tokens >= 0).sum())
    tokens, log_probs = tokens[:length].astype(np.int32), log_probs[:length]
    ended = stopped or (length > 0 and tokens[-1] in eos_ids)
    score = float(log_probs.sum()) if score is None else float(score)
    return Generated(tokens, log_probs, "stop" if ended else "length", score)
