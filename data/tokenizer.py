"""Tokenizers, trained on the corpus or published, with one set of special tokens for every objective.

Between documents and the token store. Text never becomes a special token unless asked for.
"""

import collections
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
from etils import epath
from tokenizers import models

from data import pretrained_tokenizer
from data.files import write_atomically
from data.special_tokens import SpecialTokenTemplate
from data.text_encoder import TextEncoder
from data.tokenizer_trainers import TRAINERS, TrainingTexts, word_level
from data.word_boundaries import word_continuation

MODES, INFILL = ("[R]", "[S]", "[X]"), ("[PRE]", "[SUF]", "[MID]")
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(100))
SPECIALS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[EOS]", "[MASK]", "[BOS]"),
    *(*MODES, *INFILL, *SENTINELS),
)
# The share of unknown tokens that the log of a run mentions.
NOTABLE_SHARE = 0.001
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
# Longer texts are split before a tokenizer is trained on them.
_CHUNK = 1 << 16


class Tokenizer:
    """Text to tokens and back. Made by `train`, `load`, or from a `tokenizers.Tokenizer`."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        special_tokens: dict[str, str] | None = None,
        files: dict[str, bytes] | None = None,
    ):
        """special_tokens: {'pad': '<PAD>', ...}, needed where `_NAMES` lacks the token's name. files: those
        of a published tokenizer, {name: content}, which are kept beside it and change nothing."""
        self.files = dict(files or {})
        self._plain = tokenizers.Tokenizer.from_str(inner.to_str())
        self._plain.no_truncation()  # a published one may truncate to 128 tokens and pad to them
        self._plain.no_padding()
        self.special_tokens = dict(special_tokens or {})
        # A published file may list its special tokens in the vocabulary alone, or as ordinary ones.
        known = self._plain.get_vocab(with_added_tokens=True)
        names = [next((name for name in each if name in known), "") for each in _NAMES.values()]
        self._unknown = pretrained_tokenizer.unknown_token(self._plain)
        names += [*self.special_tokens.values(), *MODES, *INFILL, *SENTINELS, self._unknown]
        marked = {t.content for t in self._plain.get_added_tokens_decoder().values() if t.special}
        self._plain.add_special_tokens(
            [name for name in dict.fromkeys(names) if name in known and name not in marked]
        )
        self._plain.encode_special_tokens = True

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

    @property
    def special_names(self) -> tuple[str, ...]:
        """The special tokens, as the tokenizer spells them."""
        return tuple(self._special)

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
        if found["unk"] < 0:
            found["unk"] = special.get(self._unknown, -1)
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
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self._plain, set(self._special))

    @functools.cached_property
    def _with_specials(self) -> tokenizers.Tokenizer:
        inner = self.to_library()
        inner.encode_special_tokens = False
        return inner

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
        return self._encoder.encode_batch(texts)

    def encode_marked(self, texts: list[str], markers: list[str]) -> np.ndarray:
        """The tokens int32[n] of texts with a special token, such as '[MASK]', between each two of them:
        markers[i] follows texts[i]. The texts themselves become no special token."""
        return self._encoder.encode_marked(texts, markers)

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(the tokens int32[n] of `encode_batch`, the characters int32[n, 2] that each is of: start and
        end) of many texts. The characters of a token may include the space before it."""
        return self._encoder.encode_with_offsets(texts)

    def cut(self, text: str) -> tuple[str, str]:
        """(head, rest) of a text that continues: the tokens of the head, then those of the rest and what
        follows it, are those of the whole. The head may be empty."""
        return self._encoder.cut(text)

    def decode(self, ids, skip_specials: bool = False) -> str:
        """The text of tokens int[n]; special tokens are written out unless skipped."""
        return self._plain.decode([int(i) for i in ids], skip_special_tokens=skip_specials)

    def token(self, index: int) -> str:
        """The token with this id, as the vocabulary spells it; '' outside the vocabulary."""
        return self._plain.id_to_token(int(index)) or ""

    def to_library(self) -> tokenizers.Tokenizer:
        """A copy as a `tokenizers.Tokenizer`."""
        return tokenizers.Tokenizer.from_str(self._plain.to_str())

    def with_tokens(self, words: Iterable[str]) -> "Tokenizer":
        """The tokenizer with further tokens, which text spells: each word is kept whole, wherever it is.

        Raises ValueError for a word that is blank or a special token."""
        inner = self.to_library()
        for word in words:
            if not isinstance(word, str) or not word or word != word.strip():
                raise ValueError(
                    f"task.special_tokens has {word!r}: name words without blanks around them"
                )
            if word in self._special:
                raise ValueError(
                    f"task.special_tokens has {word!r}, which the tokenizer uses itself, and text never "
                    "becomes it: choose another word"
                )
            inner.add_tokens([tokenizers.AddedToken(word, normalized=False)])
        if inner.to_str() == self._plain.to_str():
            return self
        templates = {name: text for name, text in self.files.items() if "chat_template" in name}
        settings = json.loads(self.files.get("tokenizer_config.json", b"{}"))
        source = settings.get("chat_template")
        if isinstance(source, str):
            templates.setdefault("chat_template.jinja", source.encode())
        if templates:  # a template names special tokens
            names = {key: text for key, text in settings.items() if key.endswith("_token")}
            templates["tokenizer_config.json"] = json.dumps(names).encode()
        return Tokenizer(inner, self.special_tokens, templates)

    def save(self, path: str | Path) -> None:
        """Writes tokenizer.json (`path` is the file), and any given special tokens and files beside it;
        removes those of another tokenizer."""
        path = epath.Path(path)
        content = {f"{pretrained_tokenizer.FILES_FOLDER}/{k}": v for k, v in self.files.items()}
        if self.special_tokens:
            special = pretrained_tokenizer.special_tokens_to_json(self.special_tokens)
            content[pretrained_tokenizer.SPECIAL_TOKENS_FILE] = special
        for name in _files_beside(path):
            if name not in content:
                (path.parent / name).unlink()
        for name, each in content.items():
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path.parent / name, each)
        write_atomically(path, self._plain.to_str(pretty=True).encode())


def _files_beside(path) -> list[str]:
    """The files that `Tokenizer.save` wrote beside a tokenizer.json, as relative paths."""
    folder = path.parent / pretrained_tokenizer.FILES_FOLDER
    kept = [each for pattern in ("*", "*/*") for each in folder.glob(pattern) if each.is_file()]
    beside = path.parent / pretrained_tokenizer.SPECIAL_TOKENS_FILE
    found = [*kept, beside] if beside.is_file() else kept
    return ["/".join(each.parts[len(path.parent.parts) :]) for each in found]


def describe_size(size: int, vocab_size: int) -> str:
    """A line for the log about a vocabulary that the corpus cannot fill."""
    return f"the corpus gives {size} tokens, fewer than tokenizer.vocab_size={vocab_size}"


def describe_unknown(name: str, unknown: int, total: int, least: float = 0.0) -> list[str]:
    """A line for the log about `unknown` of `total` tokens, a warning above 1 %; [] for a share below
    `least`."""
    share = unknown / max(1, total)
    line = f"{name}: {share:.2%} of {total:,} tokens are unknown"
    if share > 0.01:
        line = f"warning: {line}, so much of the text is lost: another tokenizer may fit it better"
    return [line] if share >= least else []


def split_text(text: str, limit: int = _CHUNK) -> list[str]:
    """Splits a long text into parts of at most `limit` characters: a trainer counts their words.

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
    try:
        inner = tokenizers.Tokenizer.from_buffer(file.read_bytes())
        files = {name: (file.parent / name).read_bytes() for name in _files_beside(file)}
        special = files.pop(pretrained_tokenizer.SPECIAL_TOKENS_FILE, b"{}")
        special = pretrained_tokenizer.special_tokens_of(json.loads(special), inner)
        files = {name.partition("/")[2]: content for name, content in files.items()}
        return Tokenizer(inner, special, files)
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
    character_coverage: float = 0.9995,
    log=lambda line: None,
    source: str = "the corpus",
) -> Tokenizer:
    """Trains byte-level BPE, WordPiece, Unigram or a word list of at most `vocab_size` tokens.

    The size includes the special tokens. The same texts give the same tokenizer (Unigram: up to
    rounding). A small corpus may give fewer tokens, which is logged. If its characters would take more
    than half of a vocabulary, those beyond `character_coverage` have no token. Texts are read twice.
    Raises ValueError if the corpus is empty or needs more tokens.
    """
    if type not in TRAINERS:
        raise ValueError(f"unknown tokenizer.type {type!r}: choose one of {', '.join(TRAINERS)}")
    corpus = TrainingTexts(texts, split_text)
    inner = TRAINERS[type](
        corpus, SPECIALS, vocab_size, lowercase, min_frequency, character_coverage, log
    )
    if not corpus.num_texts:
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
        log(describe_size(result.size, vocab_size))
    return result


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
    inner = word_level(all(word == word.lower() for word in words), vocabulary)
    inner.add_special_tokens(list(SPECIALS))
    return Tokenizer(inner)
