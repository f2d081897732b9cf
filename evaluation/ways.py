"""How each architecture is asked for the probability of tokens: the rows that the model reads.

A way turns tokens into rows with targets, which score the tokens from `first` on; scorer.py computes
their log-probabilities. choice.py chooses the way of a model.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from data.special_tokens import SpecialTokenTemplate
from objectives.vocabulary import Vocabulary

_NONE = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Row:
    """One sequence for the model, and its targets.

    An encoder or a decoder reads tokens int32[T], the decoder of an encoder-decoder decoder_tokens
    int32[U]. The hidden state at positions[k] (of the decoder, if there is one) predicts targets[k],
    int32[K] each. The first `prefix` tokens of a decoder's row see each other.
    """

    tokens: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    decoder_tokens: np.ndarray = dataclasses.field(default_factory=lambda: _NONE)
    prefix: int = 0


@dataclasses.dataclass(frozen=True)
class Limits:
    """The tokens of a text that one row takes: of the context, of the scored part, and of both."""

    context: int
    scored: int
    both: int
    unread: int = (
        0  # tokens more than `both`, if the last token of a text is predicted and not read
    )


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to score the tokens of a text.

    Attributes:
      template: the special tokens around a text.
      attention: of the model that reads the rows; 'bidirectional' for an encoder.
      is_per_token: whether each token has a row of its own.
    """

    vocabulary: Vocabulary
    template: SpecialTokenTemplate
    attention: ClassVar[str] = "bidirectional"
    is_per_token: ClassVar[bool] = False

    @property
    def needs_context(self) -> bool:
        """Whether nothing predicts the first token that a row reads."""
        return False

    def limits(self, max_len: int) -> Limits:
        """Those of a model that reads at most `max_len` positions."""
        raise NotImplementedError

    def rows(self, tokens: np.ndarray, first: int) -> Iterator[tuple[Row, np.ndarray]]:
        """The rows that score tokens[first:], each with the indices int[K] in `tokens` of its targets.
        A token that nothing predicts, such as the first one of a decoder without a start token, has no
        row."""
        raise NotImplementedError

    def describe(self) -> str:
        """A line for the log."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Causal(Way):
    """A decoder: log p(token | earlier tokens). template.prefix stands before each text."""

    attention: ClassVar[str] = "causal"

    @property
    def needs_context(self):
        return not self.template.prefix

    def limits(self, max_len):
        size = max_len - len(self.template.prefix)
        return Limits(size, size, size, unread=1)

    def rows(self, tokens, first):
        start = self.template.prefix
        index = np.arange(max(first, 1 - len(start)), len(tokens))
        if len(index):
            read = np.concatenate([start, tokens[:-1]]).astype(np.int32)
            yield Row(read, tokens[index], index + len(start) - 1), index

    def describe(self):
        return "causal: log-likelihood, from left to right"


@dataclasses.dataclass(frozen=True)
class Generating(Way):
    """A model that reads a source, bidirectionally, and generates: an encoder-decoder or a prefix LM.

    `mark` is what the source has in place of the scored text: 'sentinel' (T5's <extra_id_0>, which the
    target repeats if `full` is False), 'mask' (one [MASK]: BART), 'masks' (one [MASK] per token: MASS), or
    '' (nothing: a prefix LM). The target is the scored text, after the context if `full`.
    """

    architecture: str
    mark: str = ""
    full: bool = False
    attention: ClassVar[str] = "prefix"

    @property
    def is_encoder_decoder(self) -> bool:
        return self.architecture == "encoder_decoder"

    @property
    def needs_context(self):
        return not (self.is_encoder_decoder or self.mark or self.template.num_tokens)

    def limits(self, max_len):
        added = self.template.num_tokens + bool(self.mark)
        before_target = 1 + len(self._target(_NONE, _NONE))
        if self.is_encoder_decoder:
            scored = max_len - before_target
            context = max_len - added
            both = scored if self.full else context + scored
            if self.mark == "masks":  # the encoder reads as many tokens as there are in all
                context = scored = both = min(max_len - self.template.num_tokens, scored)
            return Limits(context, scored, both)
        repeats = self.full or self.mark == "masks"  # in the source and in the target
        both = (max_len - added - before_target + 1) // (1 + repeats)
        return Limits(both, both, both, unread=int(not self.mark and not self.full))

    def rows(self, tokens, first):
        context, scored = tokens[:first], tokens[first:]
        source = self._source(context, len(scored), _NONE)
        yield from self._row(source, self._target(context, scored), np.arange(first, len(tokens)))

    def _source(self, before, num_scored, after):
        mark = {"sentinel": self.vocabulary.sentinels[:1], "mask": (self.vocabulary.mask,),
                "masks": (self.vocabulary.mask,) * num_scored}.get(self.mark, ())  # fmt: skip
        parts = [self.template.prefix, before, mark, after, self.template.suffix]
        return np.concatenate(parts).astype(np.int32)

    def _target(self, before, scored):
        start = self.template.prefix if self.is_encoder_decoder else ()
        if self.mark == "sentinel" and not self.full:
            start = (*start, self.vocabulary.sentinels[0])
        return np.concatenate([start, before[: len(before) * self.full], scored]).astype(np.int32)

    def _row(self, source, target, index):
        """The last len(index) tokens of the target are scored."""
        places = np.arange(len(target) - len(index), len(target))
        if self.is_encoder_decoder:
            decoder_tokens = np.concatenate([[self.vocabulary.start], target[:-1]])
            yield Row(source, target[places], places, decoder_tokens.astype(np.int32)), index
            return
        there = places + len(source) > 0  # nothing predicts the first token of all
        places, index = places[there], index[there]
        if len(index):
            tokens = np.concatenate([source, target[:-1]])
            yield Row(tokens, target[places], places + len(source) - 1, prefix=len(source)), index

    def describe(self):
        reader = "encoder" if self.is_encoder_decoder else "prefix"
        mark = {"sentinel": " and a sentinel", "mask": " and one mask",
                "masks": " and a mask per token"}.get(self.mark, "")  # fmt: skip
        return f"log-likelihood of the continuation; the {reader} reads the context{mark}"


def _word_ends(tokens, vocabulary):
    """int[n]: the end (exclusive) of the word of each token."""
    flags = np.frombuffer(vocabulary.word_continuation, np.uint8)[tokens]
    joined = (flags[:-1] & 2 > 0) & (flags[1:] & 1 > 0)
    ends = np.arange(1, len(tokens) + 1)
    for index in range(len(tokens) - 2, -1, -1):
        if joined[index]:
            ends[index] = ends[index + 1]
    return ends


class _PerToken:
    """One row for each token, without that token, and without the rest of its word if `within_word`."""

    def masked_spans(self, tokens, first):
        """(start, end) of the masked span for each scored token, which is the first of the span."""
        ends = np.arange(1, len(tokens) + 1)
        if self.within_word:
            ends = _word_ends(tokens, self.vocabulary)
        return zip(range(first, len(tokens)), ends[first:].tolist(), strict=True)

    def describe(self):
        name = "within-word left-to-right" if self.within_word else "original"
        return f"pseudo-log-likelihood, {name}: one row per token"


@dataclasses.dataclass(frozen=True)
class Masking(_PerToken, Way):
    """Pseudo-log-likelihood of a model that predicts a [MASK] from both sides (Salazar et al. 2020);
    `within_word` also masks the rest of the token's word (Kauf & Ivanova 2023).

    shift -1: the position before the [MASK] predicts it, as in masked next-token prediction."""

    within_word: bool = False
    shift: int = 0
    is_per_token: ClassVar[bool] = True

    @property
    def needs_context(self):
        return self.shift < 0 and not self.template.prefix

    def limits(self, max_len):
        size = max_len - self.template.num_tokens
        return Limits(size, size, size)

    def rows(self, tokens, first):
        prefix, suffix = self.template.prefix, self.template.suffix
        text = np.concatenate([prefix, tokens, suffix]).astype(np.int32)
        for index, end in self.masked_spans(tokens, first):
            position = len(prefix) + index + self.shift
            if position >= 0:
                masked = text.copy()
                masked[len(prefix) + index : len(prefix) + end] = self.vocabulary.mask
                place = np.array([index])
                yield Row(masked, tokens[place], np.array([position])), place


@dataclasses.dataclass(frozen=True)
class Infilling(_PerToken, Generating):
    """Pseudo-log-likelihood of a model that reads a text with a mark in place of a token and generates
    that token."""

    within_word: bool = False
    is_per_token: ClassVar[bool] = True

    def limits(self, max_len):
        found = super().limits(max_len)
        size = min(found.context, found.scored) if self.full else found.context
        return Limits(size - 1, size - 1, size - 1)

    def rows(self, tokens, first):
        for index, end in self.masked_spans(tokens, first):
            place = np.array([index])
            source = self._source(tokens[:index], end - index, tokens[end:])
            yield from self._row(source, self._target(tokens[:index], tokens[place]), place)
