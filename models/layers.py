"""The small layers: Dense, Norm, Mlp, the logits of the LM head, and the table of activations.
Used by models/attention.py, models/transformer.py and the LM head.
Parameters are float32; matrix products use the compute dtype, norms float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import ModelConfig
from models.initializers import ONES, ZEROS, initializer
from models.logical_axes import with_logical_constraint

# The logit of an excluded id, and the score of a masked key. Far below any other, and finite: 0 * logit is 0,
# and a query without a visible key (padding) averages all values instead of dividing zero by zero.
MASKED_LOGIT = -1e30

ACTIVATIONS = {
    # With erf, which is faster; the erfc of jax.nn.gelu is more accurate only where |gelu| < 1e-6.
    "gelu": lambda x: x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@jax.custom_vjp
def dense_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x[...,in] kernel[in,out] -> [...,out] in x's dtype; the kernel's gradient is float32.

    The backward pass orders the operands of the kernel's gradient so that the smaller one is
    transposed. With automatic differentiation, XLA transposes a copy of the MLP's hidden states, and
    computes their activation twice because it fuses the activation into that copy.

    A custom_vjp has no forward mode (jax.jvp); for Hessian-vector products use reverse over reverse.
    """
    return _product(x, kernel)


def cpu_barrier(x: jax.Array) -> jax.Array:
    """x behind an optimization barrier on CPUs: XLA neither moves nor fuses its computation. Other backends
    get no barrier, because it would keep the all-reduce of a gradient inside the loop over microbatches."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def _product(x, kernel):
    return jnp.dot(x, kernel.astype(x.dtype))


def _backward(saved, cotangent):
    x, kernel = saved
    axes = tuple(range(x.ndim - 1))
    product = partial(jnp.tensordot, axes=(axes, axes), preferred_element_type=jnp.float32)
    if x.shape[-1] <= cotangent.shape[-1]:
        gradient = product(x, cotangent)
    else:
        # Without the barrier XLA restores the other order (for which its CPU backend also lacks a
        # kernel from bfloat16 to float32).
        gradient = cpu_barrier(product(cotangent, x)).T
    return jnp.dot(cotangent, kernel.astype(x.dtype).T), gradient


# The forward rule calls _product: a policy of jax.checkpoint does not see a product inside a custom_vjp.
dense_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _backward)


def softcap(scores: jax.Array, cap: float) -> jax.Array:
    """scores[...] within (-cap, cap): cap tanh(scores / cap) (Bello et al. 2016, appendix A.2; Gemma 2).
    cap=0: as they are."""
    return jnp.tanh(scores / cap) * cap if cap else scores


def lm_logits(
    features: jax.Array, output_embedding: jax.Array, bias: jax.Array | None, cap: float = 0.0
) -> jax.Array:
    """features[B,N,E], output embedding[V,E] and bias[V] or None -> float32[B,N,V].

    cap: the config's final_logit_softcap. Ids >= vocab_size are not masked.
    """
    logits = jnp.einsum(
        "BNE,VE->BNV",
        features,
        output_embedding.astype(features.dtype),
        preferred_element_type=jnp.float32,
    )
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)[None, None]
    return softcap(logits, cap)


class Dense(nn.Module):
    """x[...,in] -> [...,out]: a kernel [in,out], and a bias [out] if `use_bias` is set here or in config."""

    config: ModelConfig
    features: int
    kind: str = "kernel"  # row of the table of initial distributions
    depth: int = 1  # number of layers in the stack; scales initial kernels of kind 'residual'
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = initializer(self.config, self.kind, self.depth)
        x = dense_product(x, self.param("kernel", init, (x.shape[-1], self.features)))
        if self.config.use_bias or self.use_bias:
            bias = self.param("bias", ZEROS, (self.features,))
            x = x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return x


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over the last axis.

    Always in float32, because 8 bits of precision (bfloat16) are too few for a variance. Flax's norms
    fail in bfloat16 under strict dtype promotion.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, shape = self.config, (1,) * (x.ndim - 1) + (-1,)
        dtype, x = x.dtype, x.astype(jnp.float32)
        initial = ZEROS if config.norm_scale_offset else ONES
        scale = self.param("scale", initial, (x.shape[-1],)).reshape(shape)
        if config.norm_scale_offset:
            scale = scale + jnp.float32(1)
        if config.norm == "layernorm":
            x = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(x).mean(axis=-1, keepdims=True)
        x = x * (jax.lax.rsqrt(variance + config.norm_epsilon) * scale)
        if config.norm == "layernorm" and config.use_bias:
            x = x + self.param("bias", ZEROS, (x.shape[-1],)).reshape(shape)
        return x.astype(dtype)


class Mlp(nn.Module):
    """[B,T,D] -> [B,T,D] with hidden size F: out(act(in x)), or gated: out(act(gate x) * in x)."""

    config: ModelConfig
    depth: int  # number of layers in the stack

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        activation = ACTIVATIONS[config.activation]
        hidden = Dense(config, config.mlp_dim, name="in")(x)  # [B,T,F]
        if config.gated_mlp:
            gate = Dense(config, config.mlp_dim, name="gate")(x)
            hidden = activation(gate) * hidden
        else:
            hidden = activation(hidden)
        hidden = with_logical_constraint(hidden, "BTF")
        return Dense(config, config.emb_dim, kind="residual", depth=self.depth, name="out")(hidden)
