"""Corpora: resolves `data.source`, divides it into ranges for parallel work, streams its documents.

Between files (or TFDS) and tokenization. It holds neither a corpus nor a long document in memory.
"""

import ast
import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data import files as files_
from data.file_kinds import identify
from data.files import digest, reading_text, utf8_error
from data.json_lines import has_name_of_json_lines, is_json, text_of_row

# A document is yielded in chunks of about this many bytes, so that its length does not matter.
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class FileRange:
    """A range of one file (bytes) or of one TFDS split (records), cut between documents."""

    file: int
    start: int
    end: int  # -1: to the end of the file


@dataclass(frozen=True)
class TextChunk:
    """A part of a document."""

    text: str
    is_last: bool  # of its document
    consumed: int  # bytes of the source


@dataclass(frozen=True)
class TextSource:
    """Text files, plain or compressed, whose documents a separator divides, or JSON lines."""

    files: tuple[str, ...]
    separator: str
    name: str
    field: str = ""  # of JSON lines; '': the files are plain text

    def splits(self) -> dict[str, tuple[int, ...]]:
        """The files of each split; those of '' are divided by hash of the document."""
        return {"": tuple(range(len(self.files)))}

    def sizes(self) -> list[int]:
        """Bytes on disk, per file."""
        return [os.path.getsize(path) for path in self.files]

    def fingerprint(self, cache: Path) -> str:
        """The digest of the files' contents in order, wherever they are.

        A file is read once: `cache` keeps its digest by path, size and modification time.
        """
        with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) * 2)) as pool:
            hashes = list(pool.map(lambda path: _cached_hash(cache, path), self.files))
        compressions = [kind for path in self.files if (kind := identify(path).compression)]
        kind = ("jsonl", self.field) if self.field else ("text", self.separator)
        return digest(*kind, hashes, compressions)

    def ranges(self, file: int, size: int) -> list[FileRange]:
        """Divides a file into ranges of about `size` bytes; a compressed file is one range."""
        path = self.files[file]
        total = os.path.getsize(path)
        if identify(path).compression or self.separator == "file" or total <= size:
            return [FileRange(file, 0, -1)]
        cuts = [0]
        with reading_text(path) as (stream, _):
            for nominal in range(size, total, size):
                if nominal > cuts[-1]:
                    place = _next_document(stream, nominal, self.separator)
                    if cuts[-1] < place < total:
                        cuts.append(place)
        return [FileRange(file, a, b) for a, b in zip(cuts, [*cuts[1:], -1], strict=True)]

    def read(self, file_range: FileRange) -> Iterator[TextChunk]:
        """The documents of a range, in chunks. Raises ValueError if the file is not UTF-8."""
        path = self.files[file_range.file]
        with reading_text(path) as (stream, raw):
            if file_range.start:
                stream.seek(file_range.start)
            if self.field:
                yield from _rows(path, stream, raw, file_range, self.field)
                return
            if not file_range.start:
                head = b""
                while head.strip().count(b"\n") < 4 and len(head) < _CHUNK_BYTES:
                    if not (line := stream.readline(_CHUNK_BYTES)):
                        break
                    head += line
                self._refuse_json(path, is_json(head, self.separator == "file"))
                stream.seek(0)
            yield from _documents(path, stream, raw, file_range, self.separator)

    def _refuse_json(self, path: str, is_json: bool) -> None:
        if is_json:
            raise ValueError(
                f"{path} holds JSON lines, not plain text: use {self.name.replace('text:', 'jsonl:', 1)} "
                "with data.text_field, the key of the text in each row (an array becomes lines with "
                "`jq -c '.[]'`)"
            )


@dataclass(frozen=True)
class TfdsSource:
    """A prepared TFDS dataset in array_record format, read without TensorFlow."""

    directory: str
    field: str
    name: str
    identity: str
    files: tuple[str, ...]  # the splits that are read

    def splits(self) -> dict[str, tuple[int, ...]]:
        """See `TextSource`."""
        if "validation" in self.files:
            return {name: (self.files.index(name),) for name in ("train", "validation")}
        return {"": tuple(range(len(self.files)))}

    def sizes(self) -> list[int]:
        """Bytes per split."""
        splits = _builder(self.directory).info.splits
        return [max(1, splits[name].num_bytes) for name in self.files]

    def fingerprint(self, cache: Path) -> str:
        """The digest of the dataset's identity, field and splits."""
        del cache
        return digest("tfds", self.identity, self.field, self.files)

    def ranges(self, file: int, size: int) -> list[FileRange]:
        """Divides a split into ranges of records of about `size` bytes."""
        count = _builder(self.directory).info.splits[self.files[file]].num_examples
        parts = max(1, -(-self.sizes()[file] // size))
        step = max(1, -(-count // parts))
        return [FileRange(file, a, min(a + step, count)) for a in range(0, count, step)]

    def read(self, file_range: FileRange) -> Iterator[TextChunk]:
        """The documents of a range of records."""
        split = self.files[file_range.file]
        records = _builder(self.directory).as_data_source(split)
        for start in range(file_range.start, file_range.end, 256):
            numbers = list(range(start, min(start + 256, file_range.end)))
            for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
                raw = record[self.field]
                try:
                    text = raw.decode() if isinstance(raw, bytes) else str(raw)
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{self.name}: record {number} of {split} is not UTF-8 at byte "
                        f"{error.start}: prepare the dataset again with UTF-8 text"
                    ) from error
                yield TextChunk(text, True, len(raw))


Source = TextSource | TfdsSource


def parse(spec) -> list[tuple[float, str]]:
    """A source or a weighted mixture of sources as [(weight, name)], with weights that sum to 1.

    `spec` is 'python_docs', 'text:GLOB', 'jsonl:GLOB', 'tfds:NAME', ((0.7, 'text:a/*'), (0.3, 'tfds:b')),
    or such a tuple written as a string. Raises ValueError of one line for anything else.
    """
    mixture = spec
    if isinstance(spec, str):
        if not spec.lstrip().startswith(("(", "[")):
            _check_name(spec)
            return [(1.0, spec)]
        with contextlib.suppress(ValueError, SyntaxError, TypeError):
            mixture = ast.literal_eval(spec)
    if not isinstance(mixture, list | tuple):
        raise ValueError(
            f"data.source {spec!r} is not a mixture: write it as ((0.7, 'text:a/*'), (0.3, 'tfds:b'))"
        )
    if len(mixture) == 2 and isinstance(mixture[1], str):  # Python reads ((0.7, 'x')) as (0.7, 'x')
        mixture = (mixture,)
    pairs = []
    for each in mixture:
        is_pair = isinstance(each, list | tuple) and len(each) == 2 and isinstance(each[1], str)
        if not is_pair or isinstance(each[0], bool) or not isinstance(each[0], int | float):
            raise ValueError(
                f"data.source has {each!r}, but a mixture needs (weight, source), such as "
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
    scheme, _, rest = name.partition(":")
    if scheme == "python_docs" or (scheme in ("text", "jsonl", "tfds") and rest):
        return
    guess = f"{'jsonl' if has_name_of_json_lines(name) else 'text'}:{name}"
    guess = f" (did you mean {guess}?)" if "/" in name or "*" in name else ""
    raise ValueError(
        f"data.source {name!r} is not a corpus{guess}: choose python_docs, text:GLOB, jsonl:GLOB, "
        "tfds:NAME, or a mixture of them"
    )


def resolve(name: str, separator: str, field: str, cache_dir: str, log) -> Source:
    """The source of this name, ready to be read. `python_docs` is built if it is not in the cache.

    Raises FileNotFoundError if no file matches, ValueError for a dataset that cannot be read.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "text":
        source = TextSource(tuple(files_.expand(rest, log)), separator, name)
        for path in source.files:
            source._refuse_json(path, has_name_of_json_lines(path))
        return source
    if scheme == "jsonl":
        return TextSource(tuple(files_.expand(rest, log)), "line", name, field)
    if scheme == "python_docs":
        from data import python_docs

        directory, fingerprint = python_docs.prepare(rest, cache_dir, log)
        directory = python_docs.directory_of(directory, "corpus")
        return TfdsSource(str(directory), "text", name, fingerprint, ("train", "validation"))
    builder = tfds_builder(rest)
    features, splits = builder.info.features, builder.info.splits
    if field not in features:
        raise ValueError(
            f"{name} has no field {field!r}, but {', '.join(features)}: set data.text_field"
        )
    if "train" not in splits:
        raise ValueError(
            f"{name} has no train split, but {', '.join(splits)}: choose another dataset"
        )
    read = tuple(split for split in ("train", "validation") if split in splits)
    shards = [[split, splits[split].shard_lengths, splits[split].num_bytes] for split in read]
    identity = digest(builder.info.full_name, shards)
    return TfdsSource(str(builder.data_path), field, name, identity, read)


def tfds_builder(name: str):
    """A prepared TFDS builder in array_record format, by name (`glue/sst2`) or by directory.

    Raises ValueError with the command that prepares it if it is missing or in another format.
    """
    import tensorflow_datasets as tfds

    remedy = f"run `tfds build {name} --file_format=array_record` where TensorFlow is installed"
    try:
        builder = (
            tfds.builder_from_directory(os.path.expanduser(name))
            if os.path.isdir(os.path.expanduser(name))
            else tfds.builder(name, try_gcs=False)
        )
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"TFDS has no dataset {name.split('/')[0]!r}: look the name up in the TFDS catalog, or give "
            "the directory of a prepared one"
        ) from error
    except Exception as error:  # a dataset's own code, which may need a missing package
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"TFDS cannot open {name!r} ({reason}): {remedy}") from error
    if not builder.info.splits:
        raise ValueError(f"tfds:{name} is not prepared: {remedy}")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"tfds:{name} is prepared as {builder.info.file_format.value}, but array_record is read "
            f"here: {remedy}"
        )
    return builder


def in_validation(text: str, fraction: float) -> bool:
    """Whether a document belongs to validation, by the hash of its start without case and white space."""
    if not fraction:
        return False
    start = " ".join(text[: 1 << 14].lower().split())
    place = int.from_bytes(hashlib.blake2b(start.encode(), digest_size=7).digest(), "big")
    return place < fraction * 2**56


@functools.lru_cache(8)
def _builder(directory: str):
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(directory)


def _cached_hash(cache: Path, path: str) -> str:
    state = os.stat(path)
    known = cache / "hashes" / digest(os.path.abspath(path), state.st_size, state.st_mtime_ns)[:32]
    if known.is_file():
        return known.read_text()
    found = files_.content_hash(path)
    known.parent.mkdir(parents=True, exist_ok=True)
    files_.write_atomically(known, found.encode())
    return found


def _next_document(stream, nominal: int, separator: str) -> int:
    """The first place at or after byte `nominal` where a document may start; 0 if there is none."""
    stream.seek(nominal - 1)
    stream.readline()
    if separator == "line":
        return stream.tell()
    while line := stream.readline():
        if not line.strip():
            return stream.tell()
    return 0


def _rows(path: str, stream, raw, file_range: FileRange, field: str):
    """Yields the texts of JSON lines from `stream`'s place to the end of the range, in TextChunks."""
    offset = file_range.start  # of the next byte to read, in the uncompressed file
    compressed = identify(path).compression
    before = raw.tell() if compressed else offset
    while (file_range.end < 0 or offset < file_range.end) and (line := stream.readline()):
        text = text_of_row(path, offset, line, field)
        offset += len(line)
        now = raw.tell() if compressed else offset
        consumed, before = now - before, now
        yield TextChunk(text, True, consumed)


def _documents(path: str, stream, raw, file_range: FileRange, separator: str):
    """Yields the documents from `stream`'s place to the end of the range, decoded, in TextChunks."""
    offset = file_range.start  # of the next byte to read, in the uncompressed file
    pending, pending_bytes = [], 0  # lines of the current document that are not yielded yet
    is_started = False  # whether a chunk of the current document was yielded
    line_ended = True  # whether the previous read reached the end of a line
    is_compressed = bool(identify(path).compression)
    before = raw.tell() if is_compressed else file_range.start

    def chunk(is_last: bool, stop: int) -> TextChunk:
        nonlocal pending, pending_bytes, is_started, before
        data = b"".join(pending)
        tail = 0 if is_last else _incomplete_bytes(data)
        body = data[: len(data) - tail]
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise utf8_error(path, stop - len(data) + error.start) from error
        if not is_started:  # a byte order mark, also of a file that was joined to another
            text = text.removeprefix("\ufeff")
        pending, pending_bytes = ([data[len(data) - tail :]] if tail else []), tail
        now = raw.tell() if is_compressed else stop
        consumed, before = now - before, now
        is_started = not is_last
        return TextChunk(text, is_last, consumed)

    while file_range.end < 0 or offset < file_range.end:
        line = stream.readline(_CHUNK_BYTES)
        if not line:
            break
        at_line_start, line_ended = line_ended, line.endswith(b"\n")
        is_blank = at_line_start and line_ended and not line.strip()
        if is_blank and separator == "blank_line":
            if pending or is_started:
                yield chunk(True, offset)
        else:
            pending.append(line)
            pending_bytes += len(line)
        offset += len(line)
        if pending and separator == "line" and line_ended:
            yield chunk(True, offset)
        elif pending_bytes >= _CHUNK_BYTES:
            yield chunk(False, offset)
    if pending or is_started:
        yield chunk(True, offset)


def _incomplete_bytes(data: bytes) -> int:
    """Bytes (0 to 3) at the end that start a UTF-8 character without completing it."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < needed else 0
        if byte < 0x80:
            return 0
    return 0
