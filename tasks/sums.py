"""Losses and metrics as (sum, weight) pairs on the host: added, divided once, written as text.

Used by the training loop and by every task that evaluates by sums. With replicas each number is an array
of one number per replica.
"""

import numpy as np


def add_sums(parts) -> dict[str, tuple[float, float]]:
    """{name: (sum, weight)} of many batches added up in float64."""
    totals = {}
    for sums in parts:
        for name, (total, weight) in sums.items():
            old = totals.get(name, (0.0, 0.0))
            totals[name] = (old[0] + _float(total), old[1] + _float(weight))
    return totals


def _float(x):
    """float64: a float, or an array of one number per replica."""
    return float(x) if np.ndim(x) == 0 else np.asarray(x, np.float64)


def _quotient(total, weight):
    """total / weight, 0 where the weight is 0."""
    if np.ndim(total) == 0:
        return total / weight if weight else 0.0
    return np.divide(total, weight, out=np.zeros_like(total), where=weight != 0)


def weighted_mean(sums, loss_coefficients: dict[str, float]) -> dict[str, float]:
    """{'loss': the minimized loss, name: sum / weight, ...}; a weight of zero gives 0."""
    values = {
        name: _quotient(_float(total), _float(weight)) for name, (total, weight) in sums.items()
    }
    loss = sum(coefficient * values[name] for name, coefficient in loss_coefficients.items())
    return {"loss": loss, **values}


def format_metrics(values: dict[str, float], loss_coefficients: dict[str, float]) -> str:
    """'loss 3.2140  accuracy 0.4120'; the only minimized loss is not repeated under its own name. Of
    replicas it is the mean."""
    hidden = set(loss_coefficients) if len(loss_coefficients) == 1 else set()
    return "  ".join(
        f"{name} {np.mean(value):.4f}" for name, value in values.items() if name not in hidden
    )
