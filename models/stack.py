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
    """Self-attention, [cross-attention to the encoded sequence,] MLP; each added to the stream.

    With `shared`, another stack's layer lends its self-attention, MLP and their norms: this one then
    owns cross-attention and its norm alone.
    """

    config: ModelConfig
    depth: int  # of the stack, for the initial size of what is added
    number: int = 0  # in the stack
    cross: bool = False
    shared: nn.Module | None = None

    def setup(self):
        config, depth = self.config, self.depth
        if self.shared is None:
            self.self_attention = Attention(config, depth, layer=self.number)
            if self.normed:
                self.self_attention_norm = Norm(config)
            self.mlp = Mlp(config, depth)
            self.mlp_norm = Norm(config)
        if self.cross:
            self.cross_attention = Attention(config, depth, cross=True)
            self.cross_attention_norm = Norm(config)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def normed(self) -> bool:
        """Self-attention has a norm."""
        return self.config.first_norm or self.number > 0

    def __call__(
        self,
        x: jax.Array,  # [B,T,D]
        sequence: Sequence,
        bias: jax.Array | None = None,  # [H,T,T]
        encoded: jax.Array | None = None,  # [B,S,D]
        source: Sequence | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        own = self if self.shared is None else self.shared

        def self_attention(x):
            return own.self_attention(x, x, sequence, sequence, bias, deterministic)

        def cross_attention(x):
            return self.cross_attention(x, encoded, sequence, source, None, deterministic)

        first_norm = own.self_attention_norm if self.normed else lambda x: x
        sublayers = [(first_norm, self_attention), (own.mlp_norm, own.mlp)]
        if self.cross:
            sublayers.insert(1, (self.cross_attention_norm, cross_attention))
        for norm, sublayer in sublayers:
            if self.config.norm_position == "pre":
                x = x + self.dropout(sublayer(norm(x)), deterministic=deterministic)
            else:
                x = norm(x + self.dropout(sublayer(x), deterministic=deterministic))
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

    An encoder's relative biases tell left from right; a decoder's know what lies behind alone. So
    each stack has its own, also where a decoder has an encoder's layers (`shared`).
    """

    config: ModelConfig
    stack: str  # 'encoder' | 'decoder'
    cross: bool = False
    shared: nn.Module | None = None  # the stack that lends its layers and its final norm

    def setup(self):
        config, depth = self.config, self.config.depth(self.stack)
        if config.positions == "relative":
            self.relative_bias = RelativeBias(config, self.stack == "encoder")
        for i in range(depth):
            lent = None if self.shared is None else getattr(self.shared, f"layer_{i}")
            setattr(self, f"layer_{i}", Layer(config, depth, i, self.cross, lent))
        if config.norm_position == "pre" and self.shared is None:
            self.final_norm = Norm(config)

    def __call__(
        self,
        x: jax.Array,
        sequence: Sequence,
        encoded: jax.Array | None = None,
        source: Sequence | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        config = self.config
        bias = self.relative_bias(x.shape[1]) if config.positions == "relative" else None
        for i in range(config.depth(self.stack)):
            layer = getattr(self, f"layer_{i}")
            x = layer(x, sequence, bias, encoded, source, deterministic)
        if config.norm_position == "pre":
            x = (self if self.shared is None else self.shared).final_norm(x)
        return x
