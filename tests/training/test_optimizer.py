"""Optimizer, schedules and rules against their published formulas in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import durations, optimizer, rules
from training.algorithms import SCHEDULES, AdamW
from training.config import ConfigError

PARAMS = {
    "embed": {"tokens": {"embedding": np.full((4, 2), 0.5, np.float32)}},
    "encoder": {"layer_0": {"mlp": {"in": {"kernel": np.full((2, 3), 0.5, np.float32),
                                           "bias": np.full((3,), 0.5, np.float32)}}}},
}  # fmt: skip
NAMES = rules.paths(PARAMS)


def clock(total):
    return durations.Clock(batch=1, tokens=1, total=total)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_to_the_peak_and_follow_their_formula(name):
    config = AdamW(learning_rate=2.0, schedule=name, warmup="10 steps", decay="20 steps",
                             final_ratio=0.1)  # fmt: skip
    rates = optimizer.schedule(config, clock(100))
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-6)
    for s in (10, 11, 50, 79, 80, 81, 99):
        t = s - 10
        expected = {
            "cosine": 2 * (0.1 + 0.9 * (1 + math.cos(math.pi * t / 90)) / 2),
            "linear": 2 * (1 - 0.9 * t / 90),
            "rsqrt": 2 * math.sqrt(10 / (t + 10)),
            "wsd": 2 * (1 if t < 70 else 1 - 0.9 * (t - 70) / 20),
            "constant": 2.0,
            "relative_step": min(2.0, 1 / math.sqrt(s + 1)),
        }[name]
        assert rates[s] == pytest.approx(expected, rel=1e-5), s


def test_warmup_that_never_ends_is_refused():
    with pytest.raises(ConfigError, match="warmup='100 steps' is 100 of 50 updates"):
        optimizer.schedule(AdamW(warmup="100 steps"), clock(50))


def test_two_updates_equal_adamw_in_numpy():
    config = AdamW(weight_decay=0.1, clip_norm=1.0,
                             rate_rules=((r"embed/.*", 0.5), (r".*", 1.0)))  # fmt: skip
    tx = optimizer.build(config, PARAMS)
    params, state = PARAMS, tx.init(PARAMS)
    expected = {name: np.array(leaf, np.float64) for name, leaf in NAMES.items()}
    m = dict.fromkeys(NAMES, 0.0)
    v = dict.fromkeys(NAMES, 0.0)
    key = jax.random.key(0)
    for step in (1, 2):
        key, sub = jax.random.split(key)
        leaves = {n: jax.random.normal(jax.random.fold_in(sub, i), leaf.shape)
                  for i, (n, leaf) in enumerate(NAMES.items())}  # fmt: skip
        directions, state = tx.update(rules.merge(leaves, {}), state, params)
        params = jax.tree.map(lambda p, d: p - 0.01 * d, params, directions)
        norm = math.sqrt(
            sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in leaves.values())
        )
        assert norm > 1
        for name, gradient in leaves.items():
            g = np.asarray(gradient, np.float64) / norm
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.98 * v[name] + 0.02 * g * g
            update = (m[name] / (1 - 0.9**step)) / (np.sqrt(v[name] / (1 - 0.98**step)) + 1e-8)
            decays = name.endswith(("kernel", "embedding"))
            update = update + (0.1 * expected[name] if decays else 0)
            expected[name] -= 0.01 * (0.5 if name.startswith("embed/") else 1.0) * update
    for name, leaf in rules.paths(params).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=2e-5, err_msg=name)


def test_law_9_rules_are_ordered_and_the_first_match_wins():
    table = rules.resolve(((r".*/kernel", "k"), (r".*", "rest")), NAMES, "rules")
    assert table["encoder/layer_0/mlp/in/kernel"] == "k"
    assert table["encoder/layer_0/mlp/in/bias"] == "rest"


def test_law_9_an_unmatched_parameter_and_an_unused_rule_are_errors():
    with pytest.raises(ConfigError, match="no rule matches parameter 'embed/tokens/embedding'"):
        rules.resolve(((r"encoder/.*", 1.0),), NAMES, "config.optimizer.rate_rules")
    with pytest.raises(ConfigError, match="rule 'decoder/.*' matches no parameter"):
        rules.resolve(((r"decoder/.*", 1.0), (r".*", 1.0)), NAMES, "config.optimizer.rate_rules")
    with pytest.raises(ConfigError, match="matches no parameter"):
        rules.frozen_paths(("decoder/.*",), NAMES)


def test_law_9_frozen_leaves_have_no_optimizer_state():
    frozen = rules.frozen_paths((r"encoder/.*",), NAMES)
    trainable, rest = rules.split(PARAMS, frozen)
    assert set(rules.paths(rest)) == {n for n in NAMES if n.startswith("encoder/")}
    state = optimizer.build(AdamW(), trainable).init(trainable)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if jnp.ndim(leaf))
    assert moments == 2 * 8
    assert rules.paths(rules.merge(trainable, rest)).keys() == NAMES.keys()
