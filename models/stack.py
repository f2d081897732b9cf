"""Layer and Stack: sublayers around the residual stream, pre- or post-norm, with or without cross.
The encoder and the decoder of models/model.py are each one Stack.
A stack owns T5's table of relative biases, which all of its layers share.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.attention import Attention
from models.axes import constrain
from models.config import ModelConfig
from models.initial import initial
from models.layers import Mlp, Norm
from models.positions import relative_buckets
from models.sequence import Sequence


class Layer(nn.Module):
    """Self-attention, [cross-attention to the encoded sequence,] MLP; each added to the stream."""

    config: ModelConfig
    depth: int  # of the stack, for the initial size of what is added
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B,T,D]
        sequence: Sequence,
        bias: jax.Array | None = None,  # [H,T,T]
        encoded: jax.Array | None = None,  # [B,S,D]
        source: Sequence | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        config, depth = self.config, self.depth

        def self_attention(x):
            attention = Attention(config, depth, name="self_attention")
            return attention(x, x, sequence, sequence, bias, deterministic)

        def cross_attention(x):
            attention = Attention(config, depth, cross=True, name="cross_attention")
            return attention(x, encoded, sequence, source, None, deterministic)

        def mlp(x):
            return Mlp(config, depth, name="mlp")(x)

        for sublayer in (
            (self_attention, cross_attention, mlp)
            if self.cross
            else (
                self_attention,
                mlp,
            )
        ):
            name = sublayer.__name__
            norm = Norm(config, name=f"{name}_norm")
            drop = nn.Dropout(config.dropout, deterministic=deterministic, name=f"{name}_dropout")
            if config.norm_position == "pre":
                x = x + drop(sublayer(norm(x)))
            else:
                x = norm(x + drop(sublayer(x)))
            x = constrain(x, "BTD")
        return x


class RelativeBias(nn.Module):
    """T5's bias by distance, float32[H,T,T]: a table [buckets, H] shared by a stack's layers."""

    config: ModelConfig
    bidirectional: bool

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        config = self.config
        shape = (config.relative_buckets, config.heads)
        table = self.param("embedding", initial(config, "relative_bias"), shape)
        buckets = relative_buckets(
            length, length, shape[0], config.relative_max_distance, self.bidirectional
        )
        return jnp.take(table.T, jnp.asarray(buckets), axis=1)


class Stack(nn.Module):
    """The layers of one stack: [B,T,D] -> [B,T,D], normalised at the end where norms come first.

    An encoder's relative biases tell left from right; a decoder's know what lies behind alone.
    """

    config: ModelConfig
    stack: str  # 'encoder' | 'decoder'
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        sequence: Sequence,
        encoded: jax.Array | None = None,
        source: Sequence | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        config, depth = self.config, self.config.depth(self.stack)
        if config.window:
            sequence = sequence.replace(window=config.window)
        bias = None
        if config.positions == "relative":
            table = RelativeBias(config, self.stack == "encoder", name="relative_bias")
            bias = table(x.shape[1])
        for i in range(depth):
            layer = Layer(config, depth, self.cross, name=f"layer_{i}")
            x = layer(x, sequence, bias, encoded, source, deterministic)
        if config.norm_position == "pre":
            x = Norm(config, name="final_norm")(x)
        return x
