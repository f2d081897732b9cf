"""SentencePiece models (spiece.model, tokenizer.model): read as bytes, made into tokenizers of ours.

Below huggingface/tokenizers.py. The tokenizers library imports them only through a protobuf package;
what is needed of the format is a handful of fields.
"""

import struct
from dataclasses import dataclass

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

MARK = "▁"
UNIGRAM, BPE = 1, 2
# Kinds of pieces in sentencepiece_model.proto.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True)
class Model:
    """What sentencepiece_model.proto says, with its defaults."""

    pieces: list[tuple[str, float, int]]  # text, score, kind
    algorithm: int  # UNIGRAM or BPE; others are not read
    charsmap: bytes  # the normaliser, in SentencePiece's own form
    dummy_prefix: bool  # a blank before every text
    collapse: bool  # runs of blanks are one, none at the ends
    byte_fallback: bool  # what is no piece is spelled in bytes


def parse(data: bytes) -> Model:
    """The Model of a file's bytes. Raises ValueError for what is none."""
    pieces, trainer, normaliser = [], {}, {}
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(_bytes(value)))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            pieces.append((_bytes(piece.get(1, b"")).decode(), score, int(piece.get(3, NORMAL))))
        elif field == 2:
            trainer = dict(_fields(_bytes(value)))
        elif field == 3:
            normaliser = dict(_fields(_bytes(value)))
    if not pieces:
        raise ValueError("it holds no pieces")
    algorithm = trainer.get(3, UNIGRAM)
    if algorithm not in (UNIGRAM, BPE):
        raise ValueError(f"its algorithm is number {algorithm}, expected Unigram (1) or BPE (2)")
    if not normaliser.get(5, 1) or trainer.get(24, 0):
        raise ValueError("it writes blanks unescaped or behind words, which is not supported")
    return Model(
        pieces,
        algorithm,
        _bytes(normaliser.get(2, b"")),
        bool(normaliser.get(3, 1)),
        bool(normaliser.get(4, 1)),
        bool(trainer.get(35, 0)),
    )


def _bytes(value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field that should hold bytes holds a number")
    return value


def _fields(data: bytes):
    """(number, value) of a protobuf message's fields: int, or bytes for what has a length or is fixed."""
    place = 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            if place >= len(data) or shift > 63:
                raise ValueError("it is cut short")
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"it has a field of kind {kind}, which protobuf does not know")
        length = {1: 8, 5: 4}[kind] if kind != 2 else varint()
        if length > len(data) - place:
            raise ValueError("it is cut short")
        yield key >> 3, data[place : place + length]
        place += length


def tokenizer(model: Model, extra: tuple[str, ...] = ()) -> tokenizers.Tokenizer:
    """The tokenizers.Tokenizer that cuts text as SentencePiece does.

    extra: tokens that follow its pieces, as T5's <extra_id_99> to <extra_id_0>. Control pieces and the
    unknown one are special. No post-processor.
    """
    known = {text for text, _, _ in model.pieces}
    pieces = [*model.pieces, *((text, 0.0, CONTROL) for text in extra if text not in known)]
    unknown = next((i for i, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN), None)
    if unknown is None:
        raise ValueError("it has no unknown piece")
    steps = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.collapse:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
        before = "always" if model.dummy_prefix else "never"
    else:  # blanks at the start count, and one more goes before them
        steps += [normalizers.Prepend(MARK)] if model.dummy_prefix else []
        steps.append(normalizers.Replace(" ", MARK))
        before = "never"
    if model.algorithm == UNIGRAM:
        scores = [(text, score) for text, score, _ in pieces]
        inner = tokenizers.Tokenizer(models.Unigram(scores, unknown, model.byte_fallback))
        # Pieces do not reach over blanks, so that words may be cut one by one.
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=before)
    else:
        numbers = {text: number for number, (text, _, _) in enumerate(pieces)}
        inner = tokenizers.Tokenizer(
            models.BPE(numbers, _merges(pieces), unk_token=pieces[unknown][0],
                       fuse_unk=True, byte_fallback=model.byte_fallback)
        )  # fmt: skip
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=before, split=False)
    if steps:
        inner.normalizer = normalizers.Sequence(steps)
    back = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.dummy_prefix:
        back.append(decoders.Strip(" ", 1, 0))
    inner.decoder = decoders.Sequence(back)
    added = [
        tokenizers.AddedToken(text, normalized=False, special=kind != USER_DEFINED)
        for text, _, kind in pieces
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    inner.add_tokens(added)
    return inner


def _merges(pieces) -> list[tuple[str, str]]:
    """BPE's merges in their order: SentencePiece merges the two whose union has the highest score."""
    numbers = {
        text: number for number, (text, _, kind) in enumerate(pieces) if kind in (NORMAL, UNUSED)
    }
    found = []
    for text in numbers:
        score = pieces[numbers[text]][1]
        for place in range(1, len(text)):
            left, right = text[:place], text[place:]
            if left in numbers and right in numbers:
                found.append((-score, numbers[left], numbers[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
