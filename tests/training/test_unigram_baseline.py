"""The unigram entropy of a loss's targets against counting by hand."""

import collections
import math

import jax.numpy as jnp
import numpy as np
import pytest

from training import unigram_baseline
from training.unigram_baseline import count_targets, num_sample_batches, sum_counts, unigram_entropy


class TwoLosses:
    """A loss of tokens, and one of pairs with two targets per unit of its denominator."""

    def loss_denominators(self, batch):
        return {"lm": batch["loss_weights"].sum(), "pair": jnp.float32(2)}

    def target_classes(self, model, params, batch, rng):
        pair = jnp.array([[1, 1], [0, 1]])
        return {"lm": (batch["targets"], batch["loss_weights"]), "pair": (pair, jnp.ones((2, 2)))}


def test_the_entropy_is_of_the_weighted_targets_of_all_batches():
    random = np.random.default_rng(0)
    counts, by_hand = [], collections.Counter()
    for _ in range(5):
        targets, weights = random.integers(0, 7, (2, 3)), random.random((2, 3)).astype(np.float32)
        batch = {"targets": jnp.array(targets), "loss_weights": jnp.array(weights)}
        counts.append(count_targets(TwoLosses(), None, None, batch, None, 7))
        for target, weight in zip(targets.ravel(), weights.ravel(), strict=True):
            by_hand[int(target)] += float(weight)
    total = sum(by_hand.values())
    lm = -sum(n / total * math.log(n / total) for n in by_hand.values())
    # Four targets, three of them equal, with a denominator of two.
    pair = 2 * -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    found = unigram_entropy(sum_counts(counts), {"lm": 1.0, "pair": 0.5})
    assert found == pytest.approx({"loss": lm + 0.5 * pair, "lm": lm, "pair": pair})


def test_a_loss_without_targets_has_entropy_zero():
    batch = {"targets": jnp.zeros((1, 2), jnp.int32), "loss_weights": jnp.zeros((1, 2))}
    counts = count_targets(TwoLosses(), None, None, batch, None, 3)
    assert unigram_entropy(counts, {"lm": 1.0})["loss"] == 0


def test_targets_of_other_losses_than_are_minimized_are_an_error():
    class Forgetful(TwoLosses):
        def target_classes(self, model, params, batch, rng):
            return {"lm": (batch["targets"], batch["loss_weights"])}

    batch = {"targets": jnp.zeros((1, 2), jnp.int32), "loss_weights": jnp.ones((1, 2))}
    with pytest.raises(ValueError, match="Forgetful.target_classes has the losses lm, .* lm, pair"):
        count_targets(Forgetful(), None, None, batch, None, 3)


def test_the_sample_is_short_however_large_a_batch_is():
    assert num_sample_batches(tokens=100, total=3) == 3
    assert num_sample_batches(tokens=100, total=10**6) == unigram_baseline.MAX_BATCHES
    assert num_sample_batches(tokens=2**30, total=10**6) == 1
