"""Raw rows of documents for the tests of objectives, and plain Python loops that read them."""

import numpy as np

from objectives.vocabulary import Vocabulary

# Two ranges of regular tokens, with special ids below, between and above. Two of every three
# consecutive ids continue a word (see Vocabulary.word_continuation).
VOCABULARY = Vocabulary(
    size=210, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 113)),
    regular_token_ranges=((113, 150), (160, 200)),
    word_continuation=bytes(3 if token % 3 else 2 for token in range(210)),
)  # fmt: skip
REGULAR_TOKENS = [*range(113, 150), *range(160, 200)]
INNER_SPECIAL = [VOCABULARY.unk, 150, 159, 200]  # special ids that occur inside a document


def documents_of(row, architecture):
    """The documents of a row, as lists of tokens with their special tokens."""
    documents, starts = [], True
    for token in row.tolist():
        if token == VOCABULARY.pad:
            break
        if starts or (architecture == "encoder" and token == VOCABULARY.cls):
            documents.append([])
        documents[-1].append(token)
        starts = token == VOCABULARY.closing(architecture)
    return documents


def make_row(architecture, raw, lengths, offset, seed):
    """A row of a token stream: cut from `offset`, padded after the end of the stream."""
    random = np.random.default_rng(seed)
    stream = []
    for length in lengths:
        tokens = random.choice(REGULAR_TOKENS, length)
        inner = random.random(length) < 0.05
        tokens[inner] = random.choice(INNER_SPECIAL, inner.sum())
        prefix = [VOCABULARY.cls] * (architecture == "encoder")
        stream += prefix + tokens.tolist() + [VOCABULARY.closing(architecture)]
    offset %= len(stream)
    row = stream[offset : offset + raw]
    if architecture == "encoder":
        row[0] = VOCABULARY.cls
    return np.array(row + [VOCABULARY.pad] * (raw - len(row)), np.int32)


def words_of(row):
    """The words of a row, as lists of positions: runs of tokens that continue one another."""
    words, regular = [], set(REGULAR_TOKENS)
    for position, token in enumerate(row.tolist()):
        if token not in regular:
            continue
        before = row[position - 1] if position else -1
        if words and before in regular and token % 3 and words[-1][-1] == position - 1:
            words[-1].append(position)
        else:
            words.append([position])
    return words
