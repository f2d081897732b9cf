"""Framing: the one place that puts special tokens around a document's pieces.

Between raw pieces and what a model reads: rows for pretraining, examples for finetuning, prompts.
"""

from dataclasses import dataclass, replace

import numpy as np

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder", "embeddings")


@dataclass(frozen=True)
class Frame:
    """The tokens before a document, after it, and between the two texts of a pair."""

    opening: tuple[int, ...]
    closing: tuple[int, ...]
    separator: tuple[int, ...]

    @property
    def extra(self) -> int:
        """Tokens a frame adds to a document."""
        return len(self.opening) + len(self.closing)


def frame_for(
    architecture: str, special_ids: dict, own: Frame | None = None, documents: bool = False
) -> Frame:
    """The frame of an architecture: encoder `[CLS] x [SEP]`, all others `x [EOS]`.

    A tokenizer made elsewhere may bring a frame of its `own` (`Tokenizer.frame`), which goes before:
    RoBERTa's `<s> a </s></s> b </s>`, T5's `x </s>`, Llama's `<s> x`. In a stream of `documents` each
    one ends with the closing token of its architecture all the same.

    `special_ids` is what `Tokenizer.special_ids()` gives. Raises ValueError for an unknown
    architecture, or a tokenizer without the tokens.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {architecture!r}: choose one of {', '.join(ARCHITECTURES)}"
        )
    if own is not None and not own.extra and architecture != "decoder":
        own = None  # only a decoder reads a bare text
    closing = "sep" if architecture == "encoder" else "eos"
    needed = ("cls", "sep") if architecture == "encoder" else ("eos",)
    missing = [name for name in needed if special_ids[name] < 0]
    if missing and (own is None or (documents and special_ids[closing] < 0)):
        raise ValueError(
            f"the tokenizer has no {' and no '.join(missing)} token, which the frame of a "
            f"{architecture} needs: use a tokenizer that has it"
        )
    end = (special_ids[closing],)
    if own is not None:
        cut = documents and own.closing[-1:] != end
        return replace(own, closing=own.closing + end) if cut else own
    separator = (special_ids["sep"] if special_ids["sep"] >= 0 else special_ids["eos"],)
    return Frame((special_ids["cls"],) if architecture == "encoder" else (), end, separator)


def frame(pieces: np.ndarray, lengths: np.ndarray, frame: Frame) -> np.ndarray:
    """Frames D documents that lie one after another.

    pieces int[N], lengths int[D] with sum N -> int32[N + D * frame.extra]. One document is D = 1.

    With opening (2,) and closing (3,): pieces [7 8 9], lengths [2 1] -> [2 7 8 3 2 9 3].
    """
    pieces = np.asarray(pieces)
    lengths = np.asarray(lengths, np.int64)
    if lengths.sum() != len(pieces):
        raise ValueError(f"lengths sum to {lengths.sum()}, but there are {len(pieces)} pieces")
    if len(lengths) == 1:
        return np.concatenate([frame.opening, pieces, frame.closing]).astype(np.int32)
    ends = np.cumsum(lengths + frame.extra)
    framed = np.empty(len(pieces) + len(lengths) * frame.extra, np.int32)
    ordinary = np.ones(len(framed), bool)
    starts, closings = ends - lengths - frame.extra, ends - len(frame.closing)
    for offset, token in enumerate(frame.opening):
        framed[starts + offset] = token
        ordinary[starts + offset] = False
    for offset, token in enumerate(frame.closing):
        framed[closings + offset] = token
        ordinary[closings + offset] = False
    framed[ordinary] = pieces
    return framed


def frame_example(first, second, frame_: Frame, max_length: int) -> np.ndarray:
    """Frames one text, or a pair joined by the separator, into at most `max_length` tokens.

    first int[n]; second int[m] or None -> int32[<= max_length]. What is too long loses tokens from
    the end of the longer text first (BERT, appendix A.2), so opening and closing always survive.
    Raises ValueError when the frame itself does not fit.
    """
    pair = second is not None
    extra = frame_.extra + pair * len(frame_.separator)
    room = max_length - extra
    if room < 1:
        raise ValueError(f"max_length is {max_length}, but the frame alone takes {extra}: raise it")
    first = np.asarray(first, np.int32).reshape(-1)
    if not pair:
        return frame(first[:room], np.array([len(first[:room])]), frame_)
    second = np.asarray(second, np.int32).reshape(-1)
    # Longest first: the shorter keeps its own length, or half of the room when both are longer.
    shorter = min(len(first), len(second), room // 2)
    if len(first) <= len(second):
        keep_first = min(len(first), max(shorter, room - len(second)))
        keep_second = min(len(second), room - keep_first)
    else:
        keep_second = min(len(second), max(shorter, room - len(first)))
        keep_first = min(len(first), room - keep_second)
    joined = np.concatenate([first[:keep_first], frame_.separator, second[:keep_second]])
    return frame(joined.astype(np.int32), np.array([len(joined)]), frame_)
