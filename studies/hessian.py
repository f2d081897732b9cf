"""The curvature of a loss: Hessian-vector products, the trace, and the extreme eigenvalues.

Products are reverse over reverse: dense layers, chunked attention and the chunked cross entropy have custom
gradients, which forward mode (jax.jvp) cannot pass. Used by studies/landscape.py.
"""

import dataclasses

import jax
import numpy as np

from sweeps import statistics

# A Lanczos vector whose norm is this share of the largest entry of the tridiagonal matrix is rounding.
BREAKDOWN = 1e-5


def hessian_product(loss, params, vector):
    """The Hessian of loss(params) times a vector, both trees like `params`; it is symmetric, so the pull-back
    of the gradient is the product itself (Pearlmutter 1994)."""
    return jax.vjp(jax.grad(loss), params)[1](vector)[0]


def estimate_trace(product, size: int, probes: int, seed: int = 0) -> statistics.Spread:
    """The trace by Hutchinson's estimator: mean and standard error of v H v over random signs v.

    M. F. Hutchinson 1990, A stochastic estimator of the trace of the influence matrix.

    Args:
      product: function of float32[size] that returns the Hessian times it.
      probes: vectors v.
    """
    random, found = np.random.default_rng(seed), []
    for _ in range(probes):
        vector = random.choice(np.array([-1.0, 1.0], np.float32), size)
        found.append(float(np.dot(vector.astype(np.float64), product(vector))))
    return statistics.spread(found)


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The ends of the spectrum of a symmetric matrix H.

    Attributes:
      largest: the largest eigenvalue, from below.
      smallest: the smallest eigenvalue, from above.
      residual: |H u - largest u| for the unit vector u that belongs to it: an eigenvalue is this near.
      ritz_values: all eigenvalues of the tridiagonal matrix, ascending.
    """

    largest: float
    smallest: float
    residual: float
    ritz_values: list[float]


def lanczos(product, size: int, steps: int, seed: int = 0) -> Spectrum:
    """The extreme eigenvalues by the method of Lanczos (1950) with full reorthogonalization.

    Ghorbani et al. 2019 use it so for neural networks (An Investigation into Neural Net Optimization via
    Hessian Eigenvalue Density). Memory: `steps` vectors of float32[size].

    Args:
      product: as for `estimate_trace`.
      steps: products at most; fewer where the vectors span all that the first one can reach.
    """
    steps = min(steps, size)
    basis = np.zeros((steps, size), np.float32)
    diagonal, beside = [], []
    vector = np.random.default_rng(seed).standard_normal(size)
    for step in range(steps):
        basis[step] = vector / np.linalg.norm(vector)
        vector = np.asarray(product(basis[step]), np.float64)
        diagonal.append(float(basis[step] @ vector))
        known = basis[: step + 1]
        for _ in range(2):  # once leaves rounding of the first subtraction
            vector -= known.T @ (known @ vector)
        beside.append(float(np.linalg.norm(vector)))
        if beside[-1] <= BREAKDOWN * np.abs(diagonal + beside).max():
            break
    between = beside[: len(diagonal) - 1]
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(between, 1) + np.diag(between, -1))
    return Spectrum(
        largest=float(values[-1]),
        smallest=float(values[0]),
        residual=beside[-1] * abs(float(vectors[-1, -1])),
        ritz_values=values.tolist(),
    )
