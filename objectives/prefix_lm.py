"""prefix_lm: the model reads the start of each document and generates the rest (Liu et al. 2018).
For decoders and encoder-decoders. Each document is split at a uniform random position, as in T5 (Raffel
et al. 2020, section 3.2.3).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import option
from models.inputs import make_inputs
from objectives.base import Objective, ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.document_ids import document_ids, document_lengths
from objectives.noise import lookup_count
from objectives.seq2seq import compact, document_pairs, pad_row, seq2seq_batch


@dataclass(frozen=True)
class PrefixLM(Objective):
    """Splits the n tokens of each document in the row into a prefix and targets. The number of
    targets is uniform on 1..n-1, or on a shorter range whose mean is `noise_density` * n. A document
    of one token has no target.

    A decoder reads the row unchanged, with bidirectional attention within each prefix. An
    encoder-decoder encodes the prefixes, each with a final [EOS] as in finetuning, and generates the
    rest of each document. Encoder and decoder both have length T, because a split can fall anywhere, so
    half of the positions are padding on average. With T 8 and documents of two tokens:

        row                         [ 21, 4, 31, 4, 41, 42, 0, 0 ]
        inputs.tokens               [ 21, 4, 31, 4, 41,  4, 0, 0 ]
        inputs.segment_ids          [  1, 1,  2, 2,  3,  3, 0, 0 ]
        decoder_inputs.tokens       [  6, 6,  6, 0,  0,  0, 0, 0 ]
        decoder_inputs.segment_ids  [  1, 2,  3, 0,  0,  0, 0, 0 ]
        targets                     [  4, 4, 42, 0,  0,  0, 0, 0 ]
        loss_weights                [  1, 1,  1, 0,  0,  0, 0, 0 ]
    """

    name: ClassVar[str] = "prefix_lm"
    unsupported: ClassVar[dict[str, str]] = {
        "encoder": "an encoder does not generate text; use masked_lm"
    }

    noise_density: float = option(
        0.5, "mean share of a document that is generated", min=0.001, max=0.5
    )

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        T = spec.seq_len
        if spec.architecture == "decoder":  # reads all but the last token, as causal_lm does
            return SequenceLengths(raw=T + 1, inputs=T, targets=T, overlap=1)
        return SequenceLengths(raw=T, inputs=T, targets=T, overlap=0)

    def expected_num_targets(self, spec: ObjectiveSpec) -> float:
        return self.lengths(spec).raw * self.noise_density

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        vocabulary, row_lengths = spec.vocabulary, self.lengths(spec)
        segment_ids = document_ids(row, vocabulary, spec.architecture)
        position = make_inputs(row, segment_ids).positions
        length = document_lengths(segment_ids)
        max_targets = lookup_count(
            length, row.shape[0], lambda n: max(1, round(2 * self.noise_density * n) - 1)
        )
        num_targets = jax.random.randint(rng, length.shape, 1, max_targets + 1)
        split = jnp.maximum(length - num_targets, 1)[segment_ids]
        real = segment_ids > 0
        is_target, input_tokens = real & (position >= split), row
        if spec.architecture == "decoder":  # the last token is not an input, so it is a target
            is_target = is_target.at[-1].set(real[-1])
        is_input = real & ~is_target
        if spec.architecture == "encoder_decoder":  # [EOS] takes the place of the first target
            input_tokens = jnp.where(is_input, row, vocabulary.eos)
            is_input = real & (position <= split)
        return seq2seq_batch(
            spec,
            compact(is_input, row_lengths.inputs, input_tokens, segment_ids, vocabulary.pad),
            compact(is_target, row_lengths.targets, row, segment_ids, vocabulary.pad),
        )

    def reconstruct(self, spec: ObjectiveSpec, batch: Batch) -> np.ndarray:
        pad = spec.vocabulary.pad
        if spec.architecture == "encoder_decoder":
            row = []
            for prefix, targets in document_pairs(spec, batch):
                row += prefix[:-1] + targets if targets else prefix
            return pad_row(row, spec.seq_len, pad)
        row = np.append(batch.inputs.tokens, np.int32(pad))
        # The last target is not an input if the last position predicts it, or if it is the first token
        # of a document (weight 0).
        filled = np.flatnonzero(batch.targets != pad)
        not_read = (batch.target_positions == spec.seq_len - 1) | (batch.loss_weights == 0)
        if filled.size and not_read[filled[-1]]:
            row[-1] = batch.targets[filled[-1]]
        return row
