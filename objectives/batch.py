"""Batch: the input of a training loss, with model inputs, targets and the weight of each target.
An objective's `corrupt` makes it (for one row; `vmap` adds the batch axis), or a task does.
Padding and empty slots have weight 0, so they never affect a mean.
"""

import jax
import jax.numpy as jnp
from flax import struct

from models.inputs import ModelInputs
from objectives.packing import Packing


@struct.dataclass(kw_only=True)
class Batch:
    """Model inputs and targets. Example: masked_lm on a row with a document of three tokens, a
    document of one token, and padding. [PAD] is 0, [CLS] 2, [SEP] 3, [MASK] 5. With noise_density
    1/3, N is a third of the 9 positions (3), and a third of the 4 regular tokens are targets (1):

        row                 [  2, 21, 22, 23, 3, 2, 31, 3, 0 ]
        inputs.tokens       [  2, 21,  5, 23, 3, 2, 31, 3, 0 ]
        inputs.segment_ids  [  1,  1,  1,  1, 1, 2,  2, 2, 0 ]
        inputs.positions    [  0,  1,  2,  3, 4, 0,  1, 2, 0 ]
        target_positions    [  2,  0,  0 ]
        targets             [ 22,  0,  0 ]
        loss_weights        [  1,  0,  0 ]

    N, the number of target slots, is static. An empty slot has loss weight 0, target 0 and target
    position 0.

    Axes: B rows, T positions of `inputs`, U of `decoder_inputs` (in models/, T of the decoder and S of the
    encoder), N target slots, M negative samples (axis N in models/).
    """

    inputs: ModelInputs  # [B,T]; the encoder inputs of an encoder-decoder
    decoder_inputs: ModelInputs | None = None  # [B,U]; encoder-decoder only
    # int32[B,N] token to predict; in labeled tasks also a class, a position, or a float32 value.
    targets: jax.Array
    loss_weights: jax.Array  # float32[B,N] weight in the loss; 0 = not a target
    # int32[B,N] position of the hidden state that predicts each target; None: N is T (or U), and
    # state i predicts target i.
    target_positions: jax.Array | None = None
    labels: jax.Array | None = None  # int32[B] class of the whole row; -1 = none
    # replaced_token_detection: float32[B,N] in [0, 1), from which the generator's tokens are sampled,
    # and the half-open ranges of ids that may be sampled (static).
    sampling_uniforms: jax.Array | None = None
    regular_token_ranges: tuple[tuple[int, int], ...] = struct.field(pytree_node=False, default=())
    packing: Packing | None = None  # labeled tasks: where the examples of a packed row are
    # A mixture with sample_per=batch (static): ((number of target slots, share of the batches whose component
    # has that many), ...), ascending. A batch uses only its first slots, as many as the component that was
    # drawn for it has.
    slot_shares: tuple[tuple[int, float], ...] = struct.field(pytree_node=False, default=())
    negatives: jax.Array | None = None  # skip_gram: int32[B,M] negative samples

    def pad_decoder(self, multiple: int) -> "Batch":
        """Pads U to a multiple of `multiple` with padding positions; a packed Batch is returned unchanged."""
        if self.decoder_inputs is None or self.packing is not None:
            return self
        padding = ((0, 0), (0, -self.decoder_inputs.tokens.shape[1] % multiple))
        changed = {"decoder_inputs": self.decoder_inputs}
        if self.target_positions is None:
            changed |= {"targets": self.targets, "loss_weights": self.loss_weights}
        return self.replace(**jax.tree.map(lambda x: jnp.pad(x, padding), changed))


def without_negative_ids(batch: Batch) -> Batch:
    """Replaces padding id -1 (of a vocabulary without a padding token) by token 0.

    Segment 0 and loss weight 0 still mark it as padding."""

    def inputs(side):
        return side and side.replace(tokens=jnp.maximum(side.tokens, jnp.int32(0)))

    return batch.replace(
        inputs=inputs(batch.inputs),
        decoder_inputs=inputs(batch.decoder_inputs),
        targets=jnp.maximum(batch.targets, jnp.int32(0)),
    )
