"""Denoising: noise is put into a text, and the text or the noise is to be restored.
One grammar, <pattern>_<density>_<inputs>_<targets> after T5's; objectives/named.py lists what it
spells. Read next: patterns.py (which tokens are noise), assemble.py (how documents are typed).
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import knob
from models.sequence import sequence_of
from objectives.assemble import Side, assembled, padded, sides, spans_back
from objectives.base import ARCHITECTURES, Objective, Setting, Shapes
from objectives.batch import Batch
from objectives.grammar import (
    IN_PLACE,
    PATTERNS,
    SHORTER,
    TARGETS,
    WORDS,
    check,
    irreversible,
    spell,
    unfit,
)
from objectives.noise import altered, count_of, noise_count, shuffled, slots
from objectives.patterns import Noise, chances_of, random_spans, single, spans, units
from objectives.segments import documents, left_of, ordinary


@dataclass(frozen=True)
class Denoising(Objective):
    """A denoiser, in four words and what they leave open; docs/objectives.md has an example of each.

    pattern   iid (single units), span (T5: a fixed number of spans), geometric, poisson (spans of
              lengths so distributed)
    density   the share of noise: of a row's ordinary pieces for an encoder, as in BERT; of all of
              its tokens where it is typed, as in T5
    inputs    mask ([MASK] for each token), random (a random piece), bert (most of them [MASK], some
              random, some kept), shuffle (the noise changes places within its document);
              mask_span (one [MASK] for a span), sentinel (one of its own for each), drop
    targets   masked (an encoder predicts the noise in its place), full (all of the text),
              spans (the noise alone, behind its sentinels if the input has some)

    With noise_density 0.4, mean_span_length 1.5, closed_documents 2 for an encoder-decoder of T 8,
    sentinels 13 and 14, start 6, and 22 23 and 32 cut out (segments are those of the inputs):

        row               [ 21, 22, 23, 24, 4, 31, 32, 33 ]
        inputs.tokens     [ 21, 13, 24,  4, 31, 14, 33,  4 ]
        inputs.segments   [  1,  1,  1,  1,  2,  2,  2,  2 ]
        decoder.tokens    [  6, 13, 22, 23,  6, 14, 32 ]
        decoder.segments  [  1,  1,  1,  1,  2,  2,  2 ]
        targets           [ 13, 22, 23,  4, 14, 32,  4 ]
        weights           [  1,  1,  1,  1,  1,  1,  1 ]
    """

    name: ClassVar[str] = "denoising"

    pattern: str = knob("span", "which tokens are noise", choices=WORDS["pattern"])
    noise_density: float = knob(0.15, "share of the tokens that are noise", min=0.001, max=1.0)
    inputs: str = knob("sentinel", "what the noise looks like", choices=WORDS["inputs"])
    targets: str = knob("spans", "what is predicted", choices=TARGETS)
    unit: str = knob("piece", "what is noise as a whole", choices=WORDS["unit"])
    mean_span_length: float = knob(0.0, "units in a span; 0: 3, geometric 5", min=0.0, max=1e3)
    max_span_length: int = knob(0, "of geometric and poisson; 0: no limit", min=0)
    random: float = knob(0.1, "inputs=bert: share of the noise that is random", min=0.0, max=1.0)
    keep: float = knob(0.1, "inputs=bert: share of the noise that is kept", min=0.0, max=1.0)
    max_spans: int = knob(0, "inputs=sentinel: spans of a row, which is shorter then", min=0)
    closed_documents: int = knob(1, "documents of a row whose spans end in [EOS]", min=1)

    def __post_init__(self):
        check(self)

    @property
    def unfit(self) -> dict[str, str]:
        return unfit(self)

    @property
    def architectures(self) -> tuple[str, ...]:
        return tuple(a for a in ARCHITECTURES if a not in self.unfit)

    @property
    def irreversible(self) -> str:
        return irreversible(self)

    @property
    def mean(self) -> float:
        """Units in a span, as asked for."""
        return self.mean_span_length or PATTERNS[self.pattern]

    def describe(self, setting: Setting) -> str:
        return f"{super().describe(setting)}; {spell(self, Denoising)}"

    @property
    def _chances(self) -> np.ndarray:
        zero = self.inputs == "mask_span"  # elsewhere a span of no length leaves no trace
        return chances_of(self.pattern, self.mean, self.max_span_length, zero)

    # ---- How long a row may be -------------------------------------------------------------------

    def _noise(self, tokens: int) -> int:
        """Pieces of noise among so many."""
        return noise_count(self.noise_density, tokens)

    def _spans(self, tokens: int) -> int:
        """Spans among so many tokens: exactly for pattern=span, else at most."""
        noise = self._noise(tokens)
        if self.pattern == "iid" or not noise:
            return noise
        if self.pattern == "span":
            return max(1, round(noise / self.mean))
        mean = np.arange(len(self._chances)) @ self._chances
        return min(noise, math.ceil(2 * noise / mean) + 3)  # three deviations and more

    def _lengths(self, tokens: int) -> tuple[int, int]:
        """(inputs, targets) of a typed row of so many tokens: at most; exactly for T5's spans, as
        seqio's random_spans_helper has them."""
        noise, cuts = self._noise(tokens), self._spans(tokens)
        if self.inputs in IN_PLACE or self.unit == "word":  # words need not fill their share
            inputs = tokens + 1
        else:
            inputs = tokens - noise + (self.inputs != "drop") * cuts + 1
        if self.targets == "full":
            return inputs, tokens
        return inputs, noise + (self.inputs == "sentinel") * cuts + self.closed_documents

    def shapes(self, setting: Setting) -> Shapes:
        masks = self.inputs in ("mask", "mask_span") or (self.inputs == "bert" and self._masks > 0)
        setting.require(*["mask"] * masks)
        if self.unit == "word" and not setting.vocabulary.joins:
            raise ValueError(
                "unit=word: the tokenizer does not tell where words begin; "
                "expected WordPiece, byte-level BPE or Unigram, or unit=piece"
            )
        T = setting.length
        if setting.architecture == "encoder":
            targets = self._noise(T) if self.targets == "masked" else T
            return Shapes(raw=T, inputs=T, targets=targets, overlap=1)
        raw = 1
        while self._fits(setting, raw + 1):
            raw += 1
        if raw < 2:
            raise ValueError(
                f"length {T} is too short for {self.name} with noise_density={self.noise_density}: "
                "expected room for a few tokens; raise it"
            )
        cuts, sentinels = self._spans(raw), len(setting.vocabulary.sentinels)
        if self.inputs == "sentinel" and cuts > sentinels:
            raise ValueError(
                f"length {T} has {cuts} spans a row but the tokenizer has {sentinels} sentinels: "
                f"raise mean_span_length, shorten the rows, or set max_spans={sentinels}"
            )
        inputs, targets = self._lengths(raw)
        whole = setting.architecture == "decoder" or self.targets == "spans"
        return Shapes(raw=raw, inputs=T if whole else inputs, targets=targets, overlap=0)

    def _fits(self, setting, tokens):
        inputs, targets = self._lengths(tokens)
        if self._spans(tokens) > (self.max_spans or tokens):
            return False
        if setting.architecture == "decoder":  # it reads all but the last token of both together
            return inputs + targets <= setting.length + 1
        return max(inputs, targets) <= setting.length

    def targets_expected(self, setting: Setting) -> float:
        shapes = self.shapes(setting)
        if setting.architecture == "encoder":
            pieces = setting.length - 2  # [CLS] and [SEP]
            return self._noise(pieces) if self.targets == "masked" else pieces
        if self.targets == "full" or self.inputs != "sentinel":
            return shapes.targets
        noise, exact = self._noise(shapes.raw), self.pattern == "span"
        runs = noise * (shapes.raw - noise + 1) / shapes.raw  # of so many among so many
        apart = runs if self.pattern == "iid" else noise / self.mean
        return shapes.targets - (0 if exact else self._spans(shapes.raw) - apart)

    # ---- What becomes of a row -------------------------------------------------------------------

    @property
    def program(self) -> Hashable:
        read = {"noise_density", "max_spans", "closed_documents"}
        if self.pattern in ("iid", "span"):
            read.add("mean_span_length")
        return type(self), tuple(getattr(self, f.name) for f in fields(self) if f.name not in read)

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        """As `corrupt_one_of`, which is what a subclass changes."""
        return self.corrupt_one_of((self,), 0, setting, key, row)

    def corrupt_one_of(self, members, which, setting, key, row) -> Batch:
        """What the members differ in is how much noise a row has, in how many spans."""
        shapes = [member.shapes(setting) for member in members]
        most = max(m._spans(s.raw) for m, s in zip(members, shapes, strict=True))
        shapes = Shapes.largest(shapes)
        vocabulary, typing = setting.vocabulary, setting.architecture != "encoder"
        noise_key, how_key = jax.random.split(key)
        segments = documents(row, vocabulary, setting.architecture)
        eligible = ordinary(row, vocabulary)
        counted = (segments > 0) if typing else eligible  # what noise_density is a share of
        tokens = counted.sum(dtype=jnp.int32)
        budget, cuts = (
            count_of(tokens, len(row), *rules, which=which)
            for rules in ([m._noise for m in members], [m._spans for m in members])
        )
        noise = self._drawn(setting, noise_key, row, eligible, budget, cuts, most)
        shown = self._shown(setting, how_key, row, segments, noise)
        if not typing:
            return self._in_place(shapes, row, segments, eligible, noise, shown)
        return self._typed(setting, shapes, row, segments, noise, shown)

    def _drawn(self, setting, key, row, eligible, budget, cuts, most) -> Noise:
        """Which of the eligible positions bool[L] are noise: `budget` of them, pattern=span in `cuts`
        spans, int32[] both; spans are at most `most`."""
        if self.pattern == "span":
            return spans(key, eligible, budget, cuts, most)
        word = units(row, eligible, setting.vocabulary) if self.unit == "word" else None
        if self.pattern == "iid":
            return single(key, eligible, budget, word)
        return random_spans(key, eligible, budget, word, self._chances, most)

    @property
    def _masks(self):
        return 1 - self.random - self.keep

    def _shown(self, setting, key, row, segments, noise):
        """int32[L]: the row with its noise corrupted in place; each group of it in one way."""
        if self.inputs == "shuffle":
            return shuffled(key, row, segments, noise.mask)
        shares = {"bert": (self._masks, self.random), "random": (0.0, 1.0)}
        shares = shares.get(self.inputs, (1.0, 0.0))
        shown = altered(key, row, setting.vocabulary, *shares, noise.group)
        return jnp.where(noise.mask, shown, row)

    def _in_place(self, shapes, row, segments, eligible, noise, shown):
        """An encoder's Batch."""
        inputs = sequence_of(shown, segments)
        if self.targets == "full":
            told = eligible.astype(jnp.float32)
            targets = jnp.where(eligible, row, jnp.zeros_like(row))
            return Batch(inputs=inputs, decoder=None, targets=targets, weights=told)
        indices, filled = slots(noise.mask, shapes.targets)
        return Batch(
            inputs=inputs,
            decoder=None,
            targets=jnp.where(filled, row[indices], jnp.zeros_like(indices)),
            weights=filled.astype(jnp.float32),
            indices=indices,
        )

    def _typed(self, setting, shapes, row, segments, noise, shown):
        """The Batch of an architecture that types: a span has one token left in the inputs, at its
        start, or none; the targets have what is noise, or everything."""
        nothing, everything = jnp.full_like(row, -1), jnp.ones_like(noise.mask)
        starts = noise.mask & ~left_of(noise.mask, False)
        inputs = Side(shown, everything, nothing)
        cut_out = self.targets == "spans"
        targets = Side(row, noise.mask if cut_out else everything, nothing)
        if self.inputs in SHORTER:
            stands = ~noise.mask if self.inputs == "drop" else starts | ~noise.mask
            inputs = inputs._replace(keep=stands)
        if self.inputs == "mask_span":  # a span of no length is a mask before a token
            masks = jnp.where(noise.inserted, jnp.int32(setting.vocabulary.mask), nothing)
            inputs = inputs._replace(marks=masks)
        if self.inputs == "sentinel":
            number = jnp.maximum(jnp.cumsum(starts, dtype=jnp.int32) - 1, 0)
            sentinels = jnp.asarray(setting.vocabulary.sentinels, jnp.int32)[number]
            inputs = inputs._replace(tokens=jnp.where(starts, sentinels, row))
            if cut_out:  # which are announced by their sentinels here too
                targets = targets._replace(marks=jnp.where(starts, sentinels, nothing))
        return assembled(setting, shapes, row, segments, inputs, targets, close=cut_out)

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        """The row; of one that was cut for want of room, what was kept and the [EOS] behind it."""
        if self.irreversible:
            return super().inverse(setting, batch)  # which raises
        vocabulary, raw = setting.vocabulary, self.shapes(setting).raw
        if setting.architecture == "encoder":
            row, told = np.array(batch.inputs.tokens), np.asarray(batch.weights) > 0
            where = np.arange(len(row)) if batch.indices is None else np.asarray(batch.indices)
            row[where[told]] = np.asarray(batch.targets)[told]
            return row
        row = []
        for given, typing in sides(setting, batch):
            if self.targets == "full":
                row += typing
            elif self.inputs == "mask":
                pieces = iter(typing)
                row += [next(pieces) if token == vocabulary.mask else token for token in given]
            else:
                row += spans_back(given, typing, vocabulary)
        return padded(row[:raw], raw, vocabulary.pad)  # one more: the [EOS] behind a cut
