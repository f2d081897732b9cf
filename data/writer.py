"""Writes a token store: one work item at a time, then the index over all of them.

data/prepare.py plans the items and data/parallel.py runs them.
"""

import contextlib
import io
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import disk_errors, write_atomically
from data.sources import FileRange, Source, in_validation
from data.store import FORMAT, INDEX, METADATA
from data.tokenizer import Tokenizer

SPLITS = ("train", "validation")
# A shard is closed when it holds this many tokens: 128 MiB of uint16.
SHARD_TOKENS = 1 << 26
_BATCH_CHARACTERS, _BATCH_TEXTS = 1 << 20, 4096


@dataclass(frozen=True)
class WorkItem:
    """Work for one process: ranges of one source, whose documents go to `split` ('': by hash)."""

    number: int
    split: str
    ranges: tuple[FileRange, ...]

    def record(self, directory: Path) -> Path:
        """The file that is written last, when the item is finished."""
        return directory / "items" / f"{self.number:07d}.json"


def _dtype_of(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.size <= 1 << 16 else np.uint32)


class _Output:
    """The tokens and the index of one work item in one split."""

    def __init__(self, directory: Path, stem: str, tokenizer: Tokenizer):
        self.directory, self.stem, self.dtype = directory, stem, _dtype_of(tokenizer)
        directory.mkdir(parents=True, exist_ok=True)
        self.lengths, self.bytes = array("Q"), array("Q")  # per document
        self.ranges, self.numbers = array("I"), array("Q")
        self.unigram = np.zeros(tokenizer.size, np.int64)
        self.shards: list[tuple[str, int]] = []
        self.stream, self.written, self.temporary = None, 0, None

    def add(self, tokens: np.ndarray) -> None:
        """Appends tokens to the current document."""
        self.unigram += np.bincount(tokens, minlength=len(self.unigram))
        if self.stream is None:
            self.temporary = self.directory / f"{self.stem}-{len(self.shards):04d}.tmp"
            self.stream = open(self.temporary, "wb")  # noqa: SIM115
            self.written = 0
        self.stream.write(tokens.astype(self.dtype).tobytes())
        self.written += len(tokens)
        if self.written >= SHARD_TOKENS:
            self.close_shard()

    def end_document(self, length: int, num_bytes: int, file_range: int, number: int) -> None:
        """Adds the document whose tokens were appended to the index."""
        self.lengths.append(length)
        self.bytes.append(num_bytes)
        self.ranges.append(file_range)
        self.numbers.append(number)

    def close_shard(self) -> None:
        if self.stream is None:
            return
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        name = f"{self.stem}-{len(self.shards):04d}.tokens"
        os.replace(self.temporary, self.directory / name)
        self.shards.append((name, self.written))
        self.stream = None

    def finish(self) -> None:
        """Writes the index."""
        self.close_shard()
        buffer = io.BytesIO()
        np.savez(
            buffer,
            lengths=np.frombuffer(self.lengths, np.uint64),
            bytes=np.frombuffer(self.bytes, np.uint64),
            ranges=np.frombuffer(self.ranges, np.uint32),
            numbers=np.frombuffer(self.numbers, np.uint64),
            unigram=self.unigram,
        )
        write_atomically(self.directory / f"{self.stem}.index", buffer.getvalue())

    def abandon(self) -> None:
        """Removes a half-written shard."""
        if self.stream is not None:
            with contextlib.suppress(OSError):  # closing flushes, which fails on a full disk
                self.stream.close()
            self.temporary.unlink(missing_ok=True)


def write_item(
    source: Source,
    tokenizer: Tokenizer,
    item: WorkItem,
    directory: Path,
    validation_fraction: float,
    progress: Callable[[int], None],
) -> None:
    """Tokenizes an item into `directory`/{train,validation} and then writes its record.

    Calls `progress` with the bytes of the source that were consumed since the previous call. Raises
    ValueError for text that is not UTF-8, OSError of one line if the disk is full. Half-written
    files are removed.
    """
    splits = (item.split,) if item.split else SPLITS if validation_fraction else ("train",)
    outputs = {}
    try:
        with disk_errors(directory):
            for split in splits:
                outputs[split] = _Output(directory / split, f"{item.number:07d}", tokenizer)
            counts = [
                _write_range(
                    source, tokenizer, file_range, number, item.split, outputs,
                    validation_fraction, progress,
                )
                for number, file_range in enumerate(item.ranges)
            ]  # fmt: skip
            for output in outputs.values():
                output.finish()
    except BaseException:
        for output in outputs.values():
            output.abandon()
        raise
    shards = {split: output.shards for split, output in outputs.items()}
    record = {"documents_read": counts, "shards": shards}
    write_atomically(item.record(directory), json.dumps(record).encode())


def _write_range(
    source, tokenizer, file_range, range_number, split, outputs, fraction, progress
) -> int:
    """Tokenizes one range; returns its number of documents, including blank ones."""
    batch = []  # (text, number of the document if it ends with this text or -1, split)
    characters = consumed = documents = 0
    length = num_bytes = 0  # of the current document, as far as it is written
    target = None  # the split of the current document
    rest = ""  # the end of the current document's text so far, if more of it follows

    def flush():
        nonlocal batch, characters, consumed, length, num_bytes
        encoded = tokenizer.encode_batch([text for text, _, _ in batch])
        for tokens, (text, number, to) in zip(encoded, batch, strict=True):
            if len(tokens):
                outputs[to].add(tokens)
                length += len(tokens)
                num_bytes += len(text.encode())
            if number >= 0:
                if length:  # a document without tokens is dropped
                    outputs[to].end_document(length, num_bytes, range_number, number)
                length = num_bytes = 0
        progress(consumed)
        batch, characters, consumed = [], 0, 0

    for chunk in source.read(file_range):
        text, rest = rest + chunk.text, ""
        if chunk.is_last:
            text = text.rstrip()
        if target is None:
            text = text.lstrip("\r\n")
            target = split or ("validation" if in_validation(text, fraction) else "train")
        if not chunk.is_last:
            text, rest = tokenizer.cut(text)
        batch.append((text, documents if chunk.is_last else -1, target))
        characters += len(text)
        consumed += chunk.consumed
        if chunk.is_last:
            documents += 1
            target = None
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_TEXTS:
            flush()
    flush()
    return documents


def finish(
    directory: Path, items: list[WorkItem], files: list[str], settings: dict, tokenizer: Tokenizer
) -> None:
    """Joins the items' indices into one per split and writes the metadata of each split.

    `settings`: the fields of store.json besides the counts (source, tokenizer, fingerprint).
    """
    with disk_errors(directory):
        for split in SPLITS:
            target = directory / split
            target.mkdir(exist_ok=True)
            counts = _join(target, split, items, directory, tokenizer.size)
            write_atomically(target / "files.json", json.dumps(files).encode())
            sizes = {name: (target / name).stat().st_size for name in ("unigram.bin", "files.json")}
            metadata = {
                "format": FORMAT,
                **settings,
                "fingerprint": settings["fingerprint"] + f"-{split}",
                "split": split,
                "dtype": _dtype_of(tokenizer).name,
                "pad": tokenizer.special_ids()["pad"],
                **counts,
                "sizes": sizes,
            }
            write_atomically(target / METADATA, json.dumps(metadata, indent=1).encode())


def _join(target: Path, split: str, items: list[WorkItem], directory: Path, size: int) -> dict:
    """Writes the index files of one split; returns its counts and shards."""
    names, starts, num_documents, num_tokens, num_bytes = [], [0], 0, 0, 0
    unigram = np.zeros(size, np.int64)
    read: dict[int, int] = {}  # documents of each file in the items so far
    with contextlib.ExitStack() as stack:
        streams = {name: stack.enter_context(open(target / f"{name}.bin", "wb")) for name in INDEX}
        np.zeros(1, np.uint64).tofile(streams["offsets"])
        for item in items:
            record = json.loads(item.record(directory).read_text())
            before = []  # documents of the file before each range
            for file_range, count in zip(item.ranges, record["documents_read"], strict=True):
                before.append(read.get(file_range.file, 0))
                read[file_range.file] = before[-1] + count
            if split not in record["shards"]:
                continue
            for name, count in record["shards"][split]:
                names.append(name)
                starts.append(starts[-1] + count)
            with np.load(target / f"{item.number:07d}.index") as index:
                lengths, ranges = index["lengths"], index["ranges"]
                values = {
                    "offsets": np.cumsum(lengths, dtype=np.uint64) + np.uint64(num_tokens),
                    "bytes": index["bytes"],
                    "files": np.array([each.file for each in item.ranges], np.uint32)[ranges],
                    "numbers": index["numbers"] + np.array(before, np.uint64)[ranges],
                }
                for name, dtype in INDEX.items():
                    streams[name].write(values[name].astype(dtype).tobytes())
                num_documents += len(lengths)
                num_tokens += int(lengths.sum())
                num_bytes += int(index["bytes"].sum())
                unigram += index["unigram"]
    write_atomically(target / "unigram.bin", unigram.tobytes())
    return {
        "documents": num_documents,
        "tokens": num_tokens,
        "bytes": num_bytes,
        "shards": names,
        "shard_starts": starts,
    }


def tidy(directory: Path) -> None:
    """Removes the items' own indices and records once the store is in place."""
    for pattern in ("*/*.index", "*/*.tmp*", "items/*.json"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)
    (directory / "items").rmdir()
