"""Which pieces of a tokenizer make up a word: what whole-word masking needs to know.

Read off the pieces' spelling once, for any tokenizer of the library; `Tokenizer.special_ids` hands it on.
"""

import json

import tokenizers
from tokenizers import pre_tokenizers


def joins(inner: tokenizers.Tokenizer, size: int) -> bytes:
    """One number per piece: +1 if it goes on with a word, +2 if a word may go on behind it.

    Two pieces side by side are of one word if the first may be gone on behind and the second goes
    on. A word is a run of letters and digits, as in BERT, whatever the kind of tokenizer: WordPiece
    marks what goes on (`##ing`), byte-level BPE and Unigram what begins (`Ġthe`, `▁the`), and there
    a punctuation mark neither goes on nor is gone on behind. Empty for a tokenizer of another kind.
    """
    spelled = _SPELLED.get(kind(inner))
    if spelled is None:
        return b""
    return bytes(spelled(inner.id_to_token(i) or "") for i in range(size))


def kind(inner: tokenizers.Tokenizer) -> str:
    """How pieces show where words begin: WordPiece, WordLevel, ByteLevel, Metaspace, or ''."""
    description = json.loads(inner.to_str())
    model = description["model"]["type"]
    if model in ("WordPiece", "WordLevel"):
        return model
    steps = json.dumps([description["pre_tokenizer"], description["decoder"]])
    return next((name for name in ("ByteLevel", "Metaspace") if f'"{name}"' in steps), "")


def _wordpiece(piece):
    return 2 + piece.startswith("##")


def _marked(piece, mark="▁"):
    """Of a piece with blanks written as `mark`; what a mark begins does not go on."""
    first, last = piece[:1], piece[-1:]
    return _within(first) + 2 * (_within(last) or piece == mark)


def _bytes(piece):
    """Of a piece that is written as GPT-2 writes bytes."""
    raw = bytes(_BYTES.get(letter, 0x3F) for letter in piece)
    # Part of a character is taken for part of a letter.
    return _marked(raw.decode("utf-8", errors="replace").replace("\ufffd", "a"), " ")


def _within(letter):
    return letter.isalnum()


def _byte_letters():
    """{the letter that byte-level tokenizers write: its byte}."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = {}
    for value in range(128):
        found[level.pre_tokenize_str(chr(value))[0][0]] = value
    others = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(found))
    # Bytes from 128 on keep their order, printable ones first standing for themselves.
    plain = [c for c in others if ord(c) < 256]
    found |= {c: ord(c) for c in plain}
    rest = [value for value in range(128, 256) if value not in found.values()]
    found |= dict(zip([c for c in others if ord(c) >= 256], rest, strict=True))
    return found


_BYTES = _byte_letters()
_SPELLED = {
    "WordPiece": _wordpiece,
    "WordLevel": lambda piece: 0,
    "ByteLevel": _bytes,
    "Metaspace": _marked,
}
