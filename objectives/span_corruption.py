"""span_corruption: spans are cut out and typed behind their sentinels (T5; Raffel et al. 2020).
An objective of the registry, for the two architectures that type.
T5 cuts a row as one text; here documents stay apart, in the spans and in what the model sees.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from objectives.assemble import compact, padded, sides, typed
from objectives.base import Objective, Setting, Shapes, knob
from objectives.batch import Batch
from objectives.noise import count_of, random_spans
from objectives.segments import documents, ordinary


@dataclass(frozen=True)
class SpanCorruption(Objective):
    """`noise_density` of a row's tokens are cut out in spans of `mean_span_length` on average.

    Inputs are the row with each span replaced by its sentinel, numbered through the row, and closed
    by [EOS] if the row ends within a document. Targets are, document by document, each sentinel
    with the tokens of its span, then [EOS]. With T 8, noise_density 0.4, mean_span_length 1.5,
    closed_documents 2, sentinels 13 and 14, [BOS] 6, and 22 23 and 32 cut out:

        row               [ 21, 22, 23, 24, 4, 31, 32, 33 ]
        inputs.tokens     [ 21, 13, 24,  4, 31, 14, 33,  4 ]
        inputs.segments   [  1,  1,  1,  1,  2,  2,  2,  2 ]
        decoder.tokens    [  6, 13, 22, 23,  6, 14, 32 ]
        decoder.segments  [  1,  1,  1,  1,  2,  2,  2 ]
        targets           [ 13, 22, 23,  4, 14, 32,  4 ]
        weights           [  1,  1,  1,  1,  1,  1,  1 ]

    The lengths are T5's: 568 raw tokens become 512 read and 114 typed. T5 closes the targets of a
    row with one [EOS]; `closed_documents` makes room for more. As many documents as there is room
    for close theirs, the first ones first; the others have no target where [EOS] would stand.

    A decoder reads each document's inputs as a prefix and its targets right behind them.

    Cutting within documents cannot shorten a row of very short ones to T. The tail that an encoder
    has no place for is left out, and the row then ends as one that ends within a document.
    """

    name: ClassVar[str] = "span_corruption"
    architectures: ClassVar[tuple[str, ...]] = ("encoder_decoder", "decoder")
    unfit: ClassVar[dict[str, str]] = {
        "encoder": "an encoder types nothing; use masked_lm",
    }

    noise_density: float = knob(0.15, "share of the tokens cut out", min=0.001, max=0.9)
    mean_span_length: float = knob(3.0, "tokens in a span on average", min=1.0)
    closed_documents: int = knob(1, "documents of a row whose targets end in [EOS]", min=1)

    def _noise(self, tokens: int) -> int:
        return min(max(round(tokens * self.noise_density), 1), tokens - 1) if tokens > 1 else 0

    def _spans(self, tokens: int) -> int:
        noise = self._noise(tokens)
        return max(round(noise / self.mean_span_length), 1) if noise else 0

    def _lengths(self, tokens: int) -> tuple[int, int]:
        """(inputs, targets) of a row of so many tokens: seqio's random_spans_helper."""
        noise, spans = self._noise(tokens), self._spans(tokens)
        return tokens - noise + spans + 1, noise + spans + self.closed_documents

    def _longest(self, setting: Setting) -> tuple[int, int]:
        """(raw, targets) of the longest row that fits."""

        def fits(tokens):
            inputs, targets = self._lengths(tokens)
            if setting.architecture == "decoder":  # all but the last token of both together
                return inputs + targets <= setting.length + 1
            return inputs <= setting.length

        raw = 1
        while fits(raw + 1):
            raw += 1
        return raw, self._lengths(raw)[1]

    def shapes(self, setting: Setting) -> Shapes:
        raw, targets = self._longest(setting)
        if raw < 2:
            raise ValueError(
                f"length {setting.length} is too short for span_corruption with "
                f"noise_density={self.noise_density}: expected room for a few tokens; raise it"
            )
        spans, sentinels = self._spans(raw), len(setting.vocabulary.sentinels)
        if spans > sentinels:
            raise ValueError(
                f"length {setting.length} has {spans} spans a row but the tokenizer has "
                f"{sentinels} sentinels: raise mean_span_length or shorten the rows"
            )
        return Shapes(raw=raw, inputs=setting.length, targets=targets, overlap=0)

    def targets_expected(self, setting: Setting) -> float:
        return self.shapes(setting).targets

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        vocabulary = setting.vocabulary
        raw, told = self._longest(setting)
        segments = documents(row, vocabulary, setting.architecture)
        real = segments > 0
        tokens = real.sum(dtype=jnp.int32)
        noise = random_spans(
            key,
            ordinary(row, vocabulary),
            count_of(tokens, raw, self._noise),
            count_of(tokens, raw, self._spans),
        )
        starts = noise & ~jnp.concatenate([jnp.zeros_like(noise[:1]), noise[:-1]])
        return self._cut(setting, row, segments, noise, starts, told)

    def _cut(self, setting, row, segments, noise, starts, told):
        """The Batch of a row whose noise is known, with room for `told` targets."""
        vocabulary, raw, read = setting.vocabulary, row.shape[0], setting.length
        closes = row == vocabulary.eos
        # How long either side is after each token; an [EOS] must fit behind a cut.
        given = (segments > 0) & (starts | ~noise)
        used = jnp.cumsum(given, dtype=jnp.int32)
        typing = jnp.cumsum(noise, dtype=jnp.int32) + jnp.cumsum(starts, dtype=jnp.int32)
        room = (used < read) | (closes & (used == read))
        kept = (segments > 0) & room & (typing <= told)
        given, noise, starts = given & kept, noise & kept, starts & kept

        index = jnp.arange(raw + 1, dtype=jnp.int32)
        end = kept.sum(dtype=jnp.int32)
        last = jnp.maximum(end - 1, 0)
        cut = (index == end) & (end > 0) & ~closes[last]
        number = jnp.cumsum(starts, dtype=jnp.int32) - 1
        sentinels = jnp.asarray(vocabulary.sentinels, jnp.int32)[jnp.maximum(number, 0)]
        one = jnp.full_like(row[:1], vocabulary.eos)
        shown = jnp.where(cut, one, jnp.append(jnp.where(starts, sentinels, row), one))
        inputs = compact(
            jnp.append(given, False) | cut,
            read,
            shown,
            jnp.where(cut, segments[last], jnp.append(segments, 0)),
            vocabulary.pad,
        )

        # A document's targets close after its last noise token, as long as there is room.
        latest = jax.ops.segment_max(
            jnp.where(noise, index[:-1], jnp.int32(-1)), segments, num_segments=raw + 1
        )
        closing = noise & (index[:-1] == latest[segments])
        typing = noise.sum(dtype=jnp.int32) + starts.sum(dtype=jnp.int32)
        room = told - typing
        if setting.architecture == "decoder":
            room = jnp.minimum(room, read + 1 - (inputs[1] > 0).sum(dtype=jnp.int32) - typing)
        closing &= jnp.cumsum(closing, dtype=jnp.int32) <= room
        eos = jnp.broadcast_to(one, row.shape)
        targets = compact(
            jnp.stack([starts, noise, closing], axis=1).reshape(-1),
            told,
            jnp.stack([sentinels, row, eos], axis=1).reshape(-1),
            jnp.repeat(segments, 3),
            vocabulary.pad,
        )
        return typed(setting, inputs, targets)

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        """The row; of one that was cut for want of room, what was kept and the [EOS] behind it."""
        vocabulary, raw = setting.vocabulary, self.shapes(setting).raw
        row = []
        for given, typing in sides(setting, batch):
            spans, span = {}, []
            for token in typing:
                if token in vocabulary.sentinels:
                    span = spans.setdefault(token, [])
                elif token != vocabulary.eos:
                    span.append(token)
            for token in given:
                row += spans.get(token, [token])
        return padded(row[:raw], raw, vocabulary.pad)  # one more: the [EOS] behind a cut
