"""causal_lm: a decoder predicts each next token (GPT; Radford et al. 2018, section 3.1).
The loss is the negative log likelihood of the text, from which bits per byte are computed.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.inputs import make_inputs
from objectives.base import Objective, ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.document_ids import document_ids


@dataclass(frozen=True)
class CausalLM(Objective):
    """Position i predicts token i + 1 of the same document, including the final [EOS]. The first
    token of a document is not a target, because documents are isolated and have no start token.

        row                 [ 21, 22, 23, 4, 31, 4, 41, 42, 0 ]
        inputs.tokens       [ 21, 22, 23, 4, 31, 4, 41, 42 ]
        inputs.segment_ids  [  1,  1,  1, 1,  2, 2,  3,  3 ]
        inputs.positions    [  0,  1,  2, 3,  0, 1,  0,  1 ]
        targets             [ 22, 23,  4, 31, 4, 41, 42, 0 ]
        loss_weights        [  1,  1,  1, 0,  1, 0,  1,  0 ]
    """

    name: ClassVar[str] = "causal_lm"
    unsupported: ClassVar[dict[str, str]] = {
        "encoder": "an encoder sees the token it would predict; use masked_lm",
        "encoder_decoder": "its encoder would have no input; use prefix_lm",
    }
    is_likelihood: ClassVar[bool] = True

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        T = spec.seq_len  # the last raw token is only a target, and the next row starts with it
        return SequenceLengths(raw=T + 1, inputs=T, targets=T, overlap=1)

    def expected_num_targets(self, spec: ObjectiveSpec) -> float:
        return spec.seq_len

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        segment_ids = document_ids(row, spec.vocabulary, spec.architecture)
        is_target = (segment_ids[1:] == segment_ids[:-1]) & (segment_ids[1:] > 0)
        return Batch(
            inputs=make_inputs(row[:-1], segment_ids[:-1], "causal"),
            targets=row[1:],
            loss_weights=is_target.astype(jnp.float32),
        )

    def reconstruct(self, spec: ObjectiveSpec, batch: Batch) -> np.ndarray:
        first = np.asarray(batch.inputs.tokens[:1])
        return np.concatenate([first, np.asarray(batch.targets)])
