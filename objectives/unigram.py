"""Unigram: the frequency of each token in the corpus, for objectives that sample by frequency.
tasks/pretraining.py makes it from the counts of the token stores and puts it into `ObjectiveSpec`.
It is static and hashes by content, so runs on the same corpus share compiled programs.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np


class Unigram:
    """`shares` float64[V]: the relative frequency of each token; they sum to 1.

    Raises ValueError for counts that are negative or all zero.
    """

    def __init__(self, counts):
        counts = np.asarray(counts, np.float64)
        if counts.ndim != 1 or (counts < 0).any() or not counts.sum() > 0:
            raise ValueError(
                f"unigram counts of shape {counts.shape} sum to {counts.sum():g}: expected one "
                "non-negative count per token, not all zero"
            )
        self.shares = counts / counts.sum()
        self._digest = hashlib.sha256(self.shares.tobytes()).hexdigest()

    def __eq__(self, other):
        return isinstance(other, Unigram) and self._digest == other._digest

    def __hash__(self):
        return hash(self._digest)

    def keep_probs(self, threshold: float) -> np.ndarray:
        """float32[V]: the probability that subsampling keeps an occurrence of each token,
        min(1, sqrt(threshold / share)) (Mikolov et al. 2013, section 2.3, equation 5); 1 for
        threshold 0."""
        rare = self.shares <= threshold if threshold else np.ones(len(self.shares), bool)
        return np.where(rare, 1.0, np.sqrt(threshold / np.where(rare, 1.0, self.shares))).astype(
            np.float32
        )


def sample_by_weight(bits: jax.Array, weights: np.ndarray) -> jax.Array:
    """int32, with the shape of bits uint32 (uniform random bits): samples from 0..V-1 with
    probabilities proportional to weights float64[V].

    Inverts the cumulative distribution in steps of 2^-32, which is finer than float32.
    """
    last = np.flatnonzero(weights)[-1]
    ends = np.cumsum(weights / weights.sum()) * 2.0**32
    ends = np.minimum(np.round(ends), 2.0**32 - 1).astype(np.uint32)
    ends[last:] = 2**32 - 1
    tokens = jnp.searchsorted(jnp.asarray(ends), bits, side="right")
    return jnp.minimum(tokens, last).astype(jnp.int32)
