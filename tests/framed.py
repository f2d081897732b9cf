"""Rows of framed documents for the tests of objectives, and what a plain loop reads out of them."""

import numpy as np

from objectives.vocabulary import Vocabulary

# Two ranges of ordinary pieces, with special ids below, between and above. Of three neighbours in
# the vocabulary two go on with a word (see Vocabulary.joins).
VOCABULARY = Vocabulary(
    size=210, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 113)),
    ordinary=((113, 150), (160, 200)), joins=bytes(3 if piece % 3 else 2 for piece in range(210)),
)  # fmt: skip
ORDINARY = [*range(113, 150), *range(160, 200)]
INNER_SPECIAL = [VOCABULARY.unk, 150, 159, 200]  # may stand inside a document


def documents_of(row, architecture):
    """The documents of a row, as lists of tokens with their framing."""
    found, fresh = [], True
    for token in row.tolist():
        if token == VOCABULARY.pad:
            break
        if fresh or (architecture == "encoder" and token == VOCABULARY.cls):
            found.append([])
        found[-1].append(token)
        fresh = token == VOCABULARY.closing(architecture)
    return found


def make_row(architecture, raw, lengths, offset, seed):
    """A row of a framed stream: cut out from `offset`, padded where the stream has ended."""
    random = np.random.default_rng(seed)
    stream = []
    for length in lengths:
        pieces = random.choice(ORDINARY, length)
        inner = random.random(length) < 0.05
        pieces[inner] = random.choice(INNER_SPECIAL, inner.sum())
        opening = [VOCABULARY.cls] * (architecture == "encoder")
        stream += opening + pieces.tolist() + [VOCABULARY.closing(architecture)]
    offset %= len(stream)
    row = stream[offset : offset + raw]
    if architecture == "encoder":
        row[0] = VOCABULARY.cls
    return np.array(row + [VOCABULARY.pad] * (raw - len(row)), np.int32)


def words_of(row):
    """The words of a row as lists of positions: runs of pieces that go on with each other."""
    words, ordinary = [], set(ORDINARY)
    for place, token in enumerate(row.tolist()):
        if token not in ordinary:
            continue
        before = row[place - 1] if place else -1
        if words and before in ordinary and token % 3 and words[-1][-1] == place - 1:
            words[-1].append(place)
        else:
            words.append([place])
    return words
