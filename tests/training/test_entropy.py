"""The entropy of a loss's own targets, against counting by hand."""

import collections
import math

import jax.numpy as jnp
import numpy as np
import pytest

from training import entropy


class Asks:
    """Two losses, of pieces and of pairs; the pair's answers have twice the weight it counts."""

    name = "asks"

    def weights(self, batch):
        return {"lm": batch["weights"].sum(), "pair": jnp.float32(2)}

    def answers(self, model, params, batch, key):
        pair = jnp.array([[1, 1], [0, 1]])
        return {"lm": (batch["targets"], batch["weights"]), "pair": (pair, jnp.ones((2, 2)))}


def test_entropies_are_those_of_the_weighted_targets_of_all_batches():
    random = np.random.default_rng(0)
    tallies, counted = [], collections.Counter()
    for _ in range(5):
        targets, weights = random.integers(0, 7, (2, 3)), random.random((2, 3)).astype(np.float32)
        batch = {"targets": jnp.array(targets), "weights": jnp.array(weights)}
        tallies.append(entropy.tally(Asks(), None, None, batch, None, 7))
        for target, weight in zip(targets.ravel(), weights.ravel(), strict=True):
            counted[int(target)] += float(weight)
    total = sum(counted.values())
    by_hand = -sum(n / total * math.log(n / total) for n in counted.values())
    # Four answers, three of one kind, counted as two.
    pair = 2 * -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    found = entropy.of_targets(entropy.added(tallies), {"lm": 1.0, "pair": 0.5})
    assert found == pytest.approx({"loss": by_hand + 0.5 * pair, "lm": by_hand, "pair": pair})


def test_a_loss_without_any_target_has_no_entropy():
    none = {"targets": jnp.zeros((1, 2), jnp.int32), "weights": jnp.zeros((1, 2))}
    tally = entropy.tally(Asks(), None, None, none, None, 3)
    assert entropy.of_targets(tally, {"lm": 1.0})["loss"] == 0


def test_answers_of_other_losses_than_are_minimised_are_refused():
    class Forgetful(Asks):
        def answers(self, model, params, batch, key):
            return {"lm": (batch["targets"], batch["weights"])}

    one = {"targets": jnp.zeros((1, 2), jnp.int32), "weights": jnp.ones((1, 2))}
    with pytest.raises(ValueError, match="asks.answers speaks of the losses lm, but .* lm, pair"):
        entropy.tally(Forgetful(), None, None, one, None, 3)


def test_a_look_at_the_targets_is_short_however_large_a_batch_is():
    assert entropy.sample(tokens=100, total=3) == 3
    assert entropy.sample(tokens=100, total=10**6) == entropy.BATCHES
    assert entropy.sample(tokens=2**30, total=10**6) == 1
