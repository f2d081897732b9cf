"""Pretraining heads other than the LM head: PairHead per row, DiscriminatorHead per token.
The parameters of a head are at params["heads"][name]; finetuning drops them.
models/initializers.py defines their initial kernels.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig
from models.layers import ACTIVATIONS, Dense


class PairHead(nn.Module):
    """Hidden states [B,D] at [CLS] -> logits float32[B,2]: BERT's pooler (dense, tanh) and a dense
    layer (Devlin et al. 2019, section 3.1)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        states = states.astype(jnp.float32)
        pooled = jnp.tanh(Dense(self.config, states.shape[-1], name="pooler")(states))
        return Dense(self.config, 2, name="output")(pooled)


class DiscriminatorHead(nn.Module):
    """Hidden states [B,T,D] -> float32[B,T], the logit of each token having been replaced: dense,
    activation, dense (Clark et al. 2020, section 2)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        states = states.astype(jnp.float32)
        hidden = Dense(self.config, states.shape[-1], name="dense")(states)
        hidden = ACTIVATIONS[self.config.activation](hidden)
        return Dense(self.config, 1, name="output")(hidden)[..., 0]


def with_head(params: dict, name: str, head: nn.Module, rng: jax.Array) -> dict:
    """A copy of `params` with initial parameters of `head` added at heads/`name`."""
    states = jnp.zeros((1, head.config.emb_dim), jnp.float32)
    head_params = head.init(rng, states)["params"]
    return {**params, "heads": {**params.get("heads", {}), name: head_params}}
