"""Special tokens around documents: the one place that adds them, for pretraining and finetuning.

Between the tokens of a text and the input of a model.
"""

from dataclasses import dataclass, replace

import numpy as np

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder", "embeddings")


@dataclass(frozen=True)
class SpecialTokenTemplate:
    """The tokens before a document, after it, and between the two texts of a pair."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens added to a single document."""
        return len(self.prefix) + len(self.suffix)


def template_for(
    architecture: str,
    special_ids: dict,
    own: SpecialTokenTemplate | None = None,
    documents: bool = False,
) -> SpecialTokenTemplate:
    """The template of an architecture: `[CLS] x [SEP]` for an encoder, `x [EOS]` for all others.

    The template of a published tokenizer, `own` (`Tokenizer.template`), takes precedence: RoBERTa's
    `<s> a </s></s> b </s>`, T5's `x </s>`, Llama's `<s> x`. With `documents` (a stream of them), each
    document still ends with the end token of its architecture.

    `special_ids` comes from `Tokenizer.special_ids()`. Raises ValueError for an unknown architecture,
    or if the tokenizer lacks a token.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {architecture!r}: choose one of {', '.join(ARCHITECTURES)}"
        )
    if own is not None and not own.num_tokens and architecture != "decoder":
        own = None  # only a decoder reads a text without special tokens
    end_name = "sep" if architecture == "encoder" else "eos"
    needed = ("cls", "sep") if architecture == "encoder" else ("eos",)
    missing = [name for name in needed if special_ids[name] < 0]
    if missing and (own is None or (documents and special_ids[end_name] < 0)):
        raise ValueError(
            f"the tokenizer has no {' and no '.join(missing)} token, which the architecture "
            f"{architecture} needs: use a tokenizer that has it"
        )
    end = (special_ids[end_name],)
    if own is not None:
        add_end = documents and own.suffix[-1:] != end
        return replace(own, suffix=own.suffix + end) if add_end else own
    prefix = (special_ids["cls"],) if architecture == "encoder" else ()
    separator = (special_ids["sep"] if special_ids["sep"] >= 0 else special_ids["eos"],)
    return SpecialTokenTemplate(prefix, end, separator)


def pair_templates(
    architecture: str, special_ids: dict, own: SpecialTokenTemplate | None = None
) -> tuple[SpecialTokenTemplate, SpecialTokenTemplate]:
    """The templates of a source, and of the target that a model generates after reading it.

    An encoder-decoder reads the source as it reads any text, and its target is a text that ends with
    [EOS]. A decoder reads one sequence: `source [SEP] target [EOS]`, with the separator of its template,
    or [EOS] where the template has none. Arguments and errors as in `template_for`.
    """
    document = template_for(architecture, special_ids, own, documents=True)
    if architecture != "decoder":
        return template_for(architecture, special_ids, own), document
    end = (special_ids["eos"],)
    return replace(document, suffix=document.separator or end), SpecialTokenTemplate((), end, ())


def add_special_tokens(
    tokens: np.ndarray, lengths: np.ndarray, template: SpecialTokenTemplate
) -> np.ndarray:
    """Adds the template around each of D concatenated documents.

    tokens int[N], lengths int[D] with sum N -> int32[N + D * template.num_tokens].

    With prefix (2,) and suffix (3,): tokens [7 8 9], lengths [2 1] -> [2 7 8 3 2 9 3].
    """
    tokens = np.asarray(tokens)
    lengths = np.asarray(lengths, np.int64)
    if lengths.sum() != len(tokens):
        raise ValueError(f"lengths sum to {lengths.sum()}, but there are {len(tokens)} tokens")
    if len(lengths) == 1:
        return np.concatenate([template.prefix, tokens, template.suffix]).astype(np.int32)
    ends = np.cumsum(lengths + template.num_tokens)
    out = np.empty(len(tokens) + len(lengths) * template.num_tokens, np.int32)
    is_text = np.ones(len(out), bool)
    prefix_starts = ends - lengths - template.num_tokens
    suffix_starts = ends - len(template.suffix)
    for starts, added in ((prefix_starts, template.prefix), (suffix_starts, template.suffix)):
        for offset, token in enumerate(added):
            out[starts + offset] = token
            is_text[starts + offset] = False
    out[is_text] = tokens
    return out


def encode_example(first, second, template: SpecialTokenTemplate, max_length: int) -> np.ndarray:
    """Adds the template around one text, or around a pair joined by the separator: int32[<= max_length].

    first int[n]; second int[m] or None. Errors and lengths as in `encode_pair`.
    """
    if second is not None:
        return encode_pair(first, second, template, max_length)[0]
    first = np.asarray(first, np.int32).reshape(-1)[: _limit(template.num_tokens, max_length)]
    return add_special_tokens(first, np.array([len(first)]), template)


def encode_pair(
    first, second, template: SpecialTokenTemplate, max_length: int
) -> tuple[np.ndarray, int]:
    """(the template around two texts with the separator between them, int32[<= max_length]; where the
    second text starts).

    first int[n], second int[m]. Texts that are too long lose tokens from the end of the longer one first
    (BERT, appendix A.2); prefix, separator and suffix are always kept. Raises ValueError if the special
    tokens alone do not fit.
    """
    limit = _limit(template.num_tokens + len(template.separator), max_length)
    first, second = (np.asarray(each, np.int32).reshape(-1) for each in (first, second))
    # The shorter text keeps its length, or half of the limit if both are longer than that.
    shorter = min(len(first), len(second), limit // 2)
    if len(first) <= len(second):
        keep_first = min(len(first), max(shorter, limit - len(second)))
        keep_second = min(len(second), limit - keep_first)
    else:
        keep_second = min(len(second), max(shorter, limit - len(first)))
        keep_first = min(len(first), limit - keep_second)
    joined = np.concatenate([first[:keep_first], template.separator, second[:keep_second]])
    ids = add_special_tokens(joined.astype(np.int32), np.array([len(joined)]), template)
    return ids, len(template.prefix) + keep_first + len(template.separator)


def _limit(added: int, max_length: int) -> int:
    """Tokens of text in a row, beside the special tokens."""
    if max_length <= added:
        raise ValueError(
            f"max_length is {max_length}, but the special tokens alone take {added}: raise it"
        )
    return max_length - added
