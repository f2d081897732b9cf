"""causal_lm: a decoder predicts each next token (GPT; Radford et al. 2018, section 3.1).
An objective of the registry; nothing is drawn, so the key is not used.
Its loss is the likelihood of the text, which bits per byte are made of.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.sequence import sequence_of
from objectives.base import Objective, Setting, Shapes
from objectives.batch import Batch
from objectives.segments import documents


@dataclass(frozen=True)
class CausalLM(Objective):
    """Position i predicts token i + 1 of the same document, [EOS] last. A document's first token
    has nothing before it and is no target: documents are isolated, and there is no start token.

        row               [ 21, 22, 23, 4, 31, 4, 41, 42, 0 ]
        inputs.tokens     [ 21, 22, 23, 4, 31, 4, 41, 42 ]
        inputs.segments   [  1,  1,  1, 1,  2, 2,  3,  3 ]
        inputs.positions  [  0,  1,  2, 3,  0, 1,  0,  1 ]
        targets           [ 22, 23,  4, 31, 4, 41, 42, 0 ]
        weights           [  1,  1,  1, 0,  1, 0,  1,  0 ]
    """

    name: ClassVar[str] = "causal_lm"
    architectures: ClassVar[tuple[str, ...]] = ("decoder",)
    unfit: ClassVar[dict[str, str]] = {
        "encoder": "an encoder sees the token that it would predict; use masked_lm",
        "encoder_decoder": "its encoder would have nothing to read; use prefix_lm",
    }
    likelihood: ClassVar[bool] = True

    def shapes(self, setting: Setting) -> Shapes:
        T = setting.length  # one token more is asked for than is read, and comes again in the next
        return Shapes(raw=T + 1, inputs=T, targets=T, overlap=1)

    def targets_expected(self, setting: Setting) -> float:
        return setting.length

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        segments = documents(row, setting.vocabulary, setting.architecture)
        told = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
        return Batch(
            inputs=sequence_of(row[:-1], segments[:-1], "causal"),
            decoder=None,
            targets=row[1:],
            weights=told.astype(jnp.float32),
        )

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        first = np.asarray(batch.inputs.tokens[:1])
        return np.concatenate([first, np.asarray(batch.targets)])
