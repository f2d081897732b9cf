"""From an optimizer's config to what a step needs: the rate of every update, and one transformation.

Algorithms (training/algorithms.py) meet schedules and ordered rules here. The learning rate is an argument
of the step, so that runs of different rates, seeds and lengths share one compiled program.
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


def schedule(config, clock):
    """Learning rate of every update: float32[total], entry s belongs to the update s -> s + 1.

    cosine and linear fall to `final_ratio` of the peak; rsqrt is peak * sqrt(warmup / step) (Vaswani
    et al. 2017, eq. 3, scaled to its peak); relative_step is min(peak, 1 / sqrt(update)), Adafactor's and
    T5's (Shazeer & Stern 2018, algorithm 6; Raffel et al. 2020, section 3.1.2); wsd holds, then decays
    linearly (Hu et al. 2024, 2404.06395).
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
    elif config.schedule == "relative_step":
        body = lambda step: jnp.minimum(peak, 1 / jnp.sqrt(step + warmup + 1))  # noqa: E731
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
    chain.append(config.direction(params))
    if config.weight_decay and any(decay.values()):
        chain.append(_add_scaled(config.weight_decay, _tree(decay)))
    if any(factor != 1.0 for factor in rate.values()):
        chain.append(_scale(_tree(rate)))
    return optax.chain(*chain)


def table(config, params, frozen):
    """What the rules came to, for the log and the manifest: `path  shape  decay  rate  optimizer`.

    Layers that fare alike share a line (`layer_*`); frozen leaves say so.
    """
    flat = rules.paths(params)
    names = {path: leaf for path, leaf in flat.items() if path not in frozen}
    decay = (
        rules.resolve(config.decay_rules, names, "config.optimizer.decay_rules") if names else {}
    )
    rate = rules.resolve(config.rate_rules, names, "config.optimizer.rate_rules") if names else {}
    method = config.methods(names) if names else {}
    lines = collections.Counter()
    for path, leaf in flat.items():
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        fate = "frozen"
        if path not in frozen:
            fate = f"decay {decay[path]:g}  rate {rate[path]:g}  {method[path]}"
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
    plain = type(config)()
    return dataclasses.replace(
        config, learning_rate=plain.learning_rate, schedule=plain.schedule, warmup=plain.warmup,
        decay=plain.decay, final_ratio=plain.final_ratio,
    )  # fmt: skip
