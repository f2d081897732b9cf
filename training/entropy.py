"""The entropy of what a loss asks for: what a model gets that knows how often each answer occurs.

train.py prints it beside the first losses; a loss that stays there has learned nothing else.
"""

import jax
import jax.numpy as jnp
import numpy as np

# What a run looks at before its first update: so many of its own batches, of so many tokens in all.
BATCHES, TOKENS = 200, 2**20


def sample(tokens: int, total: int) -> int:
    """How many of a run's `total` batches of `tokens` tokens are looked at before it begins."""
    return max(1, min(total, BATCHES, TOKENS // tokens))


def tally(objective, model, params, batch, key, classes: int) -> dict:
    """{loss: (float32[classes] weight of each answer, the loss's own weight)} of one batch.

    Sums, as everything that leaves a step: those of many batches add up to those of all. Raises
    ValueError where the objective gives answers of other losses than it minimises.
    """
    weights = objective.weights(batch)
    answers = objective.answers(model, params, batch, key)
    if answers.keys() != weights.keys():
        raise ValueError(
            f"{objective.name}.answers speaks of the losses {', '.join(answers)}, but those that are "
            f"minimised are {', '.join(weights)}: give what each of these asks for"
        )
    return {
        name: (
            jnp.zeros(classes, jnp.float32).at[answer.reshape(-1)].add(weight.reshape(-1)),
            weights[name],
        )
        for name, (answer, weight) in answers.items()
    }


def of_counts(counts) -> float:
    """Nats per draw of a distribution given by how often each class was drawn, [classes]."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def of_targets(tallies, coefficients: dict[str, float]) -> dict[str, float]:
    """Nats per unit of weight of each minimised loss under the best constant guess.

    Args:
      tallies: iterable of what `tally` returned, on the host or not.
      coefficients: {loss: coefficient} of the minimised losses.

    Returns:
      {'loss': sum of coefficient * entropy, loss: entropy, ...}, to be compared with the losses of
      the same names. A loss that sums several answers into one unit of weight has the sum of
      their entropies.
    """
    counts = dict.fromkeys(coefficients, np.float64(0))
    weights = dict.fromkeys(coefficients, 0.0)
    for one in tallies:
        one = jax.device_get(one)
        for name in coefficients:
            count, weight = one[name]
            counts[name] = counts[name] + np.asarray(count, np.float64)
            weights[name] += float(weight)
    nats = {
        name: of_counts(counts[name]) * float(counts[name].sum()) / weights[name]
        if weights[name]
        else 0.0
        for name in coefficients
    }
    return {"loss": sum(c * nats[name] for name, c in coefficients.items()), **nats}
