"""Writing a token store: one unit of work at a time, then the index over all of them.

`data.prepare` plans units, this file (in `data.worker` processes or in line) carries them out.
"""

import contextlib
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import disk_error, write_atomically
from data.sources import Piece, Source, held_out
from data.store import FORMAT, INDEX, METADATA
from data.tokenizer import Tokenizer

SPLITS = ("train", "validation")
# A shard of tokens is closed when it holds this many: 128 MiB of uint16.
SHARD_TOKENS = 1 << 26
_BATCH_BYTES = 1 << 20


@dataclass(frozen=True)
class Unit:
    """Work for one process: pieces of one source, whose documents go to `split` ('' = by hash)."""

    number: int
    split: str
    pieces: tuple[Piece, ...]

    def record(self, directory: Path) -> Path:
        """The file whose presence says that the unit is done."""
        return directory / "units" / f"{self.number:07d}.json"


class _Output:
    """The tokens and the index of one unit in one split."""

    def __init__(self, directory: Path, stem: str, dtype: np.dtype, vocabulary: int):
        self.directory, self.stem, self.dtype = directory, stem, dtype
        self.lengths, self.bytes = array("Q"), array("Q")
        self.pieces, self.numbers = array("I"), array("Q")
        self.unigram = np.zeros(vocabulary, np.int64)
        self.shards: list[tuple[str, int]] = []
        self.stream, self.written, self.temporary = None, 0, None

    def add(self, pieces: np.ndarray) -> None:
        self.unigram += np.bincount(pieces, minlength=len(self.unigram))
        if self.stream is None:
            self.temporary = self.directory / f"{self.stem}-{len(self.shards):04d}.tmp"
            self.stream = open(self.temporary, "wb")  # noqa: SIM115
            self.written = 0
        self.stream.write(pieces.astype(self.dtype).tobytes())
        self.written += len(pieces)
        if self.written >= SHARD_TOKENS:
            self.close_shard()

    def close_shard(self) -> None:
        if self.stream is None:
            return
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        name = f"{self.stem}-{len(self.shards):04d}.tokens"
        os.replace(self.temporary, self.directory / name)
        self.shards.append((name, self.written))
        self.stream = self.temporary = None

    def finish(self) -> None:
        self.close_shard()
        path = self.directory / f"{self.stem}.index"
        with open(path.with_suffix(".tmp"), "wb") as stream:
            np.savez(
                stream,
                lengths=np.frombuffer(self.lengths, np.uint64),
                bytes=np.frombuffer(self.bytes, np.uint64),
                pieces=np.frombuffer(self.pieces, np.uint32),
                numbers=np.frombuffer(self.numbers, np.uint64),
                unigram=self.unigram,
            )
        os.replace(path.with_suffix(".tmp"), path)

    def abandon(self) -> None:
        """Removes what is half-written."""
        if self.stream is not None:
            # Closing flushes: on a full disk that fails, and the file is removed anyway.
            with contextlib.suppress(OSError):
                self.stream.close()
            self.temporary.unlink(missing_ok=True)
        (self.directory / f"{self.stem}.tmp").unlink(missing_ok=True)


def write_unit(
    source: Source,
    tokenizer: Tokenizer,
    unit: Unit,
    directory: Path,
    fraction: float,
    progress: Callable[[int], None],
) -> None:
    """Tokenises a unit into `directory`/{train,validation}; its record is written last.

    `progress` is told source bytes as they are consumed. Raises ValueError for text that is not
    UTF-8, OSError of one line when the disk is full (what is half-written is removed).
    """
    dtype = np.dtype(np.uint16 if tokenizer.size <= 1 << 16 else np.uint32)
    splits = (unit.split,) if unit.split else SPLITS if fraction else ("train",)
    outputs = {}
    for split in splits:
        (directory / split).mkdir(parents=True, exist_ok=True)
        outputs[split] = _Output(directory / split, f"{unit.number:07d}", dtype, tokenizer.size)
    try:
        counts = [
            _write_piece(source, tokenizer, piece, number, unit.split, outputs, fraction, progress)
            for number, piece in enumerate(unit.pieces)
        ]
        for output in outputs.values():
            output.finish()
    except OSError as error:
        for output in outputs.values():
            output.abandon()
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise disk_error(directory, error) from error
    except BaseException:
        for output in outputs.values():
            output.abandon()
        raise
    shards = {split: output.shards for split, output in outputs.items()}
    unit.record(directory).parent.mkdir(exist_ok=True)
    record = {"documents_read": counts, "shards": shards}
    write_atomically(unit.record(directory), json.dumps(record).encode())


def _write_piece(source, tokenizer, piece, number, split, outputs, fraction, progress) -> int:
    """Tokenises one piece; returns how many documents it has, blank ones included."""
    texts, finals, targets = [], [], []
    read, size, chosen, pending, document_bytes = 0, 0, None, 0, 0

    def flush():
        nonlocal texts, finals, targets, size, pending, document_bytes
        for pieces, text, final, target in zip(
            tokenizer.encode_batch(texts), texts, finals, targets, strict=True
        ):
            output = outputs[target]
            if len(pieces):
                output.add(pieces)
                pending += len(pieces)
                document_bytes += len(text.encode())
            if final >= 0:
                if pending:  # a document without a piece is none
                    output.lengths.append(pending)
                    output.bytes.append(document_bytes)
                    output.pieces.append(number)
                    output.numbers.append(final)
                pending = document_bytes = 0
        texts, finals, targets, size = [], [], [], 0

    consumed = 0
    for part in source.read(piece):
        text = part.text.rstrip() if part.ends else part.text
        if chosen is None:
            text = text.lstrip("\r\n")
            chosen = split or ("validation" if held_out(text, fraction) else "train")
        texts.append(text)
        finals.append(read if part.ends else -1)
        targets.append(chosen)
        size += len(text)
        consumed += part.consumed
        if part.ends:
            read += 1
            chosen = None
        if size >= _BATCH_BYTES or len(texts) >= 4096:
            flush()
            progress(consumed)
            consumed = 0
    flush()
    progress(consumed)
    return read


def finish(
    directory: Path, units: list[Unit], files: list[str], settings: dict, tokenizer: Tokenizer
) -> None:
    """Joins the units' indices into one per split and writes its metadata.

    `settings`: what goes into store.json beside the counts (source, tokenizer, fingerprint).
    """
    pad = tokenizer.special_ids()["pad"]
    dtype = "uint16" if tokenizer.size <= 1 << 16 else "uint32"
    try:
        for split in SPLITS:
            (directory / split).mkdir(exist_ok=True)
            counts = _join(directory / split, split, units, directory, tokenizer.size)
            write_atomically(directory / split / "files.json", json.dumps(files).encode())
            metadata = {
                "format": FORMAT,
                **settings,
                "fingerprint": settings["fingerprint"] + f"-{split}",
                "split": split,
                "dtype": dtype,
                "pad": pad,
                **counts,
            }
            write_atomically(directory / split / METADATA, json.dumps(metadata, indent=1).encode())
    except OSError as error:
        raise disk_error(directory, error) from error


def _join(target: Path, split: str, units: list[Unit], directory: Path, vocabulary: int) -> dict:
    """Writes the index files of one split; returns its counts and shards."""
    names, starts, documents, tokens, size = [], [0], 0, 0, 0
    unigram = np.zeros(vocabulary, np.int64)
    bases: dict[int, int] = {}
    streams = {name: open(target / f"{name}.bin", "wb") for name in INDEX}  # noqa: SIM115
    try:
        np.zeros(1, np.uint64).tofile(streams["offsets"])
        for unit in units:
            record = json.loads(unit.record(directory).read_text())
            base = []
            for piece, count in zip(unit.pieces, record["documents_read"], strict=True):
                base.append(bases.get(piece.file, 0))
                bases[piece.file] = base[-1] + count
            if split not in record["shards"]:
                continue
            for name, count in record["shards"][split]:
                names.append(name)
                starts.append(starts[-1] + count)
            with np.load(target / f"{unit.number:07d}.index") as index:
                pieces = index["pieces"]
                files = np.array([piece.file for piece in unit.pieces], np.uint32)[pieces]
                numbers = index["numbers"] + np.array(base, np.uint64)[pieces]
                offsets = np.cumsum(index["lengths"], dtype=np.uint64) + np.uint64(tokens)
                for name, values in (
                    ("offsets", offsets),
                    ("bytes", index["bytes"]),
                    ("files", files),
                    ("numbers", numbers),
                ):
                    streams[name].write(values.astype(INDEX[name]).tobytes())
                documents += len(pieces)
                tokens += int(index["lengths"].sum())
                size += int(index["bytes"].sum())
                unigram += index["unigram"]
    finally:
        for stream in streams.values():
            stream.close()
    write_atomically(target / "unigram.bin", unigram.tobytes())
    return {
        "documents": documents,
        "tokens": tokens,
        "bytes": size,
        "shards": names,
        "shard_starts": starts,
    }


def tidy(directory: Path) -> None:
    """Removes the units' own records once the store is in place."""
    patterns = ("*/*.index", "*/*.tmp*", "units/*.json")
    for path in (path for pattern in patterns for path in directory.glob(pattern)):
        path.unlink(missing_ok=True)
    if (directory / "units").is_dir():
        (directory / "units").rmdir()
