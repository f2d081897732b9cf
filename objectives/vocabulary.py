"""Vocabulary: the ids an objective must know by role, without knowing a tokenizer.
Made by the entry files from a tokenizer's `special_ids()`; read by every objective.
Plain integers and tuples, so that it hashes and is a constant inside the jitted step.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Vocabulary:
    """Ids by role, -1 or () where a foreign tokenizer has none. What is in no range of `ordinary`
    is special: never chosen, never drawn."""

    size: int  # pieces the tokenizer knows, before padding to a multiple of 128
    pad: int  # after the end of the corpus; never part of a document
    unk: int
    cls: int  # opens a document of an encoder
    sep: int  # closes a document of an encoder; joins pairs
    eos: int  # closes a document of a decoder or an encoder-decoder
    mask: int
    start: int  # what the decoder of an encoder-decoder begins with
    modes: tuple[int, ...]  # UL2's [R] [S] [X]
    infill: tuple[int, ...]  # fill-in-the-middle's [PRE] [SUF] [MID]
    sentinels: tuple[int, ...]  # in their order of use: <extra_id_0> first
    ordinary: tuple[tuple[int, int], ...]  # half-open ranges of ids, ascending, not overlapping
    # Per piece, +1: it goes on with a word, +2: a word may go on behind it. Both hold between two
    # pieces of one word. Empty where the tokenizer does not tell.
    joins: bytes = field(default=b"", repr=False)

    def __post_init__(self):
        edges = [edge for pair in self.ordinary for edge in pair]
        if not edges or edges != sorted(set(edges)) or edges[0] < 0 or edges[-1] > self.size:
            raise ValueError(
                f"vocabulary.ordinary={self.ordinary!r}: expected one or more half-open ranges, "
                f"ascending and apart, within 0..{self.size}; give those of the ordinary pieces"
            )
        if self.joins and len(self.joins) != self.size:
            raise ValueError(
                f"vocabulary.joins tells of {len(self.joins)} pieces, expected {self.size}: "
                "make it from the same tokenizer"
            )

    def closing(self, architecture: str) -> int:
        """The token that ends each document in the stream an architecture reads."""
        return self.sep if architecture == "encoder" else self.eos
