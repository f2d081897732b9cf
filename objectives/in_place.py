"""The Batch of a model that reads a whole row, corrupted in place, and predicts the tokens at its positions.
Last step of the denoisers for encoders, and of masked next-token prediction for decoders.
"""

import jax
import jax.numpy as jnp
import numpy as np

from models.inputs import ModelInputs
from objectives.batch import Batch
from objectives.noise import select_positions


def full_batch(inputs: ModelInputs, row: jax.Array, eligible: jax.Array) -> Batch:
    """The Batch that predicts every eligible token bool[T] of row int32[T] at its position."""
    targets = jnp.where(eligible, row, jnp.zeros_like(row))
    return Batch(inputs=inputs, targets=targets, loss_weights=eligible.astype(jnp.float32))


def in_place_batch(
    inputs: ModelInputs, row: jax.Array, noise: jax.Array, size: int, is_next: bool
) -> Batch:
    """The Batch that predicts the noise bool[T] of row int32[T], at most `size` tokens (static): at their
    positions, or with `is_next` at the positions before them."""
    positions, filled = select_positions(noise, size)
    shift = (filled & is_next).astype(jnp.int32)
    return Batch(
        inputs=inputs,
        targets=jnp.where(filled, row[positions], jnp.zeros_like(positions)),
        loss_weights=filled.astype(jnp.float32),
        target_positions=positions - shift,
    )


def restore_in_place(batch: Batch, is_next: bool) -> np.ndarray:
    """The row int32[T] of one of these Batches, on the host."""
    row, predicted = np.array(batch.inputs.tokens), np.asarray(batch.loss_weights) > 0
    positions = batch.target_positions
    positions = np.arange(len(row)) if positions is None else np.asarray(positions)
    row[positions[predicted] + is_next] = np.asarray(batch.targets)[predicted]
    return row
