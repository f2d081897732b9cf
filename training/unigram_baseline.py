"""The loss of a model that predicts the marginal distribution of the targets, whatever the input.

train.py prints it before training: a loss that stays there has learned nothing beyond token frequencies.
"""

import jax
import jax.numpy as jnp
import numpy as np

# The sample of a run's own batches that the frequencies are counted in.
MAX_BATCHES, MAX_TOKENS = 200, 2**20


def num_sample_batches(tokens: int, total: int) -> int:
    """The number of batches to count, of a run's `total` batches of `tokens` tokens."""
    return max(1, min(total, MAX_BATCHES, MAX_TOKENS // tokens))


def count_targets(loss, model, params, batch, rng, num_classes: int) -> dict:
    """{loss: (float32[num_classes] summed weight of each target class, loss denominator)} of a batch.

    Sums, so that batches add up. Raises ValueError if `loss.target_classes` names other losses than
    are minimized.
    """
    denominators = loss.loss_denominators(batch)
    targets = loss.target_classes(model, params, batch, rng)
    if targets.keys() != denominators.keys():
        raise ValueError(
            f"{type(loss).__name__}.target_classes has the losses {', '.join(targets)}, expected "
            f"{', '.join(denominators)}: return the targets of every minimized loss"
        )
    return {
        name: (
            jnp.zeros(num_classes, jnp.float32).at[classes.reshape(-1)].add(weight.reshape(-1)),
            denominators[name],
        )
        for name, (classes, weight) in targets.items()
    }


def sum_counts(batches) -> dict:
    """Sums what `count_targets` returned for each batch, on the host in float64."""
    summed = {}
    for batch in batches:
        for name, (counts, denominator) in jax.device_get(batch).items():
            old_counts, old = summed.get(name, (np.float64(0), 0.0))
            summed[name] = old_counts + np.asarray(counts, np.float64), old + float(denominator)
    return summed


def unigram_entropy(counts, loss_coefficients: dict[str, float]) -> dict[str, float]:
    """The loss of the best constant prediction, in nats per unit of weight.

    Args:
      counts: from `count_targets` or `sum_counts`.
      loss_coefficients: {loss: coefficient} of the minimized losses.

    Returns:
      {'loss': weighted sum, loss: entropy, ...}, comparable with the losses of the same names. A loss
      with several targets per unit of weight has the sum of their entropies.
    """
    nats = {}
    for name in loss_coefficients:
        count, denominator = (np.asarray(x, np.float64) for x in counts[name])
        shares = count[count > 0] / count.sum()
        entropy = float(-(shares * np.log(shares)).sum())
        nats[name] = float(entropy * count.sum() / denominator) if denominator else 0.0
    return {"loss": sum(c * nats[name] for name, c in loss_coefficients.items()), **nats}
