"""Position encodings: sinusoids, RoPE, T5's relative buckets; functions without parameters.
Used by Embedder (sinusoids), Attention (RoPE) and RelativeBias.
Angles are computed in float32, because bfloat16 cannot represent position 257.
"""

import jax
import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.inputs import ModelInputs


def sinusoids(positions: jax.Array, dim: int) -> jax.Array:
    """int32[B,T] -> float32[B,T,dim], alternating sine and cosine (Vaswani et al. 2017, section 3.5)."""
    angles = _angles(positions, dim, 10_000.0)
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return pairs.reshape(*positions.shape, dim)


def apply_rope(
    config: ModelConfig, x: jax.Array, inputs: ModelInputs, layer: int | None
) -> jax.Array:
    """Rotary embedding of queries or keys x[B,T,H,K], with the theta and the scaling of layer `layer`
    (None: cross-attention).

    Entries after the first `rotary_dim` of each head stay as they are (GPT-NeoX).
    """
    theta = config.rope_theta if layer is None else config.rope_theta_at(layer)
    scaling = config.rope_scaling if layer is None else config.rope_scaling_at(layer)
    size = config.rotary_dim
    rotated, rest = x[..., :size], x[..., size:]
    if scaling == "none":
        rotated = rotate(rotated, inputs.positions, theta)
    else:
        frequencies, scale = _scaled_frequencies(config, scaling, theta, inputs)
        angles = inputs.positions.astype(jnp.float32)[..., None] * frequencies
        rotated = _rotate(rotated, angles, scale)
    return rotated if size == x.shape[-1] else jnp.concatenate([rotated, rest], axis=-1)


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary embedding (RoPE; Su et al. 2021) of x[B,T,H,K] at positions int32[B,T].

    Entry i is paired with entry i + K/2, as in Llama and GPT-NeoX (not with its neighbor).
    """
    return _rotate(x, _angles(positions, x.shape[-1], theta))


def _rotate(x, angles, scale=1.0):
    """x[B,T,H,R] turned by angles[B,T,R/2], and scaled."""
    angles = angles[:, :, None, :]
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    if scale != 1.0:
        sine, cosine = sine * jnp.float32(scale), cosine * jnp.float32(scale)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def _scaled_frequencies(config, scaling, theta, inputs):
    """(radians per position, float32 [1,1,R/2] or [B,T,R/2]; scale of rotated queries and keys).

    linear: Chen et al. 2023. dynamic: theta grows with the text (NTK-aware scaling). yarn: Peng et al.
    2023, section 3.2. llama3: Llama 3.1. longrope: Ding et al. 2024. dynamic and longrope depend on the
    length of each segment, so that packed documents do not change each other.
    """
    size, factor = config.rotary_dim, config.rope_factor
    original = config.rope_original_length or config.max_length
    exponents = np.arange(0, size, 2) / size
    unscaled, scale = theta**-exponents, 1.0
    if scaling == "linear":
        frequencies = unscaled / factor
    elif scaling == "dynamic":
        lengths = jnp.maximum(segment_lengths(inputs), original).astype(jnp.float32)[..., None]
        growth = lengths * jnp.float32(factor / original) - jnp.float32(factor - 1)
        bases = jnp.float32(theta) * growth ** jnp.float32(size / (size - 2))
        return bases ** jnp.asarray(-exponents, jnp.float32).reshape(1, 1, -1), scale
    elif scaling == "llama3":
        rotations = original * unscaled / (2 * np.pi)  # over the original length
        low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
        kept = np.clip((rotations - low) / (high - low), 0, 1)
        frequencies = unscaled * (kept + (1 - kept) / factor)
    elif scaling == "yarn":
        kept = 1 - _yarn_ramp(config, theta, original)
        frequencies = unscaled * (kept + (1 - kept) / factor)
        scale = config.rope_attention_factor or 0.1 * np.log(factor) + 1
    else:
        short, long = (
            jnp.asarray(unscaled / np.array(factors), jnp.float32).reshape(1, 1, -1)
            for factors in (config.rope_short_factors, config.rope_long_factors)
        )
        scale = config.rope_attention_factor or np.sqrt(1 + np.log(factor) / np.log(original))
        is_long = (segment_lengths(inputs) > original)[..., None]
        return jnp.where(is_long, long, short), float(scale)
    return jnp.asarray(frequencies, jnp.float32).reshape(1, 1, -1), float(scale)


def rescaling_length(config: ModelConfig) -> int:
    """Segments longer than this have other RoPE frequencies: one other set (longrope), or one per length
    (dynamic). 0: the frequencies are fixed."""
    if config.positions != "rope" or config.rope_scaling not in ("dynamic", "longrope"):
        return 0
    return config.rope_original_length or config.max_length


def _yarn_ramp(config, theta, original):
    """float64[R/2] from 0 (a wavelength that is kept) to 1 (scaled by the factor)."""
    size = config.rotary_dim

    def entry(rotations):
        """The (fractional) index of the entry that makes `rotations` over the original length."""
        return size * np.log(original / (rotations * 2 * np.pi)) / (2 * np.log(theta))

    low, high = entry(config.rope_beta_fast), entry(config.rope_beta_slow)
    if config.rope_truncate:
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    return np.clip((np.arange(size // 2) - low) / ((high - low) or 0.001), 0, 1)


def segment_lengths(inputs: ModelInputs) -> jax.Array:
    """int32[B,T]: the length of each position's segment, which is its last position + 1."""
    index = jnp.broadcast_to(
        jnp.arange(inputs.positions.shape[-1], dtype=jnp.int32), inputs.positions.shape
    )
    is_last = jnp.diff(inputs.segment_ids, append=-1) != 0
    last = jnp.where(is_last, index, jnp.int32(inputs.positions.shape[-1]))
    last = jax.lax.cummin(last, axis=1, reverse=True)
    return jnp.take_along_axis(inputs.positions, last, axis=1) + jnp.int32(1)


def _angles(positions: jax.Array, dim: int, theta: float) -> jax.Array:
    """int32[...] -> float32[..., dim / 2]: position / theta^(2i / dim), in radians."""
    timescales = np.float32(theta) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    return positions.astype(jnp.float32)[..., None] / timescales.reshape(
        (1,) * positions.ndim + (-1,)
    )


def relative_buckets(
    distance: np.ndarray, num_buckets: int, max_distance: int, bidirectional: bool
) -> np.ndarray:
    """int32 like distance: the bucket of the distance s - t of key s from query t (T5, Raffel et al. 2020,
    section 2.1).

    Half of the buckets hold one distance each; the others grow geometrically up to max_distance. If
    bidirectional, keys after the query have separate buckets; otherwise they count as distance 0.
    The result depends on lengths alone, so it is a constant of the compiled program.
    """
    offset = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distance > 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = num_buckets // 2
    # float32 as in T5's code, so that a distance on the edge of a bucket falls into the same bucket.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    growth = ratio / np.float32(np.log(max_distance / exact)) * np.float32(num_buckets - exact)
    far = np.minimum(exact + growth.astype(np.int32), num_buckets - 1)
    return (offset + np.where(distance < exact, distance, far)).astype(np.int32)
