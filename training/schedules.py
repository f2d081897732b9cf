"""Learning-rate schedules: one learning rate for every step of a run, computed before it starts.

The learning rate is an argument of the train step, so that runs with other learning rates share its program.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from training.config import ConfigError

SCHEDULES = ("cosine", "linear", "rsqrt", "relative_step", "wsd", "constant")


def learning_rates(config, converter):
    """float32[total_steps]: entry s is the learning rate of the update from step s to step s + 1.

    Every schedule starts with `warmup`, a linear rise to the peak. cosine and linear fall to
    `final_lr_frac` of the peak. rsqrt is peak * sqrt(warmup / step) (Vaswani et al. 2017, eq. 3, scaled to
    its peak). relative_step is min(peak, 1 / sqrt(step)), the schedule of Adafactor and T5 (Shazeer &
    Stern 2018, algorithm 6; Raffel et al. 2020, section 3.1.2). wsd is constant, then falls linearly
    during `cooldown` (Hu et al. 2024, 2404.06395).

    Args:
      config: OptimizerConfig.
      converter: durations.StepConverter with the run's total_steps.

    Raises:
      ConfigError: the warmup is as long as the run.
    """
    total, warmup = converter.total_steps, warmup_steps(config, converter)
    peak, final = config.learning_rate, config.learning_rate * config.final_lr_frac
    after = max(1, total - warmup)
    if config.schedule == "cosine":
        body = optax.cosine_decay_schedule(peak, after, config.final_lr_frac)
    elif config.schedule == "linear":
        body = optax.linear_schedule(peak, final, after)
    elif config.schedule == "rsqrt":
        shift = max(1, warmup)
        body = lambda step: peak * jnp.sqrt(shift / (step + shift))  # noqa: E731
    elif config.schedule == "relative_step":
        body = lambda step: jnp.minimum(peak, 1 / jnp.sqrt(step + warmup + 1))  # noqa: E731
    elif config.schedule == "wsd":
        cooldown = min(after, converter.steps(config.cooldown, "optimizer.cooldown"))
        body = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, final, max(1, cooldown))],
            [after - cooldown],
        )
    else:
        body = optax.constant_schedule(peak)
    steps = jnp.arange(total, dtype=jnp.int32)
    with (
        jax.default_device(_host_device()),
        jax.numpy_dtype_promotion("standard"),
    ):
        rise = peak * (steps + 1) / max(1, warmup)
        values = jnp.where(steps < warmup, rise, jax.vmap(body)(jnp.maximum(steps - warmup, 0)))
    return np.asarray(values, np.float32)


def warmup_steps(config, converter):
    """The steps of the warmup. Raises ConfigError if it is as long as the run."""
    total, warmup = converter.total_steps, converter.steps(config.warmup, "optimizer.warmup")
    if warmup >= total and total > 1:
        raise ConfigError(
            f"config.optimizer.warmup={config.warmup!r} is {warmup} of {total} steps; make it shorter"
        )
    return warmup


def _host_device():
    """The CPU, so that the values are those of any machine, unless JAX_PLATFORMS excludes it."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def describe(config, values):
    """One line: the learning rates `values` (float32[total]) at the peak, half-way and at the end."""
    total, peak = len(values), int(np.argmax(values))
    points = sorted({0, peak, (peak + total) // 2, total - 1})
    text = ", ".join(f"{values[point]:.4g} at update {point + 1:,}" for point in points)
    return f"{config.schedule} schedule of {total:,} steps: learning rate {text}"
