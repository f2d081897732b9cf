"""Tokenizers, trained on the corpus or published, with one set of special tokens for every objective.

Between documents and the token store. Text never becomes a special token unless asked for.
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

from data import pretrained_tokenizer
from data.files import write_atomically
from data.special_tokens import SpecialTokenTemplate
from data.word_boundaries import word_continuation

MODES, INFILL = ("[R]", "[S]", "[X]"), ("[PRE]", "[SUF]", "[MID]")
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(100))
SPECIALS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[EOS]", "[MASK]", "[BOS]"),
    *(*MODES, *INFILL, *SENTINELS),
)
# The names of each special token in our tokenizers and in published ones, in order of precedence.
_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "eos": ("[EOS]", "</s>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
    "start": ("[BOS]", "[PAD]", "<pad>"),
}
# Longer texts are split before a single space between two words, where every pre-tokenizer splits.
_CHUNK = 1 << 16
_WORD_START = "▁"  # marks the start of a word while WordPiece is trained


class Tokenizer:
    """Text to tokens and back. Made by `train`, `load`, or from a `tokenizers.Tokenizer`."""

    def __init__(self, inner: tokenizers.Tokenizer, special_tokens: dict[str, str] | None = None):
        """special_tokens: {'pad': '<PAD>', ...}, needed where `_NAMES` lacks the token's name."""
        # A text may mention '[MASK]': it must not become the token.
        self._plain = tokenizers.Tokenizer.from_str(inner.to_str())
        self._plain.no_truncation()  # a published one may truncate to 128 tokens and pad to them
        self._plain.no_padding()
        self._plain.encode_special_tokens = True
        self.special_tokens = dict(special_tokens or {})
        self._with_specials = tokenizers.Tokenizer.from_str(self._plain.to_str())
        self._with_specials.encode_special_tokens = False

    @functools.cached_property
    def size(self) -> int:
        """Tokens including the special ones. The ids of a published tokenizer may have gaps."""
        return 1 + max(self._plain.get_vocab(with_added_tokens=True).values())

    @functools.cached_property
    def fingerprint(self) -> str:
        """The digest of everything that decides which tokens a text becomes."""
        special = json.dumps(self.special_tokens, sort_keys=True) if self.special_tokens else ""
        return hashlib.sha256((self._plain.to_str() + special).encode()).hexdigest()

    @functools.cached_property
    def _special(self) -> dict[str, int]:
        added = self._plain.get_added_tokens_decoder()
        return {token.content: i for i, token in added.items() if token.special}

    @functools.cached_property
    def _word_continuation(self) -> bytes:
        return word_continuation(self._plain, self.size)

    def special_ids(self) -> dict:
        """The fields of `objectives.vocabulary.Vocabulary`; -1 or () where a token is missing."""
        special = self._special
        found = {
            field: next((special[name] for name in names if name in special), -1)
            for field, names in _NAMES.items()
        }
        for field, token in self.special_tokens.items():
            if field in found:
                found[field] = self._plain.token_to_id(token)
        if found["pad"] in (found["eos"], found["sep"]):
            found["pad"] = -1  # the end of a document must differ from padding
        gaps = set(range(self.size)).difference(self._plain.get_vocab().values())
        taken = sorted(gaps.union(special.values())) + [self.size]
        starts = [0, *(i + 1 for i in taken[:-1])]
        groups = {"modes": MODES, "infill": INFILL, "sentinels": SENTINELS}
        return {
            "size": self.size,
            **found,
            **{
                key: tuple(special[n] for n in names if n in special)
                for key, names in groups.items()
            },
            "regular_token_ranges": tuple(
                (a, b) for a, b in zip(starts, taken, strict=True) if a < b
            ),
            "word_continuation": self._word_continuation,
        }

    @functools.cached_property
    def template(self) -> SpecialTokenTemplate | None:
        """The template of a published tokenizer; None for one that was trained here."""
        own, ids = pretrained_tokenizer.template_of(self._plain), self.special_ids()
        if own is None and "[EOS]" not in self._special and ids["eos"] >= 0:
            return SpecialTokenTemplate((), (), (ids["eos"],))
        return own

    @functools.cached_property
    def _adds_prefix_space(self) -> bool:
        return pretrained_tokenizer.adds_prefix_space(self._plain)

    @property
    def is_word_level(self) -> bool:
        """Whether each token is a whole word and every other word is [UNK]."""
        return isinstance(self._plain.model, models.WordLevel)

    def vocabulary(self) -> dict[str, int]:
        """{token: id}, including special tokens."""
        return self._plain.get_vocab(with_added_tokens=True)

    def words(self, text: str) -> list[str]:
        """The words of a text, normalized, before each is split into tokens."""
        inner = self._plain
        text = inner.normalizer.normalize_str(text) if inner.normalizer else text
        return [word for word, _ in inner.pre_tokenizer.pre_tokenize_str(text)]

    def encode(self, text: str, specials: bool = False) -> np.ndarray:
        """The tokens of one text, int32[n]. `specials=True` reads '[MASK]' etc. as special tokens."""
        if specials:
            encoded = self._with_specials.encode(text, add_special_tokens=False)
            return np.array(encoded.ids, np.int32)
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of many texts of any length, each int32[n], without special tokens."""
        if all(len(text) <= _CHUNK for text in texts):
            encoded = self._plain.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(each.ids, np.int32) for each in encoded]
        chunks, owners = [], []
        for owner, text in enumerate(texts):
            parts = split_text(text)
            if self._adds_prefix_space:
                parts = [part.removeprefix(" ") if n else part for n, part in enumerate(parts)]
            chunks += parts
            owners += [owner] * len(parts)
        encoded = self._plain.encode_batch_fast(chunks, add_special_tokens=False)
        tokens = [[np.zeros(0, np.int32)] for _ in texts]
        for owner, each in zip(owners, encoded, strict=True):
            tokens[owner].append(np.array(each.ids, np.int32))
        return [np.concatenate(each) for each in tokens]

    def decode(self, ids, skip_specials: bool = False) -> str:
        """The text of tokens int[n]; special tokens are written out unless skipped."""
        return self._plain.decode([int(i) for i in ids], skip_special_tokens=skip_specials)

    def token(self, index: int) -> str:
        """The token with this id, as the vocabulary spells it; '' outside the vocabulary."""
        return self._plain.id_to_token(int(index)) or ""

    def to_library(self) -> tokenizers.Tokenizer:
        """A copy as a `tokenizers.Tokenizer`."""
        return tokenizers.Tokenizer.from_str(self._plain.to_str())

    def save(self, path: str | Path) -> None:
        """Writes tokenizer.json (`path` is the file), and any given special tokens beside it."""
        path = epath.Path(path)
        if self.special_tokens:
            content = pretrained_tokenizer.special_tokens_to_json(self.special_tokens)
            write_atomically(path.parent / pretrained_tokenizer.SPECIAL_TOKENS_FILE, content)
        write_atomically(path, self._plain.to_str(pretty=True).encode())


def split_text(text: str, limit: int = _CHUNK) -> list[str]:
    """Splits a long text into parts whose tokens, concatenated, are those of the whole text.

    It splits before a single space between two words, or at `limit` characters if there is none.
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

    Raises FileNotFoundError or ValueError of one line if it is missing or cannot be read.
    """
    path = epath.Path(path).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"no tokenizer at {file}: set tokenizer.path to a tokenizer.json, to a directory with "
            "one, or to '' to train one"
        )
    beside = file.parent / pretrained_tokenizer.SPECIAL_TOKENS_FILE
    try:
        inner = tokenizers.Tokenizer.from_buffer(file.read_bytes())
        content = json.loads(beside.read_bytes()) if beside.is_file() else {}
        return Tokenizer(inner, pretrained_tokenizer.special_tokens_of(content, inner))
    except Exception as error:  # tokenizers raises bare Exception
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{file} is not a file of the tokenizers library ({reason}): write it again"
        ) from error


def train(
    texts: Iterable[str],
    *,
    type: str,  # as in the config, tokenizer.type
    vocab_size: int,
    lowercase: bool = False,
    min_frequency: int = 2,
    log=lambda line: None,
    source: str = "the corpus",
) -> Tokenizer:
    """Trains byte-level BPE, WordPiece, Unigram or a word list of at most `vocab_size` tokens.

    The size includes the special tokens. The same texts give the same tokenizer (Unigram: up to
    rounding). A small corpus may give fewer tokens, which is logged. Raises ValueError if it is
    empty or needs more.
    """
    if type not in _TRAINERS:
        raise ValueError(f"unknown tokenizer.type {type!r}: choose one of {', '.join(_TRAINERS)}")
    num_texts = 0

    def chunks():
        nonlocal num_texts
        for text in texts:
            num_texts += 1
            yield from split_text(text)

    options = {
        "vocab_size": vocab_size,
        "special_tokens": list(SPECIALS),
        "show_progress": False,
    }
    # Threads would change the order of summation.
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        inner = _TRAINERS[type](chunks(), lowercase, min_frequency, options)
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    if not num_texts:
        raise ValueError(f"{source} holds no document to train a tokenizer on: check data.source")
    result = Tokenizer(inner)
    first = [result.token(i) for i in range(len(SPECIALS))]
    if first != list(SPECIALS):
        raise ValueError(f"a {type} vocabulary does not start with the special tokens: {first[:4]}")
    if result.size > vocab_size:
        raise ValueError(
            f"the special tokens and characters of the corpus need {result.size} tokens, but "
            f"tokenizer.vocab_size is {vocab_size}: raise it"
        )
    if result.size < vocab_size:
        log(f"the corpus gives {result.size} tokens, fewer than tokenizer.vocab_size={vocab_size}")
    return result


def _bpe(texts, lowercase, min_frequency, options):
    inner = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(min_frequency=min_frequency, initial_alphabet=alphabet, **options)
    inner.train_from_iterator(texts, trainer)
    return inner


def _wordpiece(texts, lowercase, min_frequency, options):
    """WordPiece from BPE merges of marked words: `▁model` becomes `model`, `odel` becomes `##odel`.

    The library's own WordPiece trainer numbers tokens in the order of a random hash, so that two
    trainings differ; its BPE trainer does not. Every character is a token in both forms.
    """
    inner = tokenizers.Tokenizer(models.BPE())
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words = pre_tokenizers.BertPreTokenizer()
    inner.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace(split=False)])
    trainer = trainers.BpeTrainer(min_frequency=min_frequency, **{**options, "special_tokens": []})
    inner.train_from_iterator(texts, trainer)
    merged = sorted(inner.get_vocab().items(), key=lambda item: item[1])
    characters = [token for token, _ in merged if len(token) == 1 and token != _WORD_START]
    tokens = dict.fromkeys([*SPECIALS, *characters, *(f"##{c}" for c in characters)])
    for token, _ in merged:
        if len(token) > 1 and len(tokens) < options["vocab_size"]:
            tokens.setdefault(token[1:] if token.startswith(_WORD_START) else f"##{token}")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    result = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    result.normalizer, result.pre_tokenizer = inner.normalizer, words
    result.decoder = decoders.WordPiece()
    result.add_special_tokens(list(SPECIALS))
    return result


def _unigram(texts, lowercase, min_frequency, options):
    """Unigram (Kudo, 2018). The library sums in a random order: two trainings may differ slightly."""
    del min_frequency  # Unigram prunes by likelihood, not by count
    inner = tokenizers.Tokenizer(models.Unigram())
    steps = [normalizers.NFKC()] + ([normalizers.Lowercase()] if lowercase else [])
    inner.normalizer = normalizers.Sequence(steps)
    # The lattice may use any token of the vocabulary, special ones too. Isolated brackets keep them
    # from matching.
    brackets = pre_tokenizers.Split(Regex(r"[\[\]<>]"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), brackets])
    inner.decoder = decoders.Metaspace()
    inner.train_from_iterator(texts, trainers.UnigramTrainer(unk_token="[UNK]", **options))
    return inner


def _word(texts, lowercase, min_frequency, options):
    """The most frequent words; words of equal frequency in alphabetical order."""
    inner = _word_level(lowercase)
    trainer = trainers.WordLevelTrainer(min_frequency=min_frequency, **options)
    inner.train_from_iterator(texts, trainer)
    return inner


def _word_level(lowercase: bool, vocabulary: dict[str, int] | None = None):
    """Words are runs of letters, digits and underscores, and runs of other visible characters."""
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary or {}, unk_token="[UNK]"))
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


def of_words(words: Iterable[str]) -> Tokenizer:
    """The word-level tokenizer of a given vocabulary, such as the words of a file of word vectors.

    The special tokens come first, then the words in their order. Text is lowercased if no word has a
    capital letter. Raises ValueError for a repeated word.
    """
    words = [word for word in words if word not in SPECIALS]
    vocabulary = {token: number for number, token in enumerate((*SPECIALS, *words))}
    if len(vocabulary) < len(SPECIALS) + len(words):
        repeated = next(w for w, n in collections.Counter(words).items() if n > 1)
        raise ValueError(f"the vocabulary repeats the word {repeated!r}: remove one of them")
    inner = _word_level(all(word == word.lower() for word in words), vocabulary)
    inner.add_special_tokens(list(SPECIALS))
    return Tokenizer(inner)


_TRAINERS = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram, "word": _word}
