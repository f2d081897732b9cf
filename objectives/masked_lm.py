"""masked_lm: an encoder restores pieces that were masked (BERT; Devlin et al. 2019, section 3.1).
An objective of the registry; `corrupt` runs inside the jitted step, once per row.
The output head runs on the masked positions alone: N static slots, not T.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.sequence import sequence_of
from objectives.base import Objective, Setting, Shapes, knob
from objectives.batch import Batch
from objectives.noise import masked_pieces
from objectives.segments import documents


@dataclass(frozen=True)
class MaskedLM(Objective):
    """`rate` of a row's ordinary pieces are targets; of these most show [MASK], some a random
    ordinary piece, some themselves. Special tokens are neither chosen nor drawn."""

    name: ClassVar[str] = "masked_lm"
    architectures: ClassVar[tuple[str, ...]] = ("encoder",)
    unfit: ClassVar[dict[str, str]] = {
        "decoder": "a decoder does not see what stands behind the mask; it types",
        "encoder_decoder": "a decoder that types only masked pieces does span_corruption",
    }

    rate: float = knob(0.15, "share of the pieces that are targets", min=0.001, max=1.0)
    mask: float = knob(0.8, "share of the targets that show [MASK]", min=0.0, max=1.0)
    random: float = knob(0.1, "share that show a random piece", min=0.0, max=1.0)
    keep: float = knob(0.1, "share that show themselves", min=0.0, max=1.0)

    def __post_init__(self):
        total = self.mask + self.random + self.keep
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"mask={self.mask}, random={self.random}, keep={self.keep} sum to {total:.6g}: "
                "expected 1; set all three"
            )

    def shapes(self, setting: Setting) -> Shapes:
        setting.require("mask")
        T = setting.length
        return Shapes(raw=T, inputs=T, targets=self._count(T), overlap=1)

    def targets_expected(self, setting: Setting) -> float:
        return round(self.rate * (setting.length - 2))  # [CLS] and [SEP]

    def _count(self, pieces: int) -> int:
        return max(1, round(self.rate * pieces)) if pieces else 0

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        """Exactly max(1, round(rate x pieces)) targets of `row` int32[T] (none without pieces)."""
        vocabulary, size = setting.vocabulary, self.shapes(setting).targets
        shown, targets, indices, filled = masked_pieces(
            key, row, vocabulary, self._count, size, self.random, self.keep
        )
        return Batch(
            inputs=sequence_of(shown, documents(row, vocabulary, setting.architecture)),
            decoder=None,
            targets=targets,
            weights=filled.astype(jnp.float32),
            indices=indices,
        )

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        row = np.array(batch.inputs.tokens)
        told = np.asarray(batch.weights) > 0
        row[np.asarray(batch.indices)[told]] = np.asarray(batch.targets)[told]
        return row
