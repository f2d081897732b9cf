"""Schedules, parameter rules and the whole update against their published formulas in NumPy."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import ADAPTERS
from tasks import TASKS
from training.config import ConfigError
from training.durations import StepConverter
from training.optimizers import AdamW, Lion, Optimizer
from training.param_rules import (
    find_all_frozen,
    find_frozen,
    flatten_params,
    merge_params,
    resolve_rules,
    split_params,
    unflatten_params,
)
from training.schedules import SCHEDULES, learning_rates

PARAMS = {
    "embed": {"tokens": {"embedding": np.full((4, 2), 0.5, np.float32)}},
    "encoder": {"layer_0": {"mlp": {"in": {"kernel": np.full((2, 3), 0.5, np.float32),
                                           "bias": np.full((3,), 0.5, np.float32)}}}},
}  # fmt: skip
NAMES = flatten_params(PARAMS)


def converter(total):
    return StepConverter(batch_size=1, tokens_per_step=1, total_steps=total)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_to_the_peak_and_follow_their_formula(name):
    config = AdamW(learning_rate=2.0, schedule=name, warmup="10 steps", cooldown="20 steps",
                   final_lr_frac=0.1)  # fmt: skip
    found = learning_rates(config, converter(100))
    assert found.shape == (100,) and found.dtype == np.float32
    np.testing.assert_allclose(found[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-6)
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
        assert found[s] == pytest.approx(expected, rel=1e-5), s


def test_a_warmup_as_long_as_the_run_is_an_error():
    with pytest.raises(ConfigError, match="warmup='100 steps' is 100 of 50 steps"):
        learning_rates(AdamW(warmup="100 steps"), converter(50))


def test_two_updates_equal_adamw_in_numpy():
    config = AdamW(weight_decay=0.1, grad_clip_norm=1.0,
                   lr_mults=((r"embed/.*", 0.5), (r".*", 1.0)))  # fmt: skip
    tx = Optimizer(config).transformation(PARAMS)
    params, state = PARAMS, tx.init(PARAMS)
    expected = {name: np.array(leaf, np.float64) for name, leaf in NAMES.items()}
    m = dict.fromkeys(NAMES, 0.0)
    v = dict.fromkeys(NAMES, 0.0)
    key = jax.random.key(0)
    for step in (1, 2):
        key, sub = jax.random.split(key)
        grads = {n: jax.random.normal(jax.random.fold_in(sub, i), leaf.shape)
                 for i, (n, leaf) in enumerate(NAMES.items())}  # fmt: skip
        directions, state = tx.update(unflatten_params(grads), state, params)
        params = jax.tree.map(lambda p, d: p - 0.01 * d, params, directions)
        norm = math.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in grads.values()))
        assert norm > 1
        for name, gradient in grads.items():
            g = np.asarray(gradient, np.float64) / norm
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.98 * v[name] + 0.02 * g * g
            update = (m[name] / (1 - 0.9**step)) / (np.sqrt(v[name] / (1 - 0.98**step)) + 1e-8)
            is_decayed = name.endswith(("kernel", "embedding"))
            update = update + (0.1 * expected[name] if is_decayed else 0)
            expected[name] -= 0.01 * (0.5 if name.startswith("embed/") else 1.0) * update
    for name, leaf in flatten_params(params).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=2e-5, err_msg=name)


def test_optimizers_are_equal_if_only_learning_rate_and_schedule_differ():
    one = Optimizer(AdamW(beta2=0.9), 0.5, 2)
    other = AdamW(beta2=0.9, learning_rate=7.0, schedule="wsd", warmup="never", cooldown="1 step",
                  final_lr_frac=0.5)  # fmt: skip
    other = Optimizer(other, 0.5, 2)
    assert one == other and hash(one) == hash(other)
    for changed in (
        {"config": AdamW(beta2=0.8)},
        {"config": Lion()},
        {"ema_decay": 0.0},
        {"grad_accum_steps": 1},
    ):
        assert dataclasses.replace(one, **changed) != one


def test_invariant_09_rules_are_ordered_and_the_first_match_wins():
    found = resolve_rules(((r".*/kernel", "k"), (r".*", "rest")), NAMES, "rules")
    assert found["encoder/layer_0/mlp/in/kernel"] == "k"
    assert found["encoder/layer_0/mlp/in/bias"] == "rest"


def test_invariant_09_an_unmatched_parameter_and_an_unused_rule_are_errors():
    with pytest.raises(ConfigError, match="no rule matches parameter 'embed/tokens/embedding'"):
        resolve_rules(((r"encoder/.*", 1.0),), NAMES, "config.optimizer.lr_mults")
    with pytest.raises(ConfigError, match="rule 'decoder/.*' matches no parameter"):
        resolve_rules(((r"decoder/.*", 1.0), (r".*", 1.0)), NAMES, "config.optimizer.lr_mults")
    with pytest.raises(ConfigError, match="matches no parameter"):
        find_frozen(("decoder/.*",), NAMES)


def test_invariant_09_frozen_parameters_have_no_optimizer_state():
    frozen = find_frozen((r"encoder/.*",), NAMES)
    trainable, rest = split_params(PARAMS, frozen)
    assert set(flatten_params(rest)) == {n for n in NAMES if n.startswith("encoder/")}
    state = Optimizer(AdamW()).transformation(trainable).init(trainable)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if jnp.ndim(leaf))
    assert moments == 2 * 8
    assert flatten_params(merge_params(trainable, rest)).keys() == NAMES.keys()


def finetuning(task="classification", architecture="encoder", adapter=None, freeze=()):
    """The fields of a FinetuneConfig that determine the trainable parameters."""
    return types.SimpleNamespace(
        task=TASKS[task](), model=types.SimpleNamespace(architecture=architecture),
        adapter=adapter or ADAPTERS["none"](), freeze=freeze,
    )  # fmt: skip


@pytest.mark.parametrize(
    "task, architecture, untrained",
    [
        ("tagging", "encoder_decoder", {"decoder/output/kernel", "embed/decoder_norm/scale"}),
        ("tagging", "decoder", set()),
        ("classification", "encoder_decoder", set()),
        ("regression", "encoder", {"heads/regression/units/mean"}),
    ],
)
def test_invariant_09_what_a_task_does_not_use_is_not_trained(task, architecture, untrained):
    """Weight decay would change parameters whose gradient is 0."""
    names = {"embed/tokens/embedding", "encoder/norm/scale", "decoder/output/kernel",
             "embed/decoder_norm/scale", "heads/regression/units/mean",
             "heads/regression/kernel"}  # fmt: skip
    assert find_all_frozen(finetuning(task, architecture), names) == untrained


def test_invariant_09_an_adapter_freezes_the_model_but_for_heads_and_modules_to_save():
    names = [
        *NAMES,
        "adapter/encoder/layer_0/mlp/in/lora_a/kernel",
        "heads/classification/output/bias",
    ]

    def trained(adapter, freeze=()):
        return set(names) - find_all_frozen(finetuning(adapter=adapter, freeze=freeze), names)

    own = {"adapter/encoder/layer_0/mlp/in/lora_a/kernel", "heads/classification/output/bias"}
    assert trained(ADAPTERS["none"]()) == set(names)
    assert trained(ADAPTERS["lora"]()) == own
    saved = ADAPTERS["lora"](modules_to_save=("embed/.*",))
    assert trained(saved) == own | {name for name in names if name.startswith("embed/")}
    assert trained(saved, freeze=("embed/.*",)) == own
    assert trained(ADAPTERS["bitfit"]()) == {name for name in names if name.endswith("/bias")}
    with pytest.raises(ConfigError, match="trains no parameter: the model has none that it trains"):
        names = ["encoder/layer_0/mlp/in/kernel", "heads/classification/output/kernel"]
        trained(ADAPTERS["bitfit"]())


@pytest.mark.parametrize(
    "side, freeze, message",
    [
        ("decoder", "encoder/.*", "config.task.name='tagging' uses none of them"),
        ("encoder", "adapter/.*", "freeze=.'adapter/...,. has all that the task uses"),
    ],
)
def test_an_adapter_that_trains_nothing_is_refused_by_its_cause(side, freeze, message):
    """A tagger of an encoder-decoder does not use the decoder."""
    names = ["encoder/layer_0/mlp/in/kernel", f"adapter/{side}/layer_0/mlp/in/lora_a/kernel"]
    config = finetuning("tagging", "encoder_decoder", adapter=ADAPTERS["lora"](), freeze=(freeze,))
    with pytest.raises(ConfigError, match=message):
        find_all_frozen(config, names)
