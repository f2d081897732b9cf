"""The token store: a corpus as raw pieces on disk, read as rows by arithmetic on document offsets.

Written by `data.writer`, read by `data.loader`; memory-mapped, so its size does not matter.
"""

import functools
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path

import numpy as np

from data.framing import Frame, frame

FORMAT = 1
METADATA = "store.json"
# Index files: one number per document (offsets: one more, in pieces from the store's beginning).
INDEX = {"offsets": np.uint64, "bytes": np.uint64, "files": np.uint32, "numbers": np.uint64}
_OPEN_SHARDS = 256


class Store:
    """One split of one source, tokenised. Open with `Store.open`."""

    def __init__(self, path: Path, metadata: dict):
        self.path = path
        self._metadata = metadata
        self.fingerprint: str = metadata["fingerprint"]
        self.tokenizer: str = metadata["tokenizer"]
        self.source: str = metadata["source"]
        self.documents: int = metadata["documents"]
        self.tokens: int = metadata["tokens"]
        self.bytes: int = metadata["bytes"]
        self.pad: int = metadata["pad"]
        self._starts = metadata["shard_starts"]  # first token of each shard, and the end
        self._dtype = np.dtype(metadata["dtype"])
        self._shards: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._index = {}

    @staticmethod
    def open(path: str | Path, tokenizer: str = "", fingerprint: str = "") -> "Store":
        """Opens a finished store (the directory of one split).

        Refuses, with ValueError of one line, one that is unfinished, damaged, of another format, or
        (where they are given) of another tokenizer's or another fingerprint.
        """
        path = Path(path)
        again = "build it again with `python -m tools.prepare --config=...`"
        try:
            metadata = json.loads((path / METADATA).read_text())
        except FileNotFoundError as error:
            state = "holds no finished token store" if path.is_dir() else "does not exist"
            raise ValueError(f"{path} {state}: {again}") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"{path / METADATA} is damaged ({error}): {again}") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"{path} has store format {metadata.get('format')}, this code reads {FORMAT}: {again}"
            )
        for what, wanted in (("tokenizer", tokenizer), ("fingerprint", fingerprint)):
            if wanted and metadata[what] != wanted:
                raise ValueError(
                    f"{path} was made with {what} {metadata[what][:12]}, but {wanted[:12]} is asked "
                    f"for: {again}"
                )
        store = Store(path, metadata)
        for file, expected in store._expected_sizes().items():
            actual = file.stat().st_size if file.is_file() else "no"
            if actual != expected:
                raise ValueError(f"{file} has {actual} bytes where {expected} belong: {again}")
        return store

    def _expected_sizes(self) -> dict[Path, int]:
        sizes = {
            self.path / f"{name}.bin": np.dtype(dtype).itemsize
            * (self.documents + (name == "offsets"))
            for name, dtype in INDEX.items()
        }
        for name, start, end in zip(
            self._metadata["shards"], self._starts, self._starts[1:], strict=False
        ):
            sizes[self.path / name] = (end - start) * self._dtype.itemsize
        return sizes

    @property
    def unigram(self) -> np.ndarray:
        """How often each piece occurs, int64[V], without the tokens of a frame."""
        return np.fromfile(self.path / "unigram.bin", np.int64)

    @functools.cached_property
    def files(self) -> list[str]:
        """The source's files, as they were named when the store was made."""
        return json.loads((self.path / "files.json").read_text())

    def index(self, name: str) -> np.ndarray:
        """One of `INDEX`, memory-mapped: per document its offset, bytes of text, file, number in it."""
        if name not in self._index:
            path = self.path / f"{name}.bin"
            empty = path.stat().st_size == 0
            self._index[name] = (
                np.zeros(0, INDEX[name])
                if empty
                else np.asarray(np.memmap(path, INDEX[name], mode="r"))
            )
        return self._index[name]

    def _shard(self, number: int) -> np.ndarray:
        with self._lock:
            if number in self._shards:
                self._shards.move_to_end(number)
                return self._shards[number]
            path = self.path / self._metadata["shards"][number]
            shard = np.asarray(np.memmap(path, self._dtype, mode="r"))  # slices of arrays are cheap
            self._shards[number] = shard
            if len(self._shards) > _OPEN_SHARDS:
                self._shards.popitem(last=False)
            return shard

    def pieces(self, start: int, end: int) -> list[np.ndarray]:
        """Pieces [start, end) of the store, as views of the shards that hold them."""
        found = []
        number = bisect_right(self._starts, start) - 1
        while start < end:
            base, stop = self._starts[number], min(end, self._starts[number + 1])
            if stop > start:
                found.append(self._shard(number)[start - base : stop - base])
            start, number = max(start, stop), number + 1
        return found

    def document(self, number: int) -> np.ndarray:
        """The raw pieces of one document, int32[n]."""
        start, end = (int(i) for i in self.index("offsets")[number : number + 2])
        parts = self.pieces(start, end)
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)

    def rows(self, length: int, overlap: int, frame: Frame) -> "Rows":
        """The store as rows of `length` tokens, each sharing `overlap` with the one before."""
        return Rows(self, length, overlap, frame)


class Rows:
    """Rows of the framed stream (every document framed, one after another), by random access.

    Row r covers framed positions [r * (length - overlap), + length), padded after the end. A row that
    starts inside a document gets the frame's opening at position 0; the token that stood there is
    also the last one of the row before, so none is lost. (A row that starts at a document's closing
    token keeps it: there is no document left to open.)
    """

    def __init__(self, store: Store, length: int, overlap: int, frame: Frame):
        if not store.documents:
            raise ValueError(f"{store.path} holds no document: check data.source")
        if not 0 <= overlap < length:
            raise ValueError(
                f"rows of {length} tokens cannot overlap by {overlap}: 0 <= overlap < length"
            )
        if overlap < len(frame.opening):
            raise ValueError(
                f"a frame with an opening needs an overlap of at least {len(frame.opening)}, not "
                f"{overlap}: a token would be lost at each row"
            )
        self.store, self.length, self.overlap, self.frame = store, length, overlap, frame
        self.pad = store.pad
        self.stride = length - overlap
        self.tokens = store.tokens + store.documents * frame.extra  # of the framed stream
        self._rows = max(1, -(-(self.tokens - overlap) // self.stride))
        self._offsets = store.index("offsets")

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> np.ndarray:
        """int32[length]"""
        if not 0 <= row < self._rows:
            raise IndexError(f"row {row} of {self._rows}")
        return self.many([row])[0]

    def _document_at(self, positions: np.ndarray) -> np.ndarray:
        """The document that holds each framed position: a binary search that reads what it compares."""
        low = np.zeros(len(positions), np.int64)
        high = np.full(len(positions), self.store.documents, np.int64)
        for _ in range(int(self.store.documents).bit_length()):
            middle = (low + high) >> 1
            right = self._starts_of(middle) <= positions
            low, high = np.where(right, middle, low), np.where(right, high, middle)
        return low

    def _starts_of(self, documents: np.ndarray) -> np.ndarray:
        """Framed positions at which documents start."""
        return self._offsets[documents].astype(np.int64) + documents * self.frame.extra

    def _span(self, rows: np.ndarray):
        """First and last framed position (exclusive), first and last document of each row."""
        start = rows * self.stride
        stop = np.minimum(start + self.length, self.tokens)
        return start, stop, self._document_at(start), self._document_at(stop - 1)

    def many(self, indices) -> np.ndarray:
        """Rows int[n] -> int32[n, length]; an index beyond the last row gives padding alone."""
        indices = np.asarray(indices, np.int64)
        out = np.full((len(indices), self.length), self.pad, np.int32)
        real = np.flatnonzero((indices >= 0) & (indices < self._rows))
        if not len(real):
            return out
        start, stop, first, last = self._span(indices[real])
        opening = len(self.frame.opening)
        offset = lambda documents: self._offsets[documents].astype(np.int64)  # noqa: E731
        framed_first = self._starts_of(first)
        # Only the first and the last document of a row can be cut: leave out what the row does not
        # show of them, frame the rest, and drop what is left of the frame before the row's start.
        first_size = offset(first + 1) - offset(first)
        last_size = offset(last + 1) - offset(last)
        skip = np.clip(start - framed_first - opening, 0, first_size)
        keep = np.clip(stop - self._starts_of(last) - opening, 0, last_size)
        raw_start, raw_stop = offset(first) + skip, offset(last) + keep
        parts = []
        for a, b in zip(raw_start.tolist(), raw_stop.tolist(), strict=True):
            parts += self.store.pieces(a, b)
        counts = last - first + 1
        row_first = np.cumsum(counts) - counts
        documents = np.arange(counts.sum()) + np.repeat(first - row_first, counts)
        lengths = offset(documents + 1) - offset(documents)
        lengths[row_first] -= skip
        lengths[row_first + counts - 1] -= last_size - keep
        pieces = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        framed = frame(pieces, lengths, self.frame)
        sizes = raw_stop - raw_start + counts * self.frame.extra
        begin = np.cumsum(sizes) - sizes + start - framed_first - skip
        # A slice per row is faster than one gather of all places.
        for row, place, size in zip(
            real.tolist(), begin.tolist(), (stop - start).tolist(), strict=True
        ):
            out[row, :size] = framed[place : place + size]
        inside = (start > framed_first) & (start < framed_first + opening + first_size)
        out[real[inside], :opening] = self.frame.opening
        return out

    def documents_of(self, row: int) -> list[tuple[int, str, int]]:
        """(document number, source file, number in it) of every document that a row shows."""
        _, _, first, last = self._span(np.array([row], np.int64))
        names = self.store.files
        files, numbers = self.store.index("files"), self.store.index("numbers")
        return [
            (d, names[int(files[d])], int(numbers[d]))
            for d in range(int(first[0]), int(last[0]) + 1)
        ]
