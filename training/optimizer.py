"""Optimizers and schedules by name, all of Optax; ordered rules say what decays and how fast.

The learning rate is an argument of the step, so that runs of different rates, seeds and lengths
share one compiled program.
"""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from training import rules
from training.config import ConfigError

SCHEDULES = ("cosine", "linear", "rsqrt", "wsd", "constant")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) with the schedules of the pretraining literature."""

    name: str = dataclasses.field(default="adamw", metadata={"choices": ("adamw",)})
    learning_rate: float = dataclasses.field(default=1e-3, metadata={"min": 0.0, "help": "peak"})
    schedule: str = dataclasses.field(default="cosine", metadata={"choices": SCHEDULES})
    warmup: str = dataclasses.field(default="6 %", metadata={"help": "duration of linear warmup"})
    decay: str = dataclasses.field(
        default="10 %", metadata={"help": "final decay of wsd (duration)"}
    )
    final_ratio: float = dataclasses.field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    beta1: float = dataclasses.field(default=0.9, metadata={"min": 0.0, "max": 1.0})
    beta2: float = dataclasses.field(default=0.98, metadata={"min": 0.0, "max": 1.0})
    epsilon: float = dataclasses.field(default=1e-8, metadata={"min": 0.0})
    weight_decay: float = dataclasses.field(default=0.01, metadata={"min": 0.0})
    clip_norm: float = dataclasses.field(default=1.0, metadata={"min": 0.0, "help": "0 = none"})
    decay_rules: tuple = dataclasses.field(
        default=((r".*/(kernel|embedding)", 1.0), (r".*", 0.0)),
        metadata={"help": "(regex, factor of weight_decay), first match wins"},
    )
    rate_rules: tuple = dataclasses.field(
        default=((r".*", 1.0),), metadata={"help": "(regex, factor of learning_rate)"}
    )


def schedule(config, clock):
    """Learning rate of every update: float32[total], entry s belongs to the update s -> s + 1.

    cosine and linear fall to `final_ratio` of the peak; rsqrt is peak * sqrt(warmup / step) (Vaswani
    et al. 2017, eq. 3, scaled to its peak); wsd holds, then decays linearly (Hu et al. 2024, 2404.06395).
    """
    total = clock.total
    warmup = clock.steps(config.warmup, "optimizer.warmup")
    peak, low = config.learning_rate, config.learning_rate * config.final_ratio
    after = max(1, total - warmup)
    if warmup >= total and total > 1:
        raise ConfigError(
            f"config.optimizer.warmup={config.warmup!r} is {warmup} of {total} updates; make it shorter"
        )
    if config.schedule == "cosine":
        body = optax.cosine_decay_schedule(peak, after, config.final_ratio)
    elif config.schedule == "linear":
        body = optax.linear_schedule(peak, low, after)
    elif config.schedule == "rsqrt":
        shift = max(1, warmup)
        body = lambda step: peak * jnp.sqrt(shift / (step + shift))  # noqa: E731
    elif config.schedule == "wsd":
        decay = min(after, clock.steps(config.decay, "optimizer.decay"))
        body = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, low, max(1, decay))],
            [after - decay],
        )
    else:
        body = optax.constant_schedule(peak)
    steps = jnp.arange(total, dtype=jnp.int32)
    with (
        jax.default_device(jax.local_devices(backend="cpu")[0]),
        jax.numpy_dtype_promotion("standard"),
    ):
        rise = peak * (steps + 1) / max(1, warmup)
        values = jnp.where(steps < warmup, rise, jax.vmap(body)(jnp.maximum(steps - warmup, 0)))
    return np.asarray(values, np.float32)


def build(config, params):
    """OptimizerConfig and the *trainable* parameters -> an optax transformation without the rate.

    Its updates are directions to subtract, in units of the learning rate (rate rules included).
    """
    flat = rules.paths(params)
    decay = rules.resolve(config.decay_rules, flat, "config.optimizer.decay_rules")
    rate = rules.resolve(config.rate_rules, flat, "config.optimizer.rate_rules")
    chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    chain.append(optax.scale_by_adam(config.beta1, config.beta2, config.epsilon))
    if config.weight_decay and any(decay.values()):
        chain.append(_add_scaled(config.weight_decay, _tree(decay)))
    if any(factor != 1.0 for factor in rate.values()):
        chain.append(_scale(_tree(rate)))
    return optax.chain(*chain)


def table(config, params, frozen):
    """What the rules came to, for the log and the manifest: lines `path  shape  decay  rate`.

    Layers that fare alike share a line (`layer_*`); frozen leaves say so.
    """
    flat = rules.paths(params)
    names = {path: leaf for path, leaf in flat.items() if path not in frozen}
    decay = (
        rules.resolve(config.decay_rules, names, "config.optimizer.decay_rules") if names else {}
    )
    rate = rules.resolve(config.rate_rules, names, "config.optimizer.rate_rules") if names else {}
    lines = collections.Counter()
    for path, leaf in flat.items():
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        fate = "frozen" if path in frozen else f"decay {decay[path]:g}  rate {rate[path]:g}"
        lines[re.sub(r"layer_\d+", "layer_*", path), shape, fate] += 1
    width = max(len(path) for path, _, _ in lines)
    return [
        f"{path:<{width}}  {count:>3} x {shape:<12}  {fate}"
        for (path, shape, fate), count in lines.items()
    ]


def _tree(flat):
    return traverse_util.unflatten_dict(flat, sep="/")


def _add_scaled(weight_decay, factors):
    def update(updates, state, params):
        return jax.tree.map(lambda u, p, f: u + weight_decay * f * p if f else u,
                            updates, params, factors), state  # fmt: skip

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale(factors):
    def update(updates, state, params=None):
        return jax.tree.map(lambda u, f: u * f, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def static(config):
    """The part of the config that a compiled step depends on; rate and schedule are arguments."""
    plain = OptimizerConfig()
    return dataclasses.replace(
        config, learning_rate=plain.learning_rate, schedule=plain.schedule, warmup=plain.warmup,
        decay=plain.decay, final_ratio=plain.final_ratio,
    )  # fmt: skip
