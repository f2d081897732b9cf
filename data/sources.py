"""Corpora: what a source names, cut into pieces that processes read apart, streamed as documents.

Between files (or TFDS) and the tokenising workers; never holds a corpus, nor a whole long document.
"""

import ast
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data import files as files_
from data.files import compressed, digest, reading, utf8_error

# A document is handed on in parts of about this many bytes, so that its length does not matter.
_PART = 1 << 22


@dataclass(frozen=True)
class Piece:
    """A range of one file (bytes), or of one TFDS split (records), that starts and ends between documents."""

    file: int
    start: int
    end: int  # -1: to the end of the file


@dataclass(frozen=True)
class Part:
    """Some text of a document; `ends` when the document ends with it. `consumed`: bytes of source."""

    text: str
    ends: bool
    consumed: int


@dataclass(frozen=True)
class TextSource:
    """Text files (.gz, .xz too) whose documents a separator divides."""

    files: tuple[str, ...]
    separator: str
    name: str

    def splits(self) -> dict[str, tuple[int, ...]]:
        """Which files belong to which split; '' is divided by hash."""
        return {"": tuple(range(len(self.files)))}

    def sizes(self) -> list[int]:
        """Bytes on disk, per file."""
        return [os.path.getsize(path) for path in self.files]

    def fingerprint(self, cache: Path) -> str:
        """The digest of the files' contents in their order; where they lie does not matter.

        A file is read once: its digest is remembered in `cache` by its path, size and time.
        """
        with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) * 2)) as pool:
            hashes = list(pool.map(lambda path: _remembered_hash(cache, path), self.files))
        kinds = [os.path.splitext(path)[1] for path in self.files if compressed(path)]
        return digest("text", self.separator, hashes, kinds)

    def pieces(self, file: int, size: int) -> list[Piece]:
        """Cuts a file into pieces of about `size` bytes; a compressed one stays whole."""
        path = self.files[file]
        total = os.path.getsize(path)
        if compressed(path) or self.separator == "file" or total <= size:
            return [Piece(file, 0, -1)]
        cuts = [0]
        with open(path, "rb") as stream:
            for nominal in range(size, total, size):
                if nominal > cuts[-1] and (place := _boundary(stream, nominal, self.separator)):
                    if cuts[-1] < place < total:
                        cuts.append(place)
        return [Piece(file, a, b) for a, b in zip(cuts, [*cuts[1:], -1], strict=True)]

    def read(self, piece: Piece) -> Iterator[Part]:
        """The documents of a piece, in parts. Raises ValueError where a file is not UTF-8."""
        path = self.files[piece.file]
        with reading(path) as (stream, raw):
            if piece.start:
                stream.seek(piece.start)
            yield from _documents(path, stream, raw, piece, self.separator)


@dataclass(frozen=True)
class TfdsSource:
    """A prepared TFDS dataset in array_record format, read without TensorFlow."""

    directory: str
    field: str
    name: str
    identity: str
    files: tuple[str, ...]  # its splits that are read

    def splits(self) -> dict[str, tuple[int, ...]]:
        if "validation" in self.files:
            return {name: (self.files.index(name),) for name in ("train", "validation")}
        return {"": tuple(range(len(self.files)))}

    def sizes(self) -> list[int]:
        info = _builder(self.directory).info
        return [max(1, info.splits[name].num_bytes) for name in self.files]

    def fingerprint(self, cache: Path) -> str:
        del cache
        return digest("tfds", self.identity, self.field, self.files)

    def pieces(self, file: int, size: int) -> list[Piece]:
        count = _builder(self.directory).info.splits[self.files[file]].num_examples
        parts = max(1, -(-self.sizes()[file] // size))
        step = max(1, -(-count // parts))
        return [Piece(file, a, min(a + step, count)) for a in range(0, count, step)]

    def read(self, piece: Piece) -> Iterator[Part]:
        records = _builder(self.directory).as_data_source(self.files[piece.file])
        for start in range(piece.start, piece.end, 256):
            numbers = list(range(start, min(start + 256, piece.end)))
            for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
                raw = record[self.field]
                try:
                    text = raw.decode() if isinstance(raw, bytes) else str(raw)
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{self.name}: record {number} of {self.files[piece.file]} is not UTF-8 at "
                        f"byte {error.start}: prepare the dataset again with UTF-8 text"
                    ) from error
                yield Part(text, True, len(raw))


Source = TextSource | TfdsSource


def parse(spec) -> list[tuple[float, str]]:
    """A source, or a weighted mixture of sources, as [(weight, name)] with weights that sum to 1.

    `spec` is 'python_docs', 'text:GLOB', 'tfds:NAME', ((0.7, 'text:a/*'), (0.3, 'tfds:b')), or such a
    tuple written as a string. Raises ValueError of one line for anything else.
    """
    mixture = spec
    if isinstance(spec, str):
        if not spec.lstrip().startswith(("(", "[")):
            _check_name(spec)
            return [(1.0, spec)]
        try:
            mixture = ast.literal_eval(spec)
        except (ValueError, SyntaxError) as error:
            raise ValueError(
                f"data.source {spec!r} is not a mixture: write it as "
                "((0.7, 'text:a/*'), (0.3, 'tfds:b'))"
            ) from error
    if len(mixture) == 2 and isinstance(mixture[1], str):  # ((0.7, 'x')) is what Python reads so
        mixture = (mixture,)
    pairs = []
    for each in mixture:
        whole = isinstance(each, list | tuple) and len(each) == 2 and isinstance(each[1], str)
        if not whole or isinstance(each[0], bool) or not isinstance(each[0], int | float):
            raise ValueError(
                f"data.source has {each!r} where a mixture needs (weight, source), such as "
                "(0.7, 'text:a/*')"
            )
        if not 0 < each[0] < float("inf"):
            raise ValueError(
                f"data.source: the weight of {each[1]!r} is {each[0]}: make it positive"
            )
        _check_name(each[1])
        pairs.append((float(each[0]), each[1]))
    if not pairs:
        raise ValueError("data.source is an empty mixture: name at least one (weight, source)")
    total = sum(weight for weight, _ in pairs)
    return [(weight / total, name) for weight, name in pairs]


def _check_name(name: str) -> None:
    kind, _, rest = name.partition(":")
    if kind == "python_docs" or (kind in ("text", "tfds") and rest):
        return
    guess = f" (did you mean text:{name}?)" if "/" in name or "*" in name else ""
    raise ValueError(
        f"data.source {name!r} is not a corpus{guess}: choose python_docs, text:GLOB, tfds:NAME, or "
        "a mixture of them"
    )


def resolve(name: str, separator: str, field: str, cache_dir: str, log) -> Source:
    """The source a name stands for, made ready to be read (`python_docs` is written if need be).

    Raises FileNotFoundError when no file matches, ValueError for a dataset that cannot be read.
    """
    kind, _, rest = name.partition(":")
    if kind == "text":
        return TextSource(tuple(files_.expand(rest)), separator, name)
    if kind == "python_docs":
        from data import python_docs

        directory, fingerprint = python_docs.prepare(rest, cache_dir, log)
        directory = python_docs.directory_of(directory, "corpus")
        return TfdsSource(str(directory), "text", name, fingerprint, ("train", "validation"))
    builder = tfds_builder(rest)
    features = builder.info.features
    if field not in features:
        raise ValueError(
            f"{name} has no field {field!r}, but {', '.join(features)}: set data.text_field"
        )
    splits = builder.info.splits
    if "train" not in splits:
        raise ValueError(
            f"{name} has no train split, but {', '.join(splits)}: choose another dataset"
        )
    read = tuple(split for split in ("train", "validation") if split in splits)
    shards = [[split, splits[split].shard_lengths, splits[split].num_bytes] for split in read]
    identity = digest(builder.info.full_name, shards)
    return TfdsSource(str(builder.data_path), field, name, identity, read)


def tfds_builder(name: str):
    """A prepared TFDS builder in array_record format, by name (`glue/sst2`) or by its directory.

    Raises ValueError with the command that prepares it when it is absent or in another format.
    """
    import tensorflow_datasets as tfds

    try:
        builder = (
            tfds.builder_from_directory(os.path.expanduser(name))
            if os.path.isdir(os.path.expanduser(name))
            else tfds.builder(name, try_gcs=False)
        )
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"TFDS knows no dataset {name.split('/')[0]!r}: look its name up in the TFDS catalogue, or "
            "give the directory of a prepared one"
        ) from error
    except Exception as error:  # a dataset's own code, which may need what is not installed
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"TFDS cannot open {name!r} ({reason}): {_prepare_command(name)}"
        ) from error
    if not builder.info.splits:
        raise ValueError(f"tfds:{name} is not prepared: {_prepare_command(name)}")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"tfds:{name} is prepared as {builder.info.file_format.value}, which needs TensorFlow: "
            f"{_prepare_command(name)}"
        )
    return builder


def _prepare_command(name: str) -> str:
    return f"prepare it with `tfds build {name} --file_format=array_record` (where TensorFlow is)"


def to_json(source: Source) -> dict:
    """A source as plain values, for a worker process."""
    return {"class": type(source).__name__, **dataclasses.asdict(source)}


def from_json(record: dict) -> Source:
    """The inverse of `to_json`."""
    record = dict(record)
    kind = {"TextSource": TextSource, "TfdsSource": TfdsSource}[record.pop("class")]
    return kind(**{**record, "files": tuple(record["files"])})


def held_out(text: str, fraction: float) -> bool:
    """Whether a document (by its beginning, case and white space aside) is held out for validation."""
    if not fraction:
        return False
    start = " ".join(text[: 1 << 14].lower().split())
    place = int.from_bytes(hashlib.blake2b(start.encode(), digest_size=7).digest(), "big")
    return place < fraction * 2**56


def _builder(directory: str):
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(directory)


def _remembered_hash(cache: Path, path: str) -> str:
    state = os.stat(path)
    known = cache / "hashes" / digest(os.path.abspath(path), state.st_size, state.st_mtime_ns)[:32]
    if known.is_file():
        return known.read_text()
    found = files_.content_hash(path)
    known.parent.mkdir(parents=True, exist_ok=True)
    files_.write_atomically(known, found.encode())
    return found


def _boundary(stream, nominal: int, separator: str) -> int:
    """The first place at or after `nominal` where a document may begin."""
    stream.seek(nominal - 1)
    stream.readline()
    if separator == "line":
        return stream.tell()
    while line := stream.readline():
        if not line.strip():
            return stream.tell()
    return 0


def _documents(path: str, stream, raw, piece: Piece, separator: str) -> Iterator[Part]:
    """Documents between `stream`'s place and piece.end, decoded, in parts of about _PART bytes."""
    offset = piece.start  # of the next byte to read, in the uncompressed file
    waiting, waiting_bytes = [], 0  # of the document being read, not handed on yet
    begun = False  # whether a part of it was handed on
    ended = True  # whether the line before was whole
    before = raw.tell() if compressed(path) else piece.start

    def part(ends: bool, stop: int) -> Part:
        nonlocal waiting, waiting_bytes, begun, before
        data = b"".join(waiting)
        tail = 0 if ends else _unfinished(data)
        body = data[: len(data) - tail]
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise utf8_error(path, stop - len(data) + error.start) from error
        if stop == len(data):  # the beginning of the file: a byte order mark is no text
            text = text.removeprefix("\ufeff")
        waiting, waiting_bytes = ([data[len(data) - tail :]] if tail else []), tail
        now = raw.tell() if compressed(path) else stop
        consumed, before = now - before, now
        begun = not ends
        return Part(text, ends, consumed)

    while piece.end < 0 or offset < piece.end:
        line = stream.readline(_PART)
        if not line:
            break
        at_line_start, ended = ended, line.endswith(b"\n")
        blank = separator == "blank_line" and at_line_start and not line.strip() and ended
        if blank and (waiting or begun):
            yield part(True, offset)
        elif not blank:
            waiting.append(line)
            waiting_bytes += len(line)
        offset += len(line)
        if waiting and separator == "line" and ended:
            yield part(True, offset)
        elif waiting_bytes >= _PART:
            yield part(False, offset)
    if waiting or begun:
        yield part(True, offset)


def _unfinished(data: bytes) -> int:
    """Bytes at the end that begin a character but do not finish it (0 to 3)."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < needed else 0
        if byte < 0x80:
            return 0
    return 0
