"""Packing: the model reads several examples in one row, isolated from each other by segment ids.

A Batch of a labeled task keeps its examples apart, [B, T]; `apply_packed` moves their tokens into fewer
rows for the model, and its hidden states back. So losses, heads and metrics do not depend on it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from models.inputs import ModelInputs


@struct.dataclass(kw_only=True)
class Packing:
    """Where the B examples of a batch are in the R packed rows. An encoder-decoder has an example in the
    same row of `inputs` and of `decoder_inputs`."""

    rows: jax.Array  # int32[B] the packed row of each example, 0 .. R - 1
    offsets: jax.Array  # int32[B] its first position there in `inputs`
    decoder_offsets: jax.Array  # int32[B] its first position there in `decoder_inputs`
    num_rows: int = struct.field(pytree_node=False)  # R
    width: int = struct.field(pytree_node=False)  # of a packed row of `inputs`
    decoder_width: int = struct.field(pytree_node=False)  # of one of `decoder_inputs`


def apply_packed(apply: Callable, batch) -> jax.Array:
    """The last hidden states of the rows of a Batch, by apply(inputs, decoder_inputs): [B, T, D] of its
    inputs, or [B, U, D] of its decoder inputs. States of padding may have any value."""
    packing = batch.packing
    if packing is None:
        return apply(batch.inputs, batch.decoder_inputs)
    # The layout of the inputs whose hidden states are returned: the decoder's, if there is one.
    layout = batch.inputs, packing.rows, packing.offsets, packing.width
    inputs, decoder_inputs = _pack(*layout, packing.num_rows), None
    if batch.decoder_inputs is not None:
        layout = batch.decoder_inputs, packing.rows, packing.decoder_offsets, packing.decoder_width
        decoder_inputs = _pack(*layout, packing.num_rows)
    hidden = apply(inputs, decoder_inputs)
    rows, places = _places(*layout)
    return hidden.at[rows, places].get(mode="clip")


def _places(inputs, rows, offsets, width):
    """(rows int32[B, 1], positions int32[B, T]) of the tokens; padding is beyond the end of its row."""
    places = offsets[:, None] + jnp.arange(inputs.tokens.shape[1], dtype=jnp.int32)[None]
    return rows[:, None], jnp.where(inputs.segment_ids > 0, places, jnp.int32(width))


def _pack(inputs: ModelInputs, rows, offsets, width, num_rows) -> ModelInputs:
    """ModelInputs [B, T] of one segment each -> [num_rows, width], in which an example is segment 1 + its
    number."""
    index, shape = _places(inputs, rows, offsets, width), (num_rows, width)
    numbers = jnp.arange(1, inputs.tokens.shape[0] + 1, dtype=jnp.int32)[:, None]

    def move(x):
        return None if x is None else jnp.zeros(shape, x.dtype).at[index].set(x, mode="drop")

    return inputs.replace(
        tokens=move(inputs.tokens),
        segment_ids=move(jnp.broadcast_to(numbers, inputs.tokens.shape)),
        positions=move(inputs.positions),
        prefix=move(inputs.prefix),
        token_type_ids=move(inputs.token_type_ids),
    )
