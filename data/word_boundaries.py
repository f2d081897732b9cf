"""Which tokens of a vocabulary make up a word, as whole-word masking needs to know.

Derived from the spelling of the tokens, for any tokenizer; `Tokenizer.special_ids` passes it on.
"""

import json

import tokenizers
from tokenizers import pre_tokenizers


def word_continuation(inner: tokenizers.Tokenizer, size: int) -> bytes:
    """One number per token: +1 if it continues a word, +2 if the next token may continue its word.

    Two adjacent tokens belong to one word if the first has 2 and the second has 1. A word is a run of
    letters and digits, as in BERT, for every type of tokenizer: WordPiece marks continuations
    (`##ing`), byte-level BPE and Unigram mark word starts (`Ġthe`, `▁the`), where a punctuation mark
    has 0. Empty for a tokenizer of another kind.
    """
    flags_of = _FLAGS.get(kind(inner))
    if flags_of is None:
        return b""
    return bytes(flags_of(inner.id_to_token(i) or "") for i in range(size))


def kind(inner: tokenizers.Tokenizer) -> str:
    """How tokens mark word boundaries: WordPiece, WordLevel, ByteLevel, Metaspace, or '' (unknown)."""
    description = json.loads(inner.to_str())
    model = description["model"]["type"]
    if model in ("WordPiece", "WordLevel"):
        return model
    steps = json.dumps([description["pre_tokenizer"], description["decoder"]])
    return next((name for name in ("ByteLevel", "Metaspace") if f'"{name}"' in steps), "")


def _wordpiece(token):
    return 2 + token.startswith("##")


def _metaspace(token, space="▁"):
    """Flags of a token in which `space` marks a blank: a token that starts with it starts a word."""
    return token[:1].isalnum() + 2 * (token[-1:].isalnum() or token == space)


def _byte_level(token):
    """Flags of a token in GPT-2's byte alphabet. Part of a character counts as part of a letter."""
    raw = bytes(_BYTE_OF_LETTER.get(letter, ord("?")) for letter in token)
    return _metaspace(raw.decode("utf-8", errors="replace").replace("\ufffd", "a"), " ")


def _byte_alphabet():
    """{letter of GPT-2's byte alphabet: byte}."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = {level.pre_tokenize_str(chr(value))[0][0]: value for value in range(128)}
    others = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(found))
    # From byte 128 on, printable bytes are written as themselves, the rest in order as later letters.
    found |= {letter: ord(letter) for letter in others if ord(letter) < 256}
    rest = [value for value in range(128, 256) if value not in found.values()]
    found |= dict(zip([c for c in others if ord(c) >= 256], rest, strict=True))
    return found


_BYTE_OF_LETTER = _byte_alphabet()
_FLAGS = {
    "WordPiece": _wordpiece,
    "WordLevel": lambda token: 0,
    "ByteLevel": _byte_level,
    "Metaspace": _metaspace,
}
