"""Infilling by a model that generates: spans after their sentinels, whole texts, the middle of a text.

Used by tools/filler.py, which makes the rows.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from generation import FillConfig, GenerationConfig, Prompt, generate, longest_row
from tools.prompts import decoder_start

SPAN = 32  # tokens that are generated for each mask by default


class Text(NamedTuple):
    """A text to fill, as parts with a special token between each two."""

    place: str  # for errors
    text: str
    parts: list[str]
    markers: list[str]


def record_of(text: str, filled: list[str] | None, log_prob: float) -> dict[str, Any]:
    """A filled text, with what fills each of its masks (None: unknown)."""
    record = {"text": text} if filled is None else {"text": text, "filled": filled}
    return record | {"probability": math.exp(min(log_prob, 0.0)), "log_prob": log_prob}


def infill(
    filler, texts: Sequence[Text], rows, config: FillConfig, seeds, max_new_tokens, batch_size
) -> list:
    """The records of `Filler.fill`, in the order of the texts. With a temperature there are samples,
    otherwise the sequences of a beam search with as many beams, by their probability. `batch_size`
    sequences are generated together, or all of one text."""
    groups, records = {}, [{}] * len(texts)
    # which sentinel ends a text depends on the number of masks
    for index, text in enumerate(texts):
        groups.setdefault(len(text.markers), []).append(index)
    for indices in groups.values():
        part = [texts[i] for i in indices]
        found = _generate(
            filler,
            part,
            [rows[i] for i in indices],
            config,
            [seeds[i] for i in indices],
            max_new_tokens,
            batch_size,
        )
        for index, text, sequences in zip(indices, part, found, strict=True):
            fills = [_filled(filler, text, rows[index], each) for each in sequences]
            records[index] = {"text": text.text, "fills": fills}
    return records


def _generate(filler, texts, rows, config, seeds, max_new_tokens, batch_size):
    """The generated sequences of texts with equally many masks."""
    loaded, n = filler.loaded, config.num_return_sequences
    vocabulary, both = loaded.vocabulary, loaded.config.architecture == "encoder_decoder"
    start, eos_ids = decoder_start(loaded) if both else (), [vocabulary.eos]
    if filler.way.kind == "sentinels" and not filler.way.whole:
        start = (*start, vocabulary.sentinels[0]) if both else ()
        eos_ids += vocabulary.sentinels[len(texts[0].markers) :][:1]
    prompts = []
    for text, row, seed in zip(texts, rows, seeds, strict=True):
        limit = SPAN * len(text.markers) + (len(row) if filler.way.whole else 0)
        free = longest_row(loaded.config) - len(start if both else row)
        limit = max(1, min(max_new_tokens or limit, free))
        prefix = not both and filler.way.kind != "middle"
        start_tokens = np.array(start, np.int32)
        prompts.append(Prompt(row, prefix, start_tokens, limit, seed))
    beams = {"num_beams": n, "length_penalty": 0.0} if n > 1 and not config.temperature else {}
    options = GenerationConfig(
        temperature=config.temperature,
        num_return_sequences=n,
        batch_size=max(batch_size, n),
        **beams,
    )
    return generate(
        loaded.model, loaded.params, prompts, options, eos_ids=tuple(eos_ids), mesh=loaded.mesh
    )


def _filled(filler, text, row, generated):
    """A record of one generated sequence."""
    ids, tokenizer = filler.loaded.vocabulary, filler.loaded.tokenizer
    special = {ids.eos, ids.pad, ids.sep, ids.cls, ids.start}
    tokens = [t for t in generated.tokens.tolist() if t not in special]
    log_prob = float(generated.log_probs.sum())
    about = {"finish_reason": generated.finish_reason}
    if filler.way.whole:
        return record_of(tokenizer.decode(tokens), None, log_prob) | about
    if filler.way.kind == "middle":
        prefix, suffix = (part.tolist() for part in tokenizer.encode_batch(text.parts))
        whole, spans = [*prefix, *tokens, *suffix], [tokens]
    elif filler.way.kind == "masks":  # a token for each mask
        spans = [[t] for t in tokens[: len(text.markers)]]
        spans += [[]] * (len(text.markers) - len(spans))
        whole = _restored(filler, row, spans, [ids.mask])
    else:
        used, found, at = ids.sentinels[: len(text.markers)], {}, ids.sentinels[0]
        for token in tokens:
            at = token if token in ids.sentinels else at
            if token not in ids.sentinels:
                found.setdefault(at, []).append(token)
        spans = [found.get(sentinel, []) for sentinel in used]
        whole = _restored(filler, row, spans, used)
    return record_of(tokenizer.decode(whole), list(map(tokenizer.decode, spans)), log_prob) | about


def _restored(filler, row, spans, markers):
    """The tokens of the text with the i-th marker replaced by spans[i]."""
    ids, spans, tokens = filler.loaded.vocabulary, iter(spans), []
    around = {*filler.template.prefix, *filler.template.suffix, *ids.modes, ids.eos}
    for token in row.tolist():
        tokens += next(spans) if token in markers else [token] * (token not in around)
    return tokens
