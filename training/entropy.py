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


def added(tallies) -> dict:
    """What `tally` returned for each of many batches, on the host or not, as one of float64."""
    whole = {}
    for one in tallies:
        for name, (count, weight) in jax.device_get(one).items():
            counts, total = whole.get(name, (np.float64(0), 0.0))
            whole[name] = counts + np.asarray(count, np.float64), total + float(weight)
    return whole


def of_targets(tally, coefficients: dict[str, float]) -> dict[str, float]:
    """Nats per unit of weight of each minimised loss under the best constant guess.

    Args:
      tally: of a batch, or of many `added` up.
      coefficients: {loss: coefficient} of the minimised losses.

    Returns:
      {'loss': sum of coefficient * entropy, loss: entropy, ...}, to be compared with the losses of
      the same names. A loss that sums several answers into one unit of weight has the sum of
      their entropies.
    """
    nats = {}
    for name in coefficients:
        counts, weight = (np.asarray(x, np.float64) for x in tally[name])
        nats[name] = float(of_counts(counts) * counts.sum() / weight) if weight else 0.0
    return {"loss": sum(c * nats[name] for name, c in coefficients.items()), **nats}
