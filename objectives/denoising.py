"""Denoising: corrupts a text and predicts the original text, or only its corrupted tokens (the noise).
Denoisers are written <pattern>_<density>_<inputs>_<targets>, the arguments of T5's `denoise`; named.py
has published ones.
Read next: patterns.py (which tokens are noise), seq2seq.py (Batches of decoders and encoder-decoders).
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import option
from models.inputs import make_inputs
from objectives import grammar, patterns
from objectives.base import Objective, ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.document_ids import document_ids, is_regular_token, left_of
from objectives.in_place import full_batch, in_place_batch, restore_in_place
from objectives.noise import lookup_count, noise_count, replace_tokens, shuffle_tokens
from objectives.seq2seq import Side, build_batch, document_pairs, pad_row, restore_spans


@dataclass(frozen=True)
class Denoising(Objective):
    """A denoiser, defined by four words and further options; docs/objectives.md has examples.

    pattern   which tokens are noise: iid (single tokens or words, chosen uniformly), span (T5: a fixed
              number of spans), geometric or poisson (spans with lengths from that distribution)
    density   the share of noise: of the regular tokens in a row if the inputs keep their positions
              (encoders, targets=next); otherwise of all its tokens, as in T5
    inputs    what replaces the noise: mask ([MASK] for each token), random (random tokens), bert (most
              [MASK], some random, some unchanged), shuffle (the noise in random order within its
              document), mask_span (one [MASK] per span), sentinel (a different one for each
              span), drop (nothing)
    targets   masked (an encoder predicts the noise in place), next (a bidirectional decoder predicts
              it at the position before), full (the whole text), spans (only the noise, each
              span after its sentinel if the inputs have sentinels)

    With noise_density 0.4, mean_noise_span_length 1.5 and max_target_eos 2, for an encoder-decoder with
    T 8, sentinels 13 and 14 and start token 6, where the noise is 22 23 and 32:

        row                         [ 21, 22, 23, 24, 4, 31, 32, 33 ]
        inputs.tokens               [ 21, 13, 24,  4, 31, 14, 33,  4 ]
        inputs.segment_ids          [  1,  1,  1,  1,  2,  2,  2,  2 ]
        decoder_inputs.tokens       [  6, 13, 22, 23,  6, 14, 32 ]
        decoder_inputs.segment_ids  [  1,  1,  1,  1,  2,  2,  2 ]
        targets                     [ 13, 22, 23,  4, 14, 32,  4 ]
        loss_weights                [  1,  1,  1,  1,  1,  1,  1 ]
    """

    name: ClassVar[str] = "denoising"

    pattern: str = option("span", "which tokens are noise", choices=grammar.WORDS["pattern"])
    noise_density: float = option(0.15, "share of tokens that are noise", min=0.001, max=1.0)
    inputs: str = option("sentinel", "what replaces noise", choices=grammar.WORDS["inputs"])
    targets: str = option("spans", "tokens to predict", choices=grammar.TARGETS)
    whole_word: bool = option(False, "noise consists of whole words")
    mean_noise_span_length: float = option(
        0.0, "tokens (or whole words) per span; 0: 5 for geometric, else 3", min=0.0, max=1e3
    )
    max_span_length: int = option(0, "for geometric and poisson; 0: no limit", min=0)
    random_token_prob: float = option(
        0.1, "inputs=bert: share of noise replaced by random tokens", min=0.0, max=1.0
    )
    keep_token_prob: float = option(
        0.1, "inputs=bert: share of noise left unchanged", min=0.0, max=1.0
    )
    max_sentinels: int = option(0, "inputs=sentinel: limit per row; 0: no limit", min=0)
    max_target_eos: int = option(
        1, "targets=spans: target slots per row reserved for [EOS], one per document", min=1
    )

    def __post_init__(self):
        grammar.check(self)

    @property
    def unsupported(self) -> dict[str, str]:
        return grammar.unsupported_architectures(self)

    @property
    def not_invertible_because(self) -> str:
        return grammar.lost_information(self)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens, or of whole words, in a span, before max_span_length truncates the
        distribution."""
        return self.mean_noise_span_length or grammar.PATTERNS[self.pattern]

    def describe(self, spec: ObjectiveSpec) -> str:
        return f"{super().describe(spec)}; {grammar.format_denoiser(self, Denoising)}"

    @property
    def _length_probs(self) -> np.ndarray:
        empty = self.inputs == "mask_span"  # other inputs would not show an empty span
        return patterns.length_probs(self.pattern, self.mean_length, self.max_span_length, empty)

    @property
    def fills_masks(self) -> bool:
        """Whether the inputs have [MASK]s, whose text the model predicts."""
        return self.inputs in ("mask", "mask_span") or (
            self.inputs == "bert" and self._mask_prob > 0
        )

    @property
    def _mask_prob(self):
        return 1 - self.random_token_prob - self.keep_token_prob

    # ---- Lengths ---------------------------------------------------------------------------------

    def _num_noise(self, num_tokens: int) -> int:
        return noise_count(self.noise_density, num_tokens)

    def _num_spans(self, num_tokens: int) -> int:
        """Number of spans in a row of `num_tokens` tokens: exact for pattern=span, else an upper bound."""
        num_noise = self._num_noise(num_tokens)
        if self.pattern == "iid" or not num_noise:
            return num_noise
        if self.pattern == "span":
            return max(1, round(num_noise / self.mean_length))
        mean = np.arange(len(self._length_probs)) @ self._length_probs
        return min(
            num_noise, math.ceil(2 * num_noise / mean) + 3
        )  # at least three standard deviations

    def _side_lengths(self, num_tokens: int) -> tuple[int, int]:
        """Maximum lengths of (inputs, targets) for a row of `num_tokens` tokens and a model that
        generates; exact for pattern=span, as in T5's random_spans_helper."""
        num_noise, num_spans = self._num_noise(num_tokens), self._num_spans(num_tokens)
        if self.inputs in grammar.IN_PLACE or self.whole_word:  # words may leave part of the budget
            inputs = num_tokens + 1
        else:
            inputs = num_tokens - num_noise + (self.inputs != "drop") * num_spans + 1
        if self.targets == "full":
            return inputs, num_tokens
        return inputs, num_noise + (self.inputs == "sentinel") * num_spans + self.max_target_eos

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        if self.fills_masks:
            spec.require("mask")
        if self.whole_word and not spec.vocabulary.word_continuation:
            raise ValueError(
                "whole_word=True: the tokenizer does not define word boundaries; expected "
                "WordPiece, byte-level BPE or Unigram, or whole_word=False"
            )
        T = spec.seq_len
        if self._keeps_positions(spec):
            targets = T if self.targets == "full" else self._num_noise(T)
            return SequenceLengths(raw=T, inputs=T, targets=targets, overlap=1)
        raw = 1
        while self._fits(spec, raw + 1):
            raw += 1
        if raw < 2:
            raise ValueError(
                f"seq_len={T} is too short for {self.name} with noise_density={self.noise_density}: "
                "expected space for a few tokens; raise seq_len"
            )
        spans, sentinels = self._num_spans(raw), len(spec.vocabulary.sentinels)
        if self.inputs == "sentinel" and spans > sentinels:
            raise ValueError(
                f"seq_len={T} has {spans} spans per row, but the tokenizer has {sentinels} sentinels: "
                f"raise mean_noise_span_length, lower seq_len, or set max_sentinels={sentinels}"
            )
        inputs, targets = self._side_lengths(raw)
        if spec.architecture == "decoder" or self.targets == "spans":
            inputs = T
        return SequenceLengths(raw=raw, inputs=inputs, targets=targets, overlap=0)

    def _fits(self, spec, tokens):
        inputs, targets = self._side_lengths(tokens)
        if self._num_spans(tokens) > (self.max_sentinels or tokens):
            return False
        if spec.architecture == "decoder":  # reads inputs and targets, except for the last token
            return inputs + targets <= spec.seq_len + 1
        return max(inputs, targets) <= spec.seq_len

    def expected_num_targets(self, spec: ObjectiveSpec) -> float:
        if self._keeps_positions(spec):  # all but [CLS] and [SEP], or the first token
            tokens = spec.seq_len - (2 if spec.architecture == "encoder" else 1)
            return tokens if self.targets == "full" else self._num_noise(tokens)
        lengths = self.lengths(spec)
        if self.targets == "full" or self.inputs != "sentinel" or self.pattern == "span":
            return lengths.targets
        raw, noise = lengths.raw, self._num_noise(lengths.raw)
        # The mean number of runs that `noise` random positions among `raw` form.
        mean_runs = noise * (raw - noise + 1) / raw
        spans = mean_runs if self.pattern == "iid" else noise / self.mean_length
        return lengths.targets - (self._num_spans(raw) - spans)

    # ---- Corruption ------------------------------------------------------------------------------

    @property
    def branch_key(self) -> Hashable:
        looked_up = {"noise_density", "max_sentinels", "max_target_eos"}
        if self.pattern in ("iid", "span"):
            looked_up.add("mean_noise_span_length")
        values = (getattr(self, f.name) for f in fields(self) if f.name not in looked_up)
        return type(self), tuple(values)

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        return self.corrupt_component((self,), 0, spec, rng, row)

    def corrupt_component(self, components, index, spec, rng, row) -> Batch:
        """The components differ only in the numbers of noise tokens and of spans in a row."""
        lengths = [component.lengths(spec) for component in components]
        max_num_spans = max(c._num_spans(n.raw) for c, n in zip(components, lengths, strict=True))
        lengths = SequenceLengths.max_of(lengths)
        vocabulary, keeps_positions = spec.vocabulary, self._keeps_positions(spec)
        noise_rng, corrupt_rng = jax.random.split(rng)
        segment_ids = document_ids(row, vocabulary, spec.architecture)
        eligible = is_regular_token(row, vocabulary)
        if self.targets == "next":
            word_vocabulary = vocabulary if self.whole_word else None
            eligible = patterns.without_first(row, eligible, segment_ids, word_vocabulary)
        counted = eligible if keeps_positions else segment_ids > 0  # noise_density: share of these
        num_tokens = counted.sum(dtype=jnp.int32)
        budget, num_spans = (
            lookup_count(num_tokens, len(row), *rules, index=index)
            for rules in ([c._num_noise for c in components], [c._num_spans for c in components])
        )
        noise = self._draw_noise(spec, noise_rng, row, eligible, budget, num_spans, max_num_spans)
        corrupted = self._corrupt_in_place(spec, corrupt_rng, row, segment_ids, noise)
        if keeps_positions:
            inputs, is_next = make_inputs(corrupted, segment_ids), self.targets == "next"
            if self.targets == "full":
                return full_batch(inputs, row, eligible)
            return in_place_batch(inputs, row, noise.mask, lengths.targets, is_next)
        return self._seq2seq_batch(spec, lengths, row, segment_ids, noise, corrupted)

    def _keeps_positions(self, spec):
        """Whether the inputs are the row with its noise corrupted in place, and nothing else."""
        return spec.architecture == "encoder" or self.targets == "next"

    def _draw_noise(self, spec, rng, row, eligible, budget, num_spans, max_num_spans):
        """-> Noise: `budget` int32[] of the eligible positions bool[L]; for pattern=span in `num_spans`
        int32[] spans. `max_num_spans` is static."""
        if self.pattern == "span":
            return patterns.fixed_number_of_spans(rng, eligible, budget, num_spans, max_num_spans)
        word = patterns.word_ids(row, eligible, spec.vocabulary) if self.whole_word else None
        if self.pattern == "iid":
            return patterns.iid_noise(rng, eligible, budget, word)
        probs = self._length_probs
        return patterns.random_length_spans(rng, eligible, budget, word, probs, max_num_spans)

    def _corrupt_in_place(self, spec, rng, row, segment_ids, noise):
        """int32[L]: the row with each noise token masked, replaced, shuffled or unchanged."""
        if self.inputs == "shuffle":
            return shuffle_tokens(rng, row, segment_ids, noise.mask)
        probs = {"bert": (self._mask_prob, self.random_token_prob), "random": (0.0, 1.0)}
        probs = probs.get(self.inputs, (1.0, 0.0))
        corrupted = replace_tokens(rng, row, spec.vocabulary, *probs, noise.group)
        return jnp.where(noise.mask, corrupted, row)

    def _seq2seq_batch(self, spec, lengths, row, segment_ids, noise, corrupted):
        """The inputs are `corrupted`; if they are in grammar.SHORTER, this function removes the noise from
        them. The targets are the noise or the whole row."""
        none, everything = jnp.full_like(row, -1), jnp.ones_like(noise.mask)
        starts = noise.mask & ~left_of(noise.mask, False)
        only_noise = self.targets == "spans"
        inputs = Side(corrupted, everything, none)
        targets = Side(row, noise.mask if only_noise else everything, none)
        if self.inputs in grammar.SHORTER:
            keep = ~noise.mask if self.inputs == "drop" else starts | ~noise.mask
            inputs = inputs._replace(keep=keep)
        if self.inputs == "mask_span":  # an empty span becomes a [MASK] before a token
            masks = jnp.where(noise.empty_before, jnp.int32(spec.vocabulary.mask), none)
            inputs = inputs._replace(inserted=masks)
        if self.inputs == "sentinel":
            number = jnp.maximum(jnp.cumsum(starts, dtype=jnp.int32) - 1, 0)
            sentinels = jnp.asarray(spec.vocabulary.sentinels, jnp.int32)[number]
            inputs = inputs._replace(tokens=jnp.where(starts, sentinels, row))
            if only_noise:  # each span follows its sentinel
                targets = targets._replace(inserted=jnp.where(starts, sentinels, none))
        return build_batch(spec, lengths, row, segment_ids, inputs, targets, add_eos=only_noise)

    def reconstruct(self, spec: ObjectiveSpec, batch: Batch) -> np.ndarray:
        """The row; if it was cut, the part that was kept, followed by an [EOS]."""
        if self.not_invertible_because:
            return super().reconstruct(spec, batch)  # raises
        vocabulary, raw = spec.vocabulary, self.lengths(spec).raw
        if self._keeps_positions(spec):
            return restore_in_place(batch, self.targets == "next")
        row = []
        for inputs, targets in document_pairs(spec, batch):
            if self.targets == "full":
                row += targets
            elif self.inputs == "mask":
                noise = iter(targets)
                row += [next(noise) if token == vocabulary.mask else token for token in inputs]
            else:
                row += restore_spans(inputs, targets, vocabulary)
        return pad_row(row[:raw], raw, vocabulary.pad)  # an [EOS] after a cut may exceed `raw`
