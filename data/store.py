"""The token store: a tokenized corpus on disk, read as rows by arithmetic on document offsets.

Written by data/writer.py, read by data/loader.py; memory-mapped, so its size does not matter.
"""

import functools
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path

import numpy as np

from data.special_tokens import SpecialTokenTemplate, add_special_tokens

FORMAT = 1
METADATA = "store.json"
# Index files, one number per document: the offset of its first token (and the end of the last
# document), bytes of text, source file, and number within that file.
INDEX = {"offsets": np.uint64, "bytes": np.uint64, "files": np.uint32, "numbers": np.uint64}
_OPEN_SHARDS = 256


class TokenStore:
    """One split of one source, tokenized. Open it with `TokenStore.open`."""

    def __init__(self, path: Path, metadata: dict):
        self.path = path
        self._metadata = metadata
        self.fingerprint: str = metadata["fingerprint"]
        self.source: str = metadata["source"]
        self.num_documents: int = metadata["documents"]
        self.num_tokens: int = metadata["tokens"]
        self.num_bytes: int = metadata["bytes"]
        self.pad: int = metadata["pad"]
        self._starts = metadata["shard_starts"]  # first token of each shard, and the end
        self._dtype = np.dtype(metadata["dtype"])
        self._shards: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._index = {}

    @staticmethod
    def open(path: str | Path, tokenizer: str = "") -> "TokenStore":
        """Opens a finished store (the directory of one split).

        Raises ValueError of one line if the store is unfinished, damaged, of another format, or made
        with another tokenizer than the one with fingerprint `tokenizer` (if given).
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
                f"{path} has store format {metadata.get('format')}, expected {FORMAT}: {again}"
            )
        if tokenizer and metadata["tokenizer"] != tokenizer:
            raise ValueError(
                f"{path} was made with tokenizer {metadata['tokenizer'][:12]}, expected "
                f"{tokenizer[:12]}: {again}"
            )
        store = TokenStore(path, metadata)
        for file, expected in store._expected_sizes().items():
            actual = file.stat().st_size if file.is_file() else "no"
            if actual != expected:
                raise ValueError(f"{file} has {actual} bytes, expected {expected}: {again}")
        return store

    def _expected_sizes(self) -> dict[Path, int]:
        sizes = {}
        for name, dtype in INDEX.items():
            count = self.num_documents + (name == "offsets")
            sizes[self.path / f"{name}.bin"] = count * np.dtype(dtype).itemsize
        for name, size in self._metadata.get("sizes", {}).items():  # absent in older stores
            sizes[self.path / name] = size
        for name, start, end in zip(
            self._metadata["shards"], self._starts, self._starts[1:], strict=False
        ):
            sizes[self.path / name] = (end - start) * self._dtype.itemsize
        return sizes

    @property
    def unigram_counts(self) -> np.ndarray:
        """Occurrences of each token, int64[V], without the special tokens of a template."""
        return np.fromfile(self.path / "unigram.bin", np.int64)

    @functools.cached_property
    def files(self) -> list[str]:
        """The names of the source's files when the store was made."""
        return json.loads((self.path / "files.json").read_text())

    def index(self, name: str) -> np.ndarray:
        """A memory-mapped array of `INDEX`."""
        if name not in self._index:
            path = self.path / f"{name}.bin"
            is_empty = path.stat().st_size == 0  # cannot be mapped
            self._index[name] = (
                np.zeros(0, INDEX[name])
                if is_empty
                else np.asarray(np.memmap(path, INDEX[name], mode="r"))
            )
        return self._index[name]

    def _shard(self, number: int) -> np.ndarray:
        with self._lock:
            if number in self._shards:
                self._shards.move_to_end(number)
                return self._shards[number]
            path = self.path / self._metadata["shards"][number]
            # As an ndarray: slices of a memmap are slow.
            self._shards[number] = shard = np.asarray(np.memmap(path, self._dtype, mode="r"))
            if len(self._shards) > _OPEN_SHARDS:
                self._shards.popitem(last=False)
            return shard

    def tokens(self, start: int, end: int) -> list[np.ndarray]:
        """Tokens [start, end) of the store, as views of the shards that hold them."""
        found = []
        number = bisect_right(self._starts, start) - 1
        while start < end:
            base, stop = self._starts[number], min(end, self._starts[number + 1])
            if stop > start:
                found.append(self._shard(number)[start - base : stop - base])
            start, number = max(start, stop), number + 1
        return found

    def document(self, number: int) -> np.ndarray:
        """The tokens of one document, int32[n], without special tokens."""
        start, end = (int(i) for i in self.index("offsets")[number : number + 2])
        return np.concatenate([np.zeros(0, np.int32), *self.tokens(start, end)]).astype(np.int32)

    def rows(
        self, length: int, overlap: int, template: SpecialTokenTemplate, num_tokens: int = 0
    ) -> "Rows":
        """The store as rows of `length` tokens, each sharing `overlap` tokens with the previous row; with
        `num_tokens`, only the first rows, which have at least so many."""
        return Rows(self, length, overlap, template, num_tokens)


class Rows:
    """Random access to rows of the stream: every document with its special tokens, in order.

    Row r covers stream positions [r * (length - overlap), + length), padded after the end. A row that
    starts inside a document gets the template's prefix at position 0. The token it replaces is also
    the last token of the previous row, so none is lost. (A row that starts at a document's suffix
    keeps it: no document text follows it.)
    """

    def __init__(
        self, store: TokenStore, length: int, overlap: int, template: SpecialTokenTemplate,
        num_tokens: int = 0,
    ):  # fmt: skip
        if not store.num_documents:
            raise ValueError(f"{store.path} holds no document: check data.source")
        if not 0 <= overlap < length:
            raise ValueError(
                f"rows of {length} tokens cannot overlap by {overlap}: expected 0 <= overlap < length"
            )
        if overlap < len(template.prefix):
            raise ValueError(
                f"a template with a prefix needs an overlap of at least {len(template.prefix)}, not "
                f"{overlap}: each row would lose a token"
            )
        self.store, self.length, self.overlap, self.template = store, length, overlap, template
        self.pad = store.pad
        self.stride = length - overlap
        # in the stream
        self.num_tokens = store.num_tokens + store.num_documents * template.num_tokens
        used = min(self.num_tokens, num_tokens or self.num_tokens)
        self._num_rows = max(1, -(-(used - overlap) // self.stride))
        self._offsets = store.index("offsets")

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, row: int) -> np.ndarray:
        """int32[length]"""
        if not 0 <= row < self._num_rows:
            raise IndexError(f"row {row} of {self._num_rows}")
        return self.many([row])[0]

    def _document_at(self, positions: np.ndarray) -> np.ndarray:
        """The document at each stream position, by a binary search in the memory-mapped offsets."""
        low = np.zeros(len(positions), np.int64)
        high = np.full(len(positions), self.store.num_documents, np.int64)
        for _ in range(int(self.store.num_documents).bit_length()):
            middle = (low + high) >> 1
            right = self._starts_of(middle) <= positions
            low, high = np.where(right, middle, low), np.where(right, high, middle)
        return low

    def _offset_of(self, documents: np.ndarray) -> np.ndarray:
        """Store positions where documents start."""
        return self._offsets[documents].astype(np.int64)

    def _starts_of(self, documents: np.ndarray) -> np.ndarray:
        """Stream positions where documents start."""
        return self._offset_of(documents) + documents * self.template.num_tokens

    def _span(self, rows: np.ndarray):
        """First and last (exclusive) stream position, first and last document of each row."""
        start = rows * self.stride
        stop = np.minimum(start + self.length, self.num_tokens)
        return start, stop, self._document_at(start), self._document_at(stop - 1)

    def many(self, indices) -> np.ndarray:
        """Rows int[n] -> int32[n, length]; an index after the last row gives only padding."""
        indices = np.asarray(indices, np.int64)
        out = np.full((len(indices), self.length), self.pad, np.int32)
        valid = np.flatnonzero((indices >= 0) & (indices < self._num_rows))
        if not len(valid):
            return out
        start, stop, first, last = self._span(indices[valid])
        prefix, first_start = len(self.template.prefix), self._starts_of(first)
        # Only the first and the last document of a row can be cut. Leave out the tokens of them that
        # the row does not show, add special tokens, and drop what remains before the row's start.
        first_size = self._offset_of(first + 1) - self._offset_of(first)
        last_size = self._offset_of(last + 1) - self._offset_of(last)
        skip = np.clip(start - first_start - prefix, 0, first_size)
        keep = np.clip(stop - self._starts_of(last) - prefix, 0, last_size)
        store_start, store_stop = self._offset_of(first) + skip, self._offset_of(last) + keep
        parts = [np.zeros(0, np.uint16)]
        for a, b in zip(store_start.tolist(), store_stop.tolist(), strict=True):
            parts += self.store.tokens(a, b)
        counts = last - first + 1
        row_first = np.cumsum(counts) - counts
        documents = np.arange(counts.sum()) + np.repeat(first - row_first, counts)
        lengths = self._offset_of(documents + 1) - self._offset_of(documents)
        lengths[row_first] -= skip
        lengths[row_first + counts - 1] -= last_size - keep
        stream = add_special_tokens(np.concatenate(parts), lengths, self.template)
        sizes = store_stop - store_start + counts * self.template.num_tokens
        begin = np.cumsum(sizes) - sizes + start - first_start - skip
        # A slice per row is faster than one gather of all places.
        for row, place, size in zip(
            valid.tolist(), begin.tolist(), (stop - start).tolist(), strict=True
        ):
            out[row, :size] = stream[place : place + size]
        inside = (start > first_start) & (start < first_start + prefix + first_size)
        out[valid[inside], :prefix] = self.template.prefix
        return out

    def documents_of(self, row: int) -> list[tuple[int, str, int]]:
        """(document, source file, number within that file) of every document that a row shows."""
        _, _, first, last = self._span(np.array([row], np.int64))
        names = self.store.files
        files, numbers = self.store.index("files"), self.store.index("numbers")
        return [
            (d, names[int(files[d])], int(numbers[d]))
            for d in range(int(first[0]), int(last[0]) + 1)
        ]
