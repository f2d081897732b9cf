"""Vocabulary: the special-token ids that objectives need, without the tokenizer itself.
tasks/pretraining.py builds it from a tokenizer's `special_ids()`; every objective reads it.
It has only integers, bytes and tuples, so it is hashable and can be a static argument of `jit`.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Vocabulary:
    """Special-token ids; -1 or () if a pretrained tokenizer lacks the token. Ids outside
    `regular_token_ranges` are special: objectives never mask, replace or sample them."""

    size: int  # number of tokens, before padding to a multiple of 128
    pad: int  # fills a raw row after the end of the corpus; never part of a document
    unk: int
    cls: int  # first token of an encoder's document
    sep: int  # last token of an encoder's document; separates pairs
    eos: int  # last token of a document for a decoder or an encoder-decoder
    mask: int
    start: int  # first decoder input of an encoder-decoder
    modes: tuple[int, ...]  # UL2's [R] [S] [X]
    infill: tuple[int, ...]  # fill-in-the-middle's [PRE] [SUF] [MID]
    sentinels: tuple[int, ...]  # in order of use: <extra_id_0> first
    regular_token_ranges: tuple[tuple[int, int], ...]  # half-open, ascending, disjoint
    # One byte of flags per token. 1: the token can continue a word; 2: a word can continue after the
    # token. Two adjacent tokens belong to one word if the first has flag 2 and the second has flag 1.
    # Empty if the tokenizer does not define word boundaries.
    word_continuation: bytes = field(default=b"", repr=False)

    def __post_init__(self):
        edges = [edge for pair in self.regular_token_ranges for edge in pair]
        if not edges or edges != sorted(set(edges)) or edges[0] < 0 or edges[-1] > self.size:
            raise ValueError(
                f"vocabulary.regular_token_ranges={self.regular_token_ranges!r}: expected one or "
                f"more half-open ranges, ascending and disjoint, within 0..{self.size}; list the "
                "ids of the regular tokens"
            )
        if self.word_continuation and len(self.word_continuation) != self.size:
            raise ValueError(
                f"vocabulary.word_continuation covers {len(self.word_continuation)} tokens, "
                f"expected {self.size}: build it from the same tokenizer"
            )

    def closing(self, architecture: str) -> int:
        """The token that ends each document in the rows of an architecture."""
        return self.sep if architecture == "encoder" else self.eos
