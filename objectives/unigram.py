"""Unigram: how often each piece occurs in the corpus, for objectives that draw by frequency.
Counted by the token store, put into a `Setting` by train.py; a constant of the compiled step.
Hashes by content, so that runs over the same corpus share their programs.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np


class Unigram:
    """`shares` float64[V]: the part of the corpus that each piece is; they sum to 1.

    Raises ValueError for counts that are negative or all zero.
    """

    def __init__(self, counts):
        counts = np.asarray(counts, np.float64)
        if counts.ndim != 1 or (counts < 0).any() or not counts.sum() > 0:
            raise ValueError(
                f"unigram counts of shape {counts.shape} sum to {counts.sum():g}: expected one "
                "non-negative count a piece, not all zero"
            )
        self.shares = counts / counts.sum()
        self._digest = hashlib.sha256(self.shares.tobytes()).hexdigest()

    def __eq__(self, other):
        return isinstance(other, Unigram) and self._digest == other._digest

    def __hash__(self):
        return hash(self._digest)

    def kept(self, threshold: float) -> np.ndarray:
        """float32[V]: how likely an occurrence of each piece survives subsampling, sqrt(t / share) at
        most 1 (Mikolov et al. 2013, section 2.3, equation 5); all 1 for a threshold of 0."""
        rare = self.shares <= threshold if threshold else np.ones(len(self.shares), bool)
        return np.where(rare, 1.0, np.sqrt(threshold / np.where(rare, 1.0, self.shares))).astype(
            np.float32
        )


def sampled(draws: jax.Array, weights: np.ndarray) -> jax.Array:
    """int32, as draws uint32: numbers in 0..V-1, each as likely as its part of weights float64[V].

    By the inverse of the distribution function, in steps of 2^-32: exact where float32 is not.
    """
    last = np.flatnonzero(weights)[-1]
    ends = np.cumsum(weights / weights.sum()) * 2.0**32
    ends = np.minimum(np.round(ends), 2.0**32 - 1).astype(np.uint32)
    ends[last:] = 2**32 - 1
    found = jnp.searchsorted(jnp.asarray(ends), draws, side="right")
    return jnp.minimum(found, last).astype(jnp.int32)
