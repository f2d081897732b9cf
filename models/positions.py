"""Positions: sinusoids, rotary angles, T5's relative buckets; functions without parameters.
Used by the embedder (sinusoids), by a stack (relative bias) and by attention (rotary).
Everything in float32: a bfloat16 position is wrong from 257 on.
"""

import jax
import jax.numpy as jnp
import numpy as np


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
    """int32[B,T] -> float32[B,T,D], sine and cosine in turn (Vaswani et al. 2017, section 3.5)."""
    angles = _angles(positions, width, 10_000.0)
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return pairs.reshape(*positions.shape, width)


def rotate(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
    """Rotary embedding (Su et al. 2021) of x[B,T,H,K] at positions[B,T].

    Entry i is paired with entry i + K/2, as in Llama and GPT-NeoX (not with its neighbour).
    """
    angles = _angles(positions, x.shape[-1], base)[:, :, None, :]  # [B,T,1,K/2]
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _angles(positions: jax.Array, size: int, base: float) -> jax.Array:
    """int32[...] -> float32[..., size / 2]: position / base^(2i / size), in radians."""
    wavelengths = np.float32(base) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    return positions.astype(jnp.float32)[..., None] / wavelengths.reshape(
        (1,) * positions.ndim + (-1,)
    )


def relative_buckets(
    queries: int, keys: int, buckets: int, max_distance: int, bidirectional: bool
) -> np.ndarray:
    """int32[T,S]: the bucket of the distance s - t (T5, Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each, the others grow by a constant factor up to
    max_distance; bidirectional gives keys after the query buckets of their own, causal counts them
    as distance 0. A constant of the trace: it depends on lengths alone.
    """
    distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    offset = np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    # float32 as in the original, so that a distance on the edge falls into the same bucket.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    growth = ratio / np.float32(np.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + growth.astype(np.int32), buckets - 1)
    return (offset + np.where(distance < exact, distance, far)).astype(np.int32)
