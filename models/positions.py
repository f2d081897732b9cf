"""Position encodings: sinusoids, RoPE, T5's relative buckets; functions without parameters.
Used by Embedder (sinusoids), Attention (RoPE) and RelativeBias.
Positions are float32, because bfloat16 cannot represent 257.
"""

import jax
import jax.numpy as jnp
import numpy as np


def sinusoids(positions: jax.Array, dim: int) -> jax.Array:
    """int32[B,T] -> float32[B,T,dim], alternating sine and cosine (Vaswani et al. 2017, section 3.5)."""
    angles = _angles(positions, dim, 10_000.0)
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return pairs.reshape(*positions.shape, dim)


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary embedding (RoPE; Su et al. 2021) of x[B,T,H,K] at positions int32[B,T].

    Entry i is paired with entry i + K/2, as in Llama and GPT-NeoX (not with its neighbor).
    """
    angles = _angles(positions, x.shape[-1], theta)[:, :, None, :]  # [B,T,1,K/2]
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def _angles(positions: jax.Array, dim: int, theta: float) -> jax.Array:
    """int32[...] -> float32[..., dim / 2]: position / theta^(2i / dim), in radians."""
    wavelengths = np.float32(theta) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    return positions.astype(jnp.float32)[..., None] / wavelengths.reshape(
        (1,) * positions.ndim + (-1,)
    )


def relative_buckets(
    num_queries: int, num_keys: int, num_buckets: int, max_distance: int, bidirectional: bool
) -> np.ndarray:
    """int32[T,S]: the bucket of the distance s - t of key s from query t (T5, Raffel et al. 2020,
    section 2.1).

    Half of the buckets hold one distance each; the others grow geometrically up to max_distance. If
    bidirectional, keys after the query have separate buckets; otherwise they count as distance 0.
    The result depends on lengths alone, so it is a constant of the compiled program.
    """
    distance = np.arange(num_keys)[None, :] - np.arange(num_queries)[:, None]
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
