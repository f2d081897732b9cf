"""Sentences as rows of tokens: the tokens of each word, and windows with overlap over long sentences.

Between data/tagged.py and tasks/tagging.py. Each word is predicted once, nothing is truncated.
"""

import dataclasses

import numpy as np

from data.special_tokens import SpecialTokenTemplate
from tasks.encoding import Encoded

NONE = -1


@dataclasses.dataclass(frozen=True)
class Windows(Encoded):
    """A split as arrays: rows of tokens, and for each token the word that is predicted there.

    `labels` int32[w] are the classes of all words of the split, sentence after sentence; NONE without one.
    """

    words: np.ndarray = dataclasses.field(kw_only=True)  # int32[n, T] word predicted here, or NONE
    targets: np.ndarray = dataclasses.field(kw_only=True)  # int32[n, T] class of the token, or NONE
    sentences: np.ndarray = dataclasses.field(kw_only=True)  # int32[n] sentence of each row
    # int64[s + 1]: index of each sentence's first word, then w
    first_words: np.ndarray = dataclasses.field(kw_only=True)
    is_long: np.ndarray = dataclasses.field(kw_only=True)  # bool[s] has more tokens than a row
    capacity: int = dataclasses.field(kw_only=True)  # tokens of a row without the special ones
    num_words_without_token: int = dataclasses.field(kw_only=True)

    @property
    def num_examples(self) -> int:
        return len(self.first_words) - 1

    @property
    def strata(self) -> np.ndarray:
        return np.zeros(self.num_examples, np.int32)

    def rows_of(self, examples):
        return np.flatnonzero(np.isin(self.sentences, examples))

    def describe_truncated(self, name, task):
        """Lines about windows, and about words without a token: nothing is truncated."""
        rows = np.bincount(self.sentences, minlength=self.num_examples)
        lines = [f"{name}: every sentence fits into {self.capacity} tokens"]
        if self.is_long.any():
            lines = [
                f"{name}: {self.is_long.sum():,} of {self.num_examples:,} sentences are longer than "
                f"{self.capacity} tokens and are read in {rows[self.is_long].sum():,} windows with overlap"
            ]
        if self.num_words_without_token:
            lines.append(
                f"{name}: {self.num_words_without_token:,} of {len(self.labels):,} words have no token, "
                "such as invisible characters: an unknown token is read for each"
            )
        return lines


def tokens_of_words(ids, offsets, words, placeholder: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The tokens of a sentence with the word that each belongs to.

    Args:
      ids: int[n], tokens of the words joined by spaces.
      offsets: int[n, 2], first and last character + 1 of each token.
      words: list of the words.
      placeholder: token that is added for a word without one.

    Returns (ids int32[m], owners int32[m]: index of the word or NONE, number of words without a token).
    A token belongs to the first word that it has a character of.
    """
    if not words:
        return ids, np.full(len(ids), NONE, np.int32), 0
    lengths = np.array([len(word) for word in words], np.int64)
    ends = np.cumsum(lengths + 1) - 1
    starts = ends - lengths
    first = np.searchsorted(ends, offsets[:, 0], side="right")
    inside = np.minimum(first, len(words) - 1)
    owned = (first < len(words)) & (starts[inside] < offsets[:, 1])
    owners = np.where(owned, inside, NONE).astype(np.int32)
    owners[owned] = np.maximum.accumulate(owners[owned])  # in order, whatever the offsets are
    missing = np.setdiff1d(np.arange(len(words), dtype=np.int32), owners)
    if missing.size:
        places = np.searchsorted(np.maximum.accumulate(owners), missing) if len(owners) else 0
        places = np.broadcast_to(places, missing.shape)
        ids = np.insert(ids, places, placeholder)
        owners = np.insert(owners, places, missing)
    return ids.astype(np.int32), owners, len(missing)


def starts_of(length: int, capacity: int, stride: int) -> np.ndarray:
    """The first token int64[k] of each window of a sentence: windows of `capacity` tokens, of which two
    neighbors share `stride`; the last one ends with the sentence and shares more."""
    if length <= capacity:
        return np.zeros(1, np.int64)
    return np.append(np.arange(0, length - capacity, capacity - stride), length - capacity)


def window_of_words(first, last, read, starts, capacity: int, causal: bool) -> np.ndarray:
    """The window int64[w] that predicts each word: the one with the most tokens on the shorter side of
    the word, or, if `causal`, before it.

    first, last, read: int[w], the first and last token of each word, and the one that is read, ascending.
    """
    best = np.full(len(read), np.iinfo(np.int64).min)
    chosen = np.zeros(len(read), np.int64)
    for number, start in enumerate(starts):
        here = slice(*np.searchsorted(read, (start, start + capacity)))
        context = first[here] - start
        if not causal:
            context = np.minimum(context, start + capacity - 1 - last[here])
        better = here.start + np.flatnonzero(context > best[here])
        best[better], chosen[better] = context[better - here.start], number
    return chosen


def encode(
    sentences: list[list[str]], classes: list[list[int]] | None, inner_classes: np.ndarray | None,
    tokenizer, template: SpecialTokenTemplate, *, length: int, stride: int, subword: str,
    causal: bool,
) -> Windows:  # fmt: skip
    """The sentences of a split.

    Args:
      sentences: words of each.
      classes: class of each word, NONE for a word without one; None without labels.
      inner_classes: int[C], the class of a token after the one that is read, for each class of the word;
        None: these tokens have no target.
      length: tokens of a row, with the special ones.
      stride: tokens that two windows of a sentence share.
      subword: the token of a word that is read: first or last.
      causal: whether a state depends only on the tokens before it.

    Raises ValueError for a stride that is not below the tokens of a window.
    """
    special = tokenizer.special_ids()
    capacity = length - template.num_tokens
    if not 0 <= stride < capacity:
        raise ValueError(
            f"task.stride={stride}, but a window has {capacity} tokens without the special ones "
            f"(task.max_seq_len={length}): choose a smaller stride or longer windows"
        )
    placeholder = next((special[n] for n in ("unk", "sep", "eos", "pad") if special[n] >= 0), 0)
    encoded = tokenizer.encode_with_offsets([" ".join(words) for words in sentences])
    first_words = np.append(0, np.cumsum([len(words) for words in sentences]))
    labels = np.full(first_words[-1], NONE, np.int32)
    if classes:
        labels = np.concatenate([np.asarray(each, np.int32) for each in classes])
    rows, sentence_of, num_words_without_token = [], [], 0
    is_long = np.zeros(len(sentences), bool)
    for number, ((ids, offsets), words) in enumerate(zip(encoded, sentences, strict=True)):
        ids, owners, without = tokens_of_words(ids, offsets, words, placeholder)
        num_words_without_token += without
        is_long[number] = len(ids) > capacity
        owned = np.flatnonzero(owners >= 0)
        first = owned[np.unique(owners[owned], return_index=True)[1]]
        last = owned[::-1][np.unique(owners[owned][::-1], return_index=True)[1]]
        read = first if subword == "first" else last
        starts = starts_of(len(ids), capacity, stride)
        window = window_of_words(first, last, read, starts, capacity, causal)
        word_at = np.full(len(ids), NONE, np.int32)
        word_at[read] = first_words[number] + np.arange(len(words))
        target_at = np.where(word_at >= 0, labels[word_at], NONE)
        if inner_classes is not None:
            known = np.full(len(ids), NONE)
            known[owned] = labels[first_words[number] + owners[owned]]
            inner = (known >= 0) & (word_at < 0)
            target_at = np.where(inner, inner_classes[known], target_at)
        window_at = np.full(len(ids), NONE)
        window_at[owned] = window[owners[owned]]
        for each, start in enumerate(starts):
            span = slice(start, start + capacity)
            mine = window_at[span] == each
            if mine.any():
                targets = [np.where(mine, at[span], NONE) for at in (word_at, target_at)]
                rows.append((ids[span], *targets))
                sentence_of.append(number)
    return Windows(
        **_padded(rows, template, length, max(special["pad"], 0)), labels=labels, num_truncated=0,
        num_unknown=sum(int((ids == special["unk"]).sum()) for ids, _ in encoded),
        num_tokens=sum(len(ids) for ids, _ in encoded), sentences=np.array(sentence_of, np.int32),
        first_words=first_words, is_long=is_long, capacity=capacity,
        num_words_without_token=num_words_without_token,
    )  # fmt: skip


def _padded(rows, template, length, pad):
    """{tokens, lengths, token_type_ids, words, targets} of rows (ids, words, targets) without the special
    tokens, padded to `length`."""
    shape, begin = (len(rows), length), len(template.prefix)
    tokens, lengths = np.full(shape, pad, np.int32), np.zeros(len(rows), np.int32)
    words, targets = np.full(shape, NONE, np.int32), np.full(shape, NONE, np.int32)
    for number, (ids, word_at, target_at) in enumerate(rows):
        row = np.concatenate([template.prefix, ids, template.suffix])
        lengths[number], end = len(row), begin + len(ids)
        tokens[number, : len(row)] = row
        words[number, begin:end], targets[number, begin:end] = word_at, target_at
    arrays = {"tokens": tokens, "lengths": lengths, "token_type_ids": np.zeros_like(tokens)}
    return arrays | {"words": words, "targets": targets}
