"""Tokenizers trained on the corpus, with one set of special tokens for every objective.

Between documents and the token store; text never becomes a special id unless asked to.
"""

import collections
import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
from etils import epath
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from data import foreign, framing, words

SPECIALS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[EOS]", "[MASK]", "[BOS]"),
    *("[R]", "[S]", "[X]"),
    *("[PRE]", "[SUF]", "[MID]"),
    *(f"<extra_id_{i}>" for i in range(100)),
)
# What other people's tokenizers call the same things, in the order they are tried.
_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "eos": ("[EOS]", "</s>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
    "start": ("[BOS]", "[PAD]", "<pad>"),
}
# Longer texts are cut before a single blank between two words, where every pre-tokenizer cuts too.
_CHUNK = 1 << 16
_MARK = "▁"  # the beginning of a word while WordPiece is trained


class Tokenizer:
    """Text to pieces and back. Made by `train`, `load` or from a `tokenizers.Tokenizer`."""

    def __init__(self, inner: tokenizers.Tokenizer, roles: dict[str, str] | None = None):
        """roles: {name in foreign.ROLES: token} where the tokens' names do not say it (`_NAMES`)."""
        # A text that holds '[MASK]' is a text about masks: the marker must not become the token.
        self._plain = tokenizers.Tokenizer.from_str(inner.to_str())
        self._plain.no_truncation()  # a published one may cut at 128 and fill up to it
        self._plain.no_padding()
        self._plain.encode_special_tokens = True
        self.roles = dict(roles or {})
        self._marked = tokenizers.Tokenizer.from_str(self._plain.to_str())
        self._marked.encode_special_tokens = False

    @functools.cached_property
    def size(self) -> int:
        """Pieces there are, special ones included; the numbers of a foreign one may have gaps."""
        return 1 + max(self._plain.get_vocab(with_added_tokens=True).values())

    @functools.cached_property
    def fingerprint(self) -> str:
        """The digest of everything that decides which pieces a text becomes."""
        roles = json.dumps(self.roles, sort_keys=True) if self.roles else ""
        return hashlib.sha256((self._plain.to_str() + roles).encode()).hexdigest()

    @functools.cached_property
    def _special(self) -> dict[str, int]:
        added = self._plain.get_added_tokens_decoder()
        return {token.content: i for i, token in added.items() if token.special}

    @functools.cached_property
    def _joins(self) -> bytes:
        return words.joins(self._plain, self.size)

    def special_ids(self) -> dict:
        """The fields of `objectives.vocabulary.Vocabulary`; -1 (or an empty tuple) where it has none."""
        special = self._special
        found = {
            field: next((special[name] for name in names if name in special), -1)
            for field, names in _NAMES.items()
        }
        given = {field: self._plain.token_to_id(token) for field, token in self.roles.items()}
        found |= {field: index for field, index in given.items() if field in found}
        if found["pad"] in (found["eos"], found["sep"]):
            found["pad"] = -1  # what ends a document cannot be what follows the last
        groups = {
            "modes": ("[R]", "[S]", "[X]"),
            "infill": ("[PRE]", "[SUF]", "[MID]"),
            "sentinels": tuple(f"<extra_id_{i}>" for i in range(100)),
        }
        gaps = set(range(self.size)).difference(self._plain.get_vocab().values())
        taken = sorted(gaps.union(special.values())) + [self.size]
        starts = [0, *(i + 1 for i in taken[:-1])]
        return {
            "size": self.size,
            **found,
            **{
                key: tuple(special[n] for n in names if n in special)
                for key, names in groups.items()
            },
            "ordinary": tuple((a, b) for a, b in zip(starts, taken, strict=True) if a < b),
            "joins": self._joins,
        }

    @functools.cached_property
    def frame(self) -> framing.Frame | None:
        """What a tokenizer made elsewhere puts around a text and between two; None for one of ours."""
        own, ids = foreign.frame_of(self._plain), self.special_ids()
        if own is None and "[EOS]" not in self._special and ids["eos"] >= 0:
            return framing.Frame((), (), (ids["eos"],))
        return own

    @functools.cached_property
    def _begins(self) -> bool:
        return foreign.marks_beginnings(self._plain)

    @property
    def whole_words(self) -> bool:
        """Whether a piece is a word, and a word that is no piece is unknown."""
        return isinstance(self._plain.model, models.WordLevel)

    def vocabulary(self) -> dict[str, int]:
        """Every piece, special ones too, and its number."""
        return self._plain.get_vocab(with_added_tokens=True)

    def words(self, text: str) -> list[str]:
        """The words of a text as they are looked up, before any is cut into pieces."""
        inner = self._plain
        text = inner.normalizer.normalize_str(text) if inner.normalizer else text
        return [word for word, _ in inner.pre_tokenizer.pre_tokenize_str(text)]

    def encode(self, text: str, specials: bool = False) -> np.ndarray:
        """The pieces of one text, int32[n]. `specials=True` reads '[MASK]' and the like as tokens."""
        if specials:
            return np.array(self._marked.encode(text, add_special_tokens=False).ids, np.int32)
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """The pieces of many texts, each int32[n], without special ids; texts of any length."""
        if all(len(text) <= _CHUNK for text in texts):
            encoded = self._plain.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(each.ids, np.int32) for each in encoded]
        chunks, owners = [], []
        for owner, text in enumerate(texts):
            parts = cut(text)
            if self._begins:
                parts = [part.removeprefix(" ") if n else part for n, part in enumerate(parts)]
            chunks += parts
            owners += [owner] * len(parts)
        encoded = self._plain.encode_batch_fast(chunks, add_special_tokens=False)
        pieces = [[] for _ in texts]
        for owner, each in zip(owners, encoded, strict=True):
            pieces[owner].append(np.array(each.ids, np.int32))
        return [np.concatenate(each) if each else np.zeros(0, np.int32) for each in pieces]

    def decode(self, ids, skip_specials: bool = False) -> str:
        """The text of pieces int[n]; special tokens are written out unless skipped."""
        return self._plain.decode([int(i) for i in ids], skip_special_tokens=skip_specials)

    def piece(self, index: int) -> str:
        """One piece as the vocabulary writes it ('' beyond the vocabulary)."""
        return self._plain.id_to_token(int(index)) or ""

    def library(self) -> tokenizers.Tokenizer:
        """A copy as the tokenizers library has it."""
        return tokenizers.Tokenizer.from_str(self._plain.to_str())

    def save(self, path: str | Path) -> None:
        """Writes tokenizer.json (`path` is the file), and beside it the roles that were given."""
        from data.files import write_atomically

        path = epath.Path(path)
        if self.roles:
            write_atomically(path.parent / foreign.FILE, foreign.roles_to_json(self.roles))
        write_atomically(path, self._plain.to_str(pretty=True).encode())


def cut(text: str, limit: int = _CHUNK) -> list[str]:
    """Cuts a long text into parts whose pieces, joined, are those of the whole.

    The cut falls before a lone blank between two words; where none is near, at `limit` characters.
    """
    parts, start = [], 0
    while len(text) - start > limit:
        end = start + limit
        place = end
        while place > start + 1:
            place = text.rfind(" ", start + 1, place)
            if place <= start:
                break
            if not text[place - 1].isspace() and not text[place + 1].isspace():
                end = place
                break
        parts.append(text[start:end])
        start = end
    if start < len(text):
        parts.append(text[start:])
    return parts


def load(path: str | Path) -> Tokenizer:
    """Reads a tokenizer.json, or the one in a directory.

    Raises FileNotFoundError or ValueError of one line when there is none or it cannot be read.
    """
    path = epath.Path(path).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"no tokenizer at {file}: give tokenizer.path a tokenizer.json, a directory with one, "
            "or '' to train one"
        )
    beside = file.parent / foreign.FILE
    try:
        inner = tokenizers.Tokenizer.from_buffer(file.read_bytes())
        named = json.loads(beside.read_bytes()) if beside.is_file() else {}
        return Tokenizer(inner, foreign.roles_of(named, inner))
    except Exception as error:  # tokenizers raises bare Exception
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{file} is not a tokenizer of the tokenizers library ({reason}): make it again"
        ) from error


def train(
    texts: Iterable[str],
    *,
    kind: str,
    vocab_size: int,
    lowercase: bool = False,
    min_frequency: int = 2,
    log=lambda line: None,
    what: str = "the corpus",
) -> Tokenizer:
    """Trains byte-level BPE, WordPiece, Unigram or whole words, of at most `vocab_size` pieces, specials too.

    The same texts give the same tokenizer (Unigram: up to rounding). A small corpus may hold fewer
    pieces than asked for, which is logged. Raises ValueError when it is empty or needs more.
    """
    if kind not in _RECIPES:
        raise ValueError(f"unknown tokenizer kind {kind!r}: choose one of {', '.join(_RECIPES)}")
    seen = 0

    def counted():
        nonlocal seen
        for text in texts:
            seen += 1
            yield from cut(text)

    # Threads would sum in yet another order.
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        inner = _RECIPES[kind](counted(), vocab_size, lowercase, min_frequency)
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    if not seen:
        raise ValueError(f"{what} holds no document to train a tokenizer on: check data.source")
    result = Tokenizer(inner)
    got = [result._plain.id_to_token(i) for i in range(len(SPECIALS))]
    if got != list(SPECIALS):
        raise ValueError(f"the special tokens are not the first of a {kind} vocabulary: {got[:4]}")
    if result.size > vocab_size:
        raise ValueError(
            f"the corpus has {result.size - len(SPECIALS)} characters and special pieces more than "
            f"a vocabulary of {vocab_size} holds: raise tokenizer.vocab_size"
        )
    if result.size < vocab_size:
        log(f"the corpus gives {result.size} pieces, fewer than tokenizer.vocab_size={vocab_size}")
    return result


def _bpe(texts, vocab_size, lowercase, min_frequency):
    inner = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return inner


def _wordpiece(texts, vocab_size, lowercase, min_frequency):
    """WordPiece by merges of marked words: `▁model` gives `model`, `odel` gives `##odel`.

    The library's own trainer numbers its pieces in the order of a random hash, so that two trainings
    differ; its BPE trainer does not. Every character is a piece in both forms.
    """
    inner = tokenizers.Tokenizer(models.BPE())
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words = pre_tokenizers.BertPreTokenizer()
    inner.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace(split=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    merged = sorted(inner.get_vocab().items(), key=lambda item: item[1])
    characters = [piece for piece, _ in merged if len(piece) == 1 and piece != _MARK]
    pieces = dict.fromkeys([*SPECIALS, *characters, *(f"##{c}" for c in characters)])
    for piece, _ in merged:
        marked = piece.startswith(_MARK)
        if len(piece) > 1 and len(pieces) < vocab_size:
            pieces.setdefault(piece[1:] if marked else f"##{piece}")
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = inner.normalizer, words
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(list(SPECIALS))
    return made


def _unigram(texts, vocab_size, lowercase, min_frequency):
    """Unigram (Kudo, 2018). The library sums in a random order: two trainings may differ slightly."""
    del min_frequency  # Unigram prunes by likelihood, not by count
    inner = tokenizers.Tokenizer(models.Unigram())
    steps = [normalizers.NFKC()] + ([normalizers.Lowercase()] if lowercase else [])
    inner.normalizer = normalizers.Sequence(steps)
    # The lattice may use any piece of the vocabulary, special ones too: brackets stand alone so
    # that none of them can match.
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Split(Regex(r"[\[\]<>]"), "isolated"),
        ]
    )
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        unk_token="[UNK]",
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return inner


def _word(texts, vocab_size, lowercase, min_frequency):
    """The most frequent words; of equally frequent ones the first in the alphabet."""
    inner = _words_apart(lowercase)
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIALS),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return inner


def _words_apart(lowercase: bool, vocabulary: dict[str, int] | None = None):
    """Runs of letters, digits and underscores, and runs of what else is no blank; all others [UNK]."""
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary or {}, unk_token="[UNK]"))
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


def of_words(words: Iterable[str]) -> Tokenizer:
    """The word-level tokenizer of a given vocabulary, such as that of foreign vectors: our special
    tokens, then the words in their order. Text is lower-cased where no word has a capital.

    Raises ValueError for a word that stands twice.
    """
    words = [word for word in words if word not in SPECIALS]
    vocabulary = {piece: number for number, piece in enumerate((*SPECIALS, *words))}
    if len(vocabulary) < len(SPECIALS) + len(words):
        twice = next(w for w, n in collections.Counter(words).items() if n > 1)
        raise ValueError(f"the word {twice!r} stands twice in the vocabulary: leave one out")
    inner = _words_apart(all(word == word.lower() for word in words), vocabulary)
    inner.add_special_tokens(list(SPECIALS))
    return Tokenizer(inner)


_RECIPES = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram, "word": _word}
