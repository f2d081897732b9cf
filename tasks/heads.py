"""Heads of labeled tasks: linen modules over pooled hidden states, with parameters at heads/TASK.

Published heads can be loaded into them. Their options are config fields of the task.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import ACTIVATIONS
from objectives.batch import Batch


class ClassificationHead(nn.Module):
    """states [B, D] -> logits float32[B, C]: [dense, activation, [LayerNorm,]] dropout, dense.

    `pooler` adds the first dense layer and its activation, as in BERT (Devlin et al. 2019); RoBERTa's
    dropout before it is omitted. `pooler_norm` adds the LayerNorm, and removes the biases of the pooler
    and of this norm, as in ModernBERT (Warner et al. 2024). Published decoders have `use_bias` False.
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
    """hidden [B, T, D] -> [B, D]: the state at the target position, or the float32 mean of all states."""
    if pooling == "mean":
        read = batch.inputs if batch.decoder_inputs is None else batch.decoder_inputs
        weights = (read.segment_ids > 0).astype(jnp.float32)[:, :, None]
        return (hidden.astype(jnp.float32) * weights).sum(1) / jnp.maximum(weights.sum(1), 1.0)
    positions = batch.target_positions[:, :, None]
    return jnp.take_along_axis(hidden, positions, axis=1, mode="clip")[:, 0]
