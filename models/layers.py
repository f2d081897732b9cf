"""The small layers, one copy of each: Dense, Norm, Mlp, and the table of activations.
Used by models/attention.py and models/stack.py; the output head uses them too.
Parameters are float32; products run in the compute dtype, norms in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.axes import constrain
from models.config import ModelConfig
from models.initial import ONES, ZEROS, initial

ACTIVATIONS = {
    # By erf: jax.nn.gelu goes by erfc, for digits of the far tail that no compute dtype keeps.
    "gelu": lambda x: x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@jax.custom_vjp
def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x[...,in] times kernel[in,out] -> [...,out], in x's dtype; the kernel's gradient is float32.

    The backward pass is written out for the order of the kernel's product: the larger of the two
    operands is read as it lies, the smaller is the one to be transposed. The order that automatic
    differentiation picks costs a transposed copy of the MLP's hidden states, and the activation
    twice, since it is fused into that copy.

    So jax.jvp stops here: forward mode would need a linear map that is batched and brings its own
    transpose, and no public primitive is both. A Hessian times a vector goes by reverse over reverse.
    """
    return jnp.dot(x, kernel.astype(x.dtype))


def _project_backward(saved, cotangent):
    x, kernel = saved
    axes = tuple(range(x.ndim - 1))
    product = partial(jnp.tensordot, axes=(axes, axes), preferred_element_type=jnp.float32)
    if x.shape[-1] <= cotangent.shape[-1]:
        gradient = product(x, cotangent)
    else:
        # The barrier keeps the compiler from turning the product back into the other order (which
        # the CPU, besides, cannot run from bfloat16 to float32).
        gradient = jax.lax.optimization_barrier(product(cotangent, x)).T
    return jnp.dot(cotangent, kernel.astype(x.dtype).T), gradient


project.defvjp(lambda x, kernel: (project(x, kernel), (x, kernel)), _project_backward)


class Dense(nn.Module):
    """x[..., in] -> [..., out] with a kernel [in, out] and, if the config or `bias` says so, one [out]."""

    config: ModelConfig
    features: int
    kind: str = "kernel"  # row of the table of initial distributions
    depth: int = 1  # of the stack, for the initial size of what is added to the stream
    bias: bool = False  # one also where the config has none

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param(
            "kernel", initial(self.config, self.kind, self.depth), (x.shape[-1], self.features)
        )
        x = project(x, kernel)
        if self.config.biases or self.bias:
            bias = self.param("bias", ZEROS, (self.features,))
            x = x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return x


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over the last axis.

    In float32, whatever comes in: bfloat16 has 8 bits for a variance. Flax's own norms break
    strict dtype promotion in bfloat16.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, shape = self.config, (1,) * (x.ndim - 1) + (-1,)
        dtype, x = x.dtype, x.astype(jnp.float32)
        scale = self.param("scale", ONES, (x.shape[-1],)).reshape(shape)
        if config.norm == "layernorm":
            x = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(x).mean(axis=-1, keepdims=True)
        x = x * (jax.lax.rsqrt(variance + config.norm_epsilon) * scale)
        if config.norm == "layernorm" and config.biases:
            x = x + self.param("bias", ZEROS, (x.shape[-1],)).reshape(shape)
        return x.astype(dtype)


class Mlp(nn.Module):
    """[B,T,D] -> [B,T,D] by way of F: out(act(in x)), or gated out(act(gate x) * in x)."""

    config: ModelConfig
    depth: int  # of the stack

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        activation = ACTIVATIONS[config.activation]
        hidden = Dense(config, config.mlp_size, name="in")(x)  # [B,T,F]
        if config.gated:
            gate = Dense(config, config.mlp_size, name="gate")(x)
            hidden = activation(gate) * hidden
        else:
            hidden = activation(hidden)
        hidden = constrain(hidden, "BTF")
        return Dense(config, config.width, kind="residual", depth=self.depth, name="out")(hidden)
