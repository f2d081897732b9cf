"""WordVectors: two tables and nothing between them, word2vec's network (Mikolov et al. 2013).
Built for architecture "embeddings"; trained by the objective skip_gram, whose dot products it feeds.
Its input table lies where a Transformer keeps its own, so that the one can begin with the other's.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.axes import constrain
from models.config import ModelConfig
from models.model import Table
from models.sequence import Sequence


class Inputs(nn.Module):
    """ids -> their vectors in a text."""

    config: ModelConfig

    def setup(self):
        self.tokens = Table(self.config, self.config.padded_vocab_size, "token")


class Outputs(nn.Module):
    """ids -> their vectors as neighbours."""

    config: ModelConfig

    def setup(self):
        self.context = Table(self.config, self.config.padded_vocab_size, "context")


class WordVectors(nn.Module):
    """A vector for each piece as it stands in a text (`embed/tokens`), which is what is kept, and
    one for it as another's neighbour (`heads/context`)."""

    config: ModelConfig

    def setup(self):
        self.embed = Inputs(self.config)
        self.heads = Outputs(self.config)

    def __call__(
        self, inputs: Sequence, decoder: None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Vectors [B,T,D] of the tokens; there is no context and no dropout in them."""
        vectors = self.embed.tokens(inputs.tokens).astype(jnp.dtype(self.config.dtype))
        return constrain(vectors, "BTD")

    def contexts(self, ids: jax.Array) -> jax.Array:
        """ids int32[B,N] -> [B,N,D], their vectors as neighbours."""
        return constrain(self.heads.context(ids).astype(jnp.dtype(self.config.dtype)), "BND")

    def initialise(self, inputs: Sequence, decoder: None = None):
        """Touches every parameter; for model.init(key, inputs, decoder, method='initialise')."""
        return self(inputs), self.contexts(inputs.tokens)
