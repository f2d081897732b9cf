"""Heads of labeled tasks: linen modules over pooled hidden states, kept at params['heads'][task].

Published heads are loaded into them: their options are config fields of the task.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import ACTIVATIONS
from objectives.batch import Batch


class ClassificationHead(nn.Module):
    """states [B, D] -> logits float32[B, C]: dropout, [dense, activation, dropout,] dense.

    With the pooler it is BERT's head (Devlin et al. 2019), without the dropout before the pooler, which
    BERT lacks. Published decoders have no bias. `pooler_norm` adds ModernBERT's LayerNorm after the
    activation; both are without biases (Warner et al. 2024).
    """

    num_classes: int
    dropout_rate: float = 0.1
    pooler: bool = False
    use_bias: bool = True
    pooler_activation: str = "tanh"
    pooler_norm: bool = False
    init_std: float = 0.02

    @nn.compact
    def __call__(self, states: jax.Array, deterministic: bool = True) -> jax.Array:
        normal = nn.initializers.normal(self.init_std)
        states = states.astype(jnp.float32)
        if self.pooler:
            activation = (
                jnp.tanh
                if self.pooler_activation == "tanh"
                else ACTIVATIONS[self.pooler_activation]
            )
            dense = nn.Dense(
                states.shape[-1], not self.pooler_norm, kernel_init=normal, name="pooler"
            )
            states = activation(dense(states))
            if self.pooler_norm:
                states = nn.LayerNorm(1e-5, use_bias=False, name="pooler_norm")(states)
        states = nn.Dropout(self.dropout_rate, name="dropout")(states, deterministic=deterministic)
        return nn.Dense(self.num_classes, self.use_bias, kernel_init=normal, name="output")(states)


def pool_states(hidden: jax.Array, batch: Batch, pooling: str) -> jax.Array:
    """hidden [B, T, D] -> [B, D]: the state at the target position, or float32 the mean of all states."""
    if pooling == "mean":
        read = batch.inputs if batch.decoder_inputs is None else batch.decoder_inputs
        weights = (read.segment_ids > 0).astype(jnp.float32)[:, :, None]
        return (hidden.astype(jnp.float32) * weights).sum(1) / jnp.maximum(weights.sum(1), 1.0)
    positions = batch.target_positions[:, :, None]
    return jnp.take_along_axis(hidden, positions, axis=1, mode="clip")[:, 0]
