"""Word vectors in the files of the field: word2vec's text and binary form, GloVe's; .gz and .xz too.

Read by finetune.py, tools.vectors and tools.evaluate; streamed both ways, and nothing is unpickled.
"""

import codecs
import contextlib
import gzip
import itertools
import lzma
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import content_hash, disk_error, reading
from data.tokenizer import SPECIALS, Tokenizer, of_words

SUFFIXES = (".txt", ".vec", ".bin")
_LONGEST_WORD, _LONGEST_LINE, _WIDEST = 4096, 1 << 22, 1 << 16
_BLOCK = 4096  # rows that are held as they were read


@dataclass(frozen=True)
class Vectors:
    """Words and their vectors, float32[n, E], in the order of the file."""

    words: list[str]
    table: np.ndarray

    def tokenizer(self) -> Tokenizer:
        """The word-level tokenizer whose vocabulary these words are, beside our special tokens."""
        return of_words(self.words)

    def rows(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32[n], vectors float32[n, E]) by that tokenizer; what has no vector is not there."""
        numbers = tokenizer.vocabulary()
        return np.array([numbers[word] for word in self.words], np.int32), self.table


def is_file(name: str) -> bool:
    """Whether a name is that of a file of vectors and not of a run directory."""
    return _suffix(name) in SUFFIXES and not os.path.isdir(name)


def _suffix(name: str) -> str:
    return Path(re.sub(r"\.(gz|xz)$", "", str(name))).suffix


def read(path: str, limit: int = 0) -> Vectors:
    """The vectors of a file; its form is told by its suffix (.bin: binary) and its first line.

    limit: the first so many words, 0: all. Raises ValueError or OSError of one line.
    """
    if limit < 0:
        raise ValueError(
            f"limit={limit}: expected how many of the first words to read, or 0 for all"
        )
    if _suffix(path) not in SUFFIXES:
        raise ValueError(
            f"{path} does not look like vectors: expected one of {', '.join(SUFFIXES)}, "
            "perhaps with .gz or .xz behind it; rename it"
        )
    words, blocks, rows, places = [], [], [], {}
    with contextlib.closing(_records(path)) as records:
        for number, (word, row) in enumerate(itertools.islice(records, limit or None), 1):
            if word in places:
                raise ValueError(
                    f"{path} has the word {word!r} twice, as its {places[word]}. and its {number}. "
                    "vector: leave one out"
                )
            places[word] = number
            words.append(word)
            rows.append(row)
            if len(rows) == _BLOCK:
                blocks.append(np.stack(rows))
                rows = []
    if not words:
        raise ValueError(f"{path} holds no vector: expected a word and its numbers on each line")
    if rows:
        blocks.append(np.stack(rows))
    return Vectors(words, np.concatenate(blocks))


def _records(path: str) -> Iterator[tuple[str, np.ndarray]]:
    with reading(path) as (stream, _):
        yield from (_binary if _suffix(path) == ".bin" else _text)(path, stream)


def _text(path: str, stream) -> Iterator[tuple[str, np.ndarray]]:
    """word2vec's and fastText's text (a first line of two whole numbers) and GloVe's (none)."""
    promised, width, count = -1, 0, 0
    for number in itertools.count(1):
        line = stream.readline(_LONGEST_LINE)
        if not line:
            break
        where = f"{path}:{number}"
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"{where} has over {len(line):,} bytes: this is not a text of vectors")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        fields = line.rstrip(b" \t\r\n").replace(b"\t", b" ").split(b" ")
        if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
            promised, width = _header(path, fields)
            continue
        width = width or len(fields) - 1
        given = len(fields) - 1
        # GloVe's 840B file has words with blanks in them, '. . .' among them.
        extra = fields[1 : given - width + 1]
        if width < 1 or given < width or not fields[0] or any(map(_is_number, extra)):
            raise ValueError(
                f"{where} has {max(given, 0)} numbers where {max(width, 1)} belong: expected a word "
                "and its numbers, one blank between them; mend or leave out the line"
            )
        values = fields[given - width + 1 :]
        yield _word(b" ".join(fields[: given - width + 1]), where), _numbers(values, where)
        count += 1
    if promised >= 0 and count != promised:
        raise ValueError(
            f"{path} has {count:,} vectors, its first line promises {promised:,}: fetch it again"
        )


def _binary(path: str, stream) -> Iterator[tuple[str, np.ndarray]]:
    """word2vec's binary form: 'n E', then n times a word, a blank and E little-endian float32."""
    fields = stream.readline(_LONGEST_WORD).split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        raise ValueError(
            f"{path} does not begin with the line 'words size' of word2vec's binary form: name a "
            "text file .txt or .vec"
        )
    promised, width = _header(path, fields)
    buffer, place = b"", 0
    needed = _LONGEST_WORD + 4 * width + 2
    for number in range(1, promised + 1):
        where = f"{path}, vector {number} of {promised:,}"
        if len(buffer) - place < needed:
            buffer, place = buffer[place:] + stream.read(max(needed, 1 << 20)), 0
        if buffer[place : place + 1] == b"\n":  # some programs end a vector with one, some do not
            place += 1
        blank = buffer.find(b" ", place, place + _LONGEST_WORD)
        values = buffer[blank + 1 : blank + 1 + 4 * width]
        if len(buffer) - place < _LONGEST_WORD and (blank < 0 or len(values) < 4 * width):
            raise ValueError(f"{where}: the file ends here, cut short; fetch it again")
        if blank <= place:
            raise ValueError(
                f"{where}: no word where one belongs; the vectors have another size than the first "
                f"line says ({width}), or this is not word2vec's binary form"
            )
        row = np.frombuffer(values, "<f4").astype(np.float32)
        if not np.isfinite(row).all():
            raise ValueError(f"{where} has a number that is not finite: mend or leave it out")
        word = _word(buffer[place:blank], where)
        yield word, row
        place = blank + 1 + 4 * width
    rest = (buffer[place:] + stream.read(64)).strip(b"\n")
    if rest:
        raise ValueError(
            f"{path} goes on behind the {promised:,} vectors that its first line promises: its "
            "counts are wrong; fetch it again"
        )


def _header(path, fields):
    count, width = (int(field[:19]) for field in fields)
    if not (0 < width <= _WIDEST and count > 0):
        raise ValueError(
            f"{path} promises {count:,} vectors of {width:,} numbers: expected at least one, of at "
            f"most {_WIDEST:,}; this is not a file of vectors"
        )
    return count, width


def _word(field: bytes, where: str) -> str:
    try:
        return field.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: the word {field[:40]!r} is not UTF-8 ({error.reason}): convert the file"
        ) from error


def _is_number(field: bytes) -> bool:
    try:
        return bool(field) and b"_" not in field and float(field) is not None
    except ValueError:
        return False


def _numbers(fields: list[bytes], where: str) -> np.ndarray:
    try:
        row = np.array([float(field) for field in fields], np.float64)
        if any(b"_" in field for field in fields):
            raise ValueError
    except ValueError:
        bad = next(field for field in fields if not _is_number(field))
        raise ValueError(
            f"{where}: {bad[:40]!r} is not a number: mend or leave out the line"
        ) from None
    if not (np.abs(row) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{where} has a number that is not finite: mend or leave out the line")
    return row.astype(np.float32)


def write(path: str, count: int, width: int, records: Iterable, header: bool = True) -> None:
    """Writes `count` pairs (word, float32[width]) as they come, under a temporary name first.

    The form is the suffix's; header=False leaves the first line of a text out (GloVe). Numbers
    keep every bit. Raises ValueError for a word that the form cannot hold.
    """
    if _suffix(path) not in SUFFIXES:
        raise ValueError(f"{path}: expected a name with {', '.join(SUFFIXES)}; rename it")
    binary = _suffix(path) == ".bin"
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(Path(path).suffix, open)
    temporary = Path(f"{path}.tmp-{os.getpid()}")
    try:
        with opened(temporary, "wb") as stream:
            if binary or header:
                stream.write(f"{count} {width}\n".encode())
            for word, row in records:
                if not word or any(c.isspace() for c in word):
                    raise ValueError(
                        f"the word {word!r} is empty or has a blank: {path} cannot hold it"
                    )
                if binary:
                    stream.write(word.encode() + b" " + row.astype("<f4").tobytes() + b"\n")
                else:
                    numbers = " ".join(row.astype(np.float32).astype(str).tolist())
                    stream.write(f"{word} {numbers}\n".encode())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(path: str) -> str:
    """The identity of a file of vectors."""
    return content_hash(path)


@dataclass(frozen=True)
class Coverage:
    """How much of a text a word-level vocabulary knows."""

    tokens: int
    tokens_known: int
    types: int
    types_known: int

    def __str__(self):
        return (
            f"{self.tokens_known:,} of {self.tokens:,} tokens known "
            f"({self.tokens_known / max(1, self.tokens):.1%}), {self.types_known:,} of "
            f"{self.types:,} types ({self.types_known / max(1, self.types):.1%})"
        )


def coverage(tokenizer: Tokenizer, texts: Iterable[str]) -> Coverage:
    """The share of the texts' words, and of their different words, that are pieces."""
    counts = Counter()
    for text in texts:
        counts.update(tokenizer.words(text))
    known = tokenizer.vocabulary().keys() - set(SPECIALS)
    found = [word for word in counts if word in known]
    return Coverage(counts.total(), sum(counts[w] for w in found), len(counts), len(found))
