"""WordVectors: word2vec's two embedding tables and no layer (Mikolov et al. 2013).
`build` makes it for architecture 'embeddings'; the objective skip_gram trains it.
A Transformer can be initialized from its token embedding, which has the same parameter path.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig
from models.inputs import ModelInputs
from models.logical_axes import with_logical_constraint
from models.model import Embed


class NamedEmbed(nn.Module):
    """ids int32[...] -> vectors [...,D] in the compute dtype, from a submodule named `table`."""

    config: ModelConfig
    table: str
    kind: str  # of parameter, see models/initializers.py

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        embed = Embed(self.config, self.config.padded_vocab_size, self.kind, name=self.table)
        return embed(ids).astype(jnp.dtype(self.config.dtype))


class WordVectors(nn.Module):
    """Two vectors per token: one as a center token (`embed/tokens`, the result) and one as a context
    token of other tokens (`heads/context`)."""

    config: ModelConfig

    def setup(self):
        self.embed = NamedEmbed(self.config, "tokens", "token")
        self.heads = NamedEmbed(self.config, "context", "context")

    def __call__(
        self, inputs: ModelInputs, decoder_inputs: None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Center vectors [B,T,D] of the tokens. There is no dropout."""
        return with_logical_constraint(self.embed(inputs.tokens), "BTD")

    def context_vectors(self, ids: jax.Array) -> jax.Array:
        """ids int32[B,N] -> their context vectors [B,N,D]."""
        return with_logical_constraint(self.heads(ids), "BND")

    def init_all(self, inputs: ModelInputs, decoder_inputs: None = None):
        """Calls every submodule: model.init(rng, inputs, decoder_inputs, method='init_all')."""
        return self(inputs), self.context_vectors(inputs.tokens)
