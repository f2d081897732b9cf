"""TransformerLayer and TransformerStack: residual sublayers, with norms by config.norm_position.
The encoder and the decoder of models/model.py are one TransformerStack each.
With positions='relative', all layers of a stack share one table of T5's relative position biases.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.attention import Attention
from models.attention_kernels import AttentionSpec, choose_kernel
from models.cache import PREFILL, CacheSlots, sow_for_cache
from models.config import ModelConfig
from models.initializers import initializer
from models.inputs import ModelInputs
from models.layer_loop import LayerLoop, run_layers
from models.layers import Mlp, Norm
from models.logical_axes import with_logical_constraint
from models.positions import relative_buckets


class TransformerLayer(nn.Module):
    """[B,T,D] -> [B,T,D]: self-attention, [cross-attention to the encoder's output,] MLP; each adds to
    the residual stream.

    `shared` is a layer of another stack. If given, this layer reuses the self-attention, the MLP and the
    norms of `shared`, and owns only cross-attention and its norms.
    """

    config: ModelConfig
    depth: int  # number of layers in the stack; scales the initial kernels of kind 'residual'
    layer: int = 0  # index in the stack
    cross: bool = False
    shared: nn.Module | None = None

    def setup(self):
        config, depth = self.config, self.depth
        if self.shared is None:
            self.self_attention = Attention(config, depth, layer=self.layer)
            if self.has_self_attention_norm:
                self.self_attention_norm = Norm(config)
            self.mlp = Mlp(config, depth)
            self.mlp_norm = Norm(config)
            if config.norm_position == "both":
                self.self_attention_output_norm = Norm(config)
                self.mlp_output_norm = Norm(config)
        if self.cross:
            self.cross_attention = Attention(config, depth, cross=True)
            self.cross_attention_norm = Norm(config)
            if config.norm_position == "both":
                self.cross_attention_output_norm = Norm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    @property
    def has_self_attention_norm(self) -> bool:
        return self.layer > 0 or not self.config.skip_first_prenorm

    def __call__(
        self,
        x: jax.Array,  # [B,T,D]
        inputs: ModelInputs,
        bias: jax.Array | None = None,  # float32[H,T,T] or [H,2T-1], for self-attention
        encoded: jax.Array | None = None,  # [B,S,D], for cross-attention
        encoder_inputs: ModelInputs | None = None,  # [B,S]
        deterministic: bool = True,
        cache_slots: CacheSlots | None = None,  # of a cache, in a decode step: T is 1
    ) -> jax.Array:
        owner = self if self.shared is None else self.shared
        key_inputs = inputs if cache_slots is None else cache_slots
        encoder_inputs = encoder_inputs if cache_slots is None else cache_slots

        def self_attention(x):
            return owner.self_attention(x, x, inputs, key_inputs, bias, deterministic)

        def cross_attention(x):
            return self.cross_attention(x, encoded, inputs, encoder_inputs, None, deterministic)

        sublayers = [("self_attention", owner, self_attention)]
        if self.cross:
            sublayers.append(("cross_attention", self, cross_attention))
        sublayers.append(("mlp", owner, owner.mlp))
        states = x
        for name, module, sublayer in sublayers:
            states = states if self.config.parallel_residual else x
            input_norm, output_norm, residual_norm = self.norms_of(module, name)
            y = output_norm(sublayer(input_norm(states)))
            x = residual_norm(x + self.dropout(y, deterministic=deterministic))
            x = with_logical_constraint(x, "BTD")
        return x

    @nn.nowrap
    def norms_of(self, module: nn.Module, name: str) -> tuple:
        """(norm of the sublayer's input, of its output, of its sum with the residual stream) of a sublayer of
        `module`: norm_position says which of them are there; the others are the identity."""

        def identity(x):
            return x

        has_norm = name != "self_attention" or self.has_self_attention_norm
        norm = getattr(module, f"{name}_norm") if has_norm else identity
        if self.config.norm_position == "both":
            return norm, getattr(module, f"{name}_output_norm"), identity
        places = {"pre": 0, "output": 1, "post": 2}
        place = places[self.config.norm_position]
        return tuple(norm if place == number else identity for number in range(3))


class RelativeBias(nn.Module):
    """T5's bias by distance: buckets int32[...] -> float32[H,...], from a table [buckets, H]."""

    config: ModelConfig

    @nn.compact
    def __call__(self, buckets: jax.Array) -> jax.Array:
        shape = (self.config.relative_num_buckets, self.config.num_heads)
        table = self.param("embedding", initializer(self.config, "relative_bias"), shape)
        return jnp.take(table.T, buckets, axis=1)


class TransformerStack(nn.Module):
    """The layers of one stack: [B,T,D] -> [B,T,D], with a final norm unless the layers are post-norm.

    The relative biases of an encoder distinguish left from right; those of a decoder cover only the
    left. Each stack therefore has its own, even if a decoder uses an encoder's layers (`shared`).
    """

    config: ModelConfig
    stack: str  # 'encoder' | 'decoder'
    cross: bool = False
    shared: nn.Module | None = None  # the stack whose layers and final norm this one uses
    loop: LayerLoop = LayerLoop()  # of a forward pass without a cache

    def setup(self):
        config, depth = self.config, self.config.num_layers_in(self.stack)
        if config.positions == "relative":
            self.relative_bias = RelativeBias(config)
        for i in range(depth):
            shared = None if self.shared is None else getattr(self.shared, f"layer_{i}")
            setattr(self, f"layer_{i}", TransformerLayer(config, depth, i, self.cross, shared))
        if config.norm_position != "post" and self.shared is None:
            self.final_norm = Norm(config)

    def __call__(
        self,
        x: jax.Array,
        inputs: ModelInputs,
        encoded: jax.Array | None = None,
        encoder_inputs: ModelInputs | None = None,
        deterministic: bool = True,
        cache_slots: CacheSlots | None = None,
    ) -> jax.Array:
        config = self.config
        sow_for_cache(self, inputs)
        bias, is_relative = None, config.positions == "relative"
        if is_relative and cache_slots is None:
            bias = self.relative_bias(jnp.asarray(self.buckets(self.distances(inputs))))
        # PREFILL is mutable in `init` too.
        if cache_slots is None and not self.is_mutable_collection(PREFILL):
            x = run_layers(self, x, (inputs, bias, encoded, encoder_inputs), deterministic)
        else:
            for i in range(config.num_layers_in(self.stack)):
                layer = getattr(self, f"layer_{i}")
                if is_relative and cache_slots is not None:
                    bias = self.relative_bias(self.cached_buckets(cache_slots, i))
                x = layer(x, inputs, bias, encoded, encoder_inputs, deterministic, cache_slots)
        if config.norm_position != "post":
            x = (self if self.shared is None else self.shared).final_norm(x)
        return x

    def distances(self, inputs: ModelInputs) -> np.ndarray:
        """Distances of keys from queries: int[T,T] for the dense kernel, else int[2T-1], ascending."""
        # With a bias, the choice between dense and chunked depends only on the lengths, the platform and
        # model.attention_kernel, so this spec gives the same kernel as the one in Attention.choose_kernel.
        length = inputs.tokens.shape[1]
        spec = AttentionSpec(length, length, inputs.attention, has_bias=True)
        if choose_kernel(self.config.attention_kernel, spec) != "dense":
            return np.arange(1 - length, length)
        return np.arange(length)[None, :] - np.arange(length)[:, None]

    def buckets(self, distances: np.ndarray) -> np.ndarray:
        """int32 like distances: the buckets of the relative bias."""
        sizes = self.config.relative_num_buckets, self.config.relative_max_distance
        return relative_buckets(distances, *sizes, self.stack == "encoder")

    def cached_buckets(self, cache_slots: CacheSlots, layer: int) -> jax.Array:
        """int32[1,S]: the buckets between the next token and the slots of a layer."""
        by_distance = jnp.asarray(self.buckets(-np.arange(cache_slots.capacity)))
        size = cache_slots.size(self.config.sliding_window_at(layer))
        return jnp.take(by_distance, cache_slots.distances(size))[None]
