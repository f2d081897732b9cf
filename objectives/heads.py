"""Heads that pretraining needs beside the language head: one class for a row, one for a token.
Linen modules over hidden states; the objective that trains one keeps it at params["heads"][name].
Finetuning lets them go. Their kernels begin as models/initial.py says.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig
from models.layers import ACTIVATIONS, Dense


class PairHead(nn.Module):
    """[B,D], the states at [CLS] -> logits float32[B,2]: BERT's pooler, dense and tanh, and a dense
    layer (Devlin et al. 2019, section 3.1)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        states = states.astype(jnp.float32)
        pooled = jnp.tanh(Dense(self.config, states.shape[-1], name="pooler")(states))
        return Dense(self.config, 2, name="output")(pooled)


class DiscriminatorHead(nn.Module):
    """[B,T,D] -> logits float32[B,T] that a token was replaced: dense, activation, dense (Clark et
    al. 2020, section 2)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        config, states = self.config, states.astype(jnp.float32)
        dense = Dense(config, states.shape[-1], name="dense")
        return Dense(config, 1, name="output")(ACTIVATIONS[config.activation](dense(states)))[
            ..., 0
        ]


def with_head(params: dict, name: str, head: nn.Module, key: jax.Array) -> dict:
    """params and, at heads/`name`, fresh parameters of a head over states of its config's width."""
    states = jnp.zeros((1, head.config.width), jnp.float32)
    fresh = head.init(key, states)["params"]
    return {**params, "heads": {**params.get("heads", {}), name: fresh}}
