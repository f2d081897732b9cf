"""Word vectors in the formats of word2vec and GloVe, read and written with gensim; vocabulary coverage.

Used by the programs in tools/. gensim is the optional dependency `[vectors]`.
"""

import logging
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data.file_kinds import compression_of
from data.files import content_hash, reading, replacing
from data.tokenizer import SPECIALS, Tokenizer, of_words

SUFFIXES = (".txt", ".vec", ".bin")


@dataclass(frozen=True)
class Vectors:
    """Words and their vectors, float32[n, E], in the order of the file."""

    words: list[str]
    table: np.ndarray

    def tokenizer(self) -> Tokenizer:
        """The word-level tokenizer whose vocabulary is the special tokens and these words."""
        return of_words(self.words)

    def rows(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32[n] in that tokenizer, vectors float32[n, E])."""
        numbers = tokenizer.vocabulary()
        return np.array([numbers[word] for word in self.words], np.int32), self.table


def is_file(name: str) -> bool:
    """Whether this is the name of a file of word vectors, not of a run directory."""
    return _suffix(name) in SUFFIXES and not os.path.isdir(name)


def _suffix(name: str) -> str:
    return os.path.splitext(str(name).removesuffix(compression_of(str(name))))[1]


def _check_suffix(path: str) -> None:
    if _suffix(path) not in SUFFIXES:
        raise ValueError(
            f"{path} is not named as word vectors: expected {', '.join(SUFFIXES)}, plain or compressed; "
            "rename it"
        )


def _gensim():
    """gensim's KeyedVectors, imported when needed, as a class that refuses what gensim would repair."""
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise ModuleNotFoundError(
            "files of word vectors need the package gensim: run `pip install -e .[vectors]`"
        ) from error
    logging.getLogger("gensim").setLevel(logging.ERROR)

    class StrictKeyedVectors(KeyedVectors):
        def has_index_for(self, word):
            if word in self.key_to_index:  # gensim keeps the first
                raise ValueError(f"the word {word!r} is repeated; remove one of them")
            return False

        def add_vector(self, word, vector):
            if len(vector) != self.vector_size:  # gensim broadcasts a single number
                raise ValueError(
                    f"the word {word!r} has {len(vector)} numbers, expected {self.vector_size}"
                )
            return super().add_vector(word, vector)

    return StrictKeyedVectors


def read(path: str, max_vectors: int = 0) -> Vectors:
    """Reads word2vec's binary format (.bin), its text format, or GloVe's (no first line of counts).

    max_vectors: only the first so many words; 0: all. Raises ValueError or OSError of one line.
    """
    if max_vectors < 0:
        raise ValueError(f"max_vectors={max_vectors}: expected a number of words, or 0 for all")
    _check_suffix(path)
    keyed_vectors, is_binary = _gensim(), _suffix(path) == ".bin"
    try:
        with reading(path) as (stream, _):
            fields = stream.readline(1 << 20).split()
            has_header = is_binary or (len(fields) == 2 and all(f.isdigit() for f in fields))
            if not fields:
                raise ValueError("it is empty")
            if has_header:
                count, width = (int(field) for field in fields)
                if not (count > 0 and 0 < width <= 1 << 16):
                    raise ValueError(f"its first line promises {count} vectors of {width} numbers")
            # gensim reads as many vectors as the first line promises, whatever follows.
            size, lines = _count(stream) if has_header and not max_vectors else (-1, -1)
            if size >= 0 and not is_binary and lines != count:
                raise ValueError(f"its first line promises {count} vectors, it has {lines}")
            if is_binary and 0 <= size < count * (4 * width + 2):
                raise ValueError(f"its first line promises {count} vectors, it ends before")
            found = _load(
                keyed_vectors,
                path,
                binary=is_binary,
                limit=max_vectors or None,
                no_header=not has_header,
            )
        words, table = found.index_to_key, found.vectors
        surplus = size - table.nbytes - sum(len(word.encode()) + 1 for word in words)
        # Some programs end each vector with a newline.
        if size >= 0 and is_binary and surplus not in (0, count - 1, count):
            raise ValueError(f"it continues after the {count} vectors that its first line promises")
        if not table.size:
            raise ValueError("it has no numbers separated by single spaces")
        if not np.isfinite(table).all():
            raise ValueError("it has a number that is not finite")
    except (ValueError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as word vectors: {reason}. Each entry needs a UTF-8 word without "
            "spaces and the same number of float32 numbers"
        ) from error
    words[0] = words[0].removeprefix("\ufeff")  # a byte order mark
    return Vectors(words, table)


def _load(keyed_vectors, path: str, **options):
    """Calls gensim without its warnings: an infinity is refused later, and a text file without a header
    stays open until its frame is gone."""
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return keyed_vectors.load_word2vec_format(path, **options)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            raise


def _count(stream) -> tuple[int, int]:
    """Bytes and lines of the rest of a stream; the last line may lack its newline."""
    size = lines = 0
    last = b"\n"
    while block := stream.read(1 << 20):
        size += len(block)
        lines += block.count(b"\n")
        last = block[-1:]
    return size, lines + (last != b"\n")


def write(path: str, words: list[str], table: np.ndarray, header: bool = True) -> None:
    """Writes words and their vectors float32[n, E] in the format of the suffix.

    `header=False` leaves out the first line of a text file (GloVe). Every bit of the numbers is kept.
    Raises ValueError for a word that the format cannot hold.
    """
    _check_suffix(path)
    for word in words:
        if not word or any(c.isspace() for c in word):
            raise ValueError(f"{path} cannot hold the word {word!r}, which is empty or has a space")
    if len(set(words)) < len(words):
        repeated = next(word for word, count in Counter(words).items() if count > 1)
        raise ValueError(f"{path} cannot hold the word {repeated!r} twice: remove one of them")
    vectors = _gensim()(table.shape[1])
    vectors.add_vectors(words, np.asarray(table, np.float32))
    is_binary = _suffix(path) == ".bin"
    with replacing(path, compression_of(str(path))) as temporary:  # gensim compresses by suffix
        vectors.save_word2vec_format(
            str(temporary), binary=is_binary, write_header=header or is_binary
        )


def fingerprint(path: str) -> str:
    """The digest of a file of word vectors."""
    return content_hash(path)


@dataclass(frozen=True)
class Coverage:
    """The counts of tokens and types of a text, and of those in a word-level vocabulary."""

    num_tokens: int
    num_known_tokens: int
    num_types: int
    num_known_types: int

    def __str__(self):
        return (
            f"{self.num_known_tokens:,} of {self.num_tokens:,} tokens known "
            f"({self.num_known_tokens / max(1, self.num_tokens):.1%}), {self.num_known_types:,} of "
            f"{self.num_types:,} types ({self.num_known_types / max(1, self.num_types):.1%})"
        )


def coverage(tokenizer: Tokenizer, texts: Iterable[str]) -> Coverage:
    """The share of the texts' words, and of their distinct words, that are in the vocabulary."""
    counts = Counter()
    for text in texts:
        counts.update(tokenizer.words(text))
    known = tokenizer.vocabulary().keys() - set(SPECIALS)
    found = [word for word in counts if word in known]
    return Coverage(counts.total(), sum(counts[w] for w in found), len(counts), len(found))
