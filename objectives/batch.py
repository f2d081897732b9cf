"""Batch: what one step reads, the sequences of a model with the targets of a loss.
Made by an objective's `corrupt` (one row, `vmap` adds the batch axis) or by a task.
Weights travel beside targets, so that padding and rounding never enter an average.
"""

import jax
from flax import struct

from models.sequence import Sequence


@struct.dataclass
class Batch:
    """Sequences and targets. The worked example is masked_lm's: a row of two documents, of three
    pieces and of one, and a position of padding, with [PAD] 0, [CLS] 2, [SEP] 3, [MASK] 5; a third
    of the positions has slots (3 of 9), but only a third of the four pieces (1) is a target:

        row               [ 2, 21, 22, 23, 3, 2, 31, 3, 0 ]
        inputs.tokens     [ 2, 21,  5, 23, 3, 2, 31, 3, 0 ]
        inputs.segments   [ 1,  1,  1,  1, 1, 2,  2, 2, 0 ]
        inputs.positions  [ 0,  1,  2,  3, 4, 0,  1, 2, 0 ]
        indices           [ 2,  0,  0 ]
        targets           [22,  0,  0 ]
        weights           [ 1,  0,  0 ]

    N is static; what a row does not fill has weight 0, and there target and index are 0.
    """

    inputs: Sequence  # [B,T]; the encoder's, where there are two
    decoder: Sequence | None  # [B,U] of an encoder-decoder, else None
    targets: jax.Array  # int32[B,N] the piece to be predicted, or a class
    weights: jax.Array  # float32[B,N] its part in the loss; 0 = not a target
    indices: jax.Array | None = (
        None  # int32[B,N] whose hidden state predicts it; None: N = T (or U)
    )
    labels: jax.Array | None = None  # int32[B] class of a whole row; -1 = it has none
    draws: jax.Array | None = None  # float32[B,N] in [0, 1): what is sampled for a target, by it
    # Half-open ranges of ids that may be sampled (Vocabulary.ordinary); static.
    ordinary: tuple[tuple[int, int], ...] = struct.field(pytree_node=False, default=())
    noise: jax.Array | None = None  # int32[B,M] pieces that targets are told from (skip_gram)
