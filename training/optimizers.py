"""The optimizers, all from Optax, and `Optimizer`: everything about updates that a train step compiles in.

Clipping, weight decay, learning-rate multipliers and freezing work the same with every optimizer. The
learning rate itself is an argument of the train step (training/schedules.py).
"""

import collections
import dataclasses
import math
import re

import jax
import optax

from models.config import option
from training.config import ConfigError
from training.param_rules import flatten_params, resolve_rules, unflatten_params
from training.schedules import SCHEDULES
from training.unfreezing import gradually, layers_below_top


def _moment_dtype(of):
    """The option for the dtype of a first moment; bfloat16 halves its memory."""
    return option("float32", f"dtype in which {of} is stored", choices=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The options that every optimizer has. Each optimizer is a subclass; `name` chooses it."""

    learning_rate: float = option(1e-3, "peak learning rate", min=0.0, axis=True)
    schedule: str = option("cosine", "shape of the learning rate", choices=SCHEDULES)
    warmup: str = option("6 %", "duration of the linear warmup")
    cooldown: str = option("10 %", "duration of the final decay of wsd")
    final_lr_frac: float = option(
        0.1, "final learning rate of cosine, linear and wsd / peak", min=0.0, max=1.0
    )
    weight_decay: float = option(0.01, "decoupled: lr * weight_decay * parameter", min=0.0)
    grad_clip_norm: float = option(1.0, "largest norm of the whole gradient; 0: none", min=0.0)
    wd_mults: tuple = option(
        ((r".*/(kernel|embedding)", 1.0), (r".*", 0.0)),
        "((regex, multiplier of weight_decay), ...), first match wins",
    )
    lr_mults: tuple = option(((r".*", 1.0),), "((regex, multiplier of learning_rate), ...)")
    layer_lr_decay: float = option(
        1.0,
        "layer-wise learning-rate decay: the learning rate of each layer, and of the embeddings, is that of "
        "the layer above times this",
        min=1e-6,
        max=1.0,
    )
    gradual_unfreezing: str = option(
        "never",
        "duration after which one more layer is trained, from the top; the heads are from the start (Howard "
        "& Ruder 2018)",
    )

    def direction(self, algorithms):
        """Optax transformation from clipped gradients to directions, for parameters {path: algorithm}."""
        raise TypeError(f"{type(self).__name__} is abstract; use one of {list(OPTIMIZERS)}")

    def algorithms(self, flat):
        """{path: the algorithm that updates it} for {path: array}."""
        return dict.fromkeys(flat, self.name)


@dataclasses.dataclass(frozen=True)
class AdamW(OptimizerConfig):
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019).

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; direction = m^ / (sqrt(v^) + epsilon), where m^ and v^
    are m and v corrected for their initial zero.
    """

    name = "adamw"
    beta1: float = option(0.9, "decay of the gradient's average", min=0.0, max=1.0)
    beta2: float = option(0.98, "decay of the squared gradient's average", min=0.0, max=1.0)
    epsilon: float = option(1e-8, "added to the root", min=0.0)
    parameter_scale: bool = option(False, "multiply updates by each tensor's RMS (Nawrot 2023)")
    mu_dtype: str = _moment_dtype("the gradient's average (not the squared gradient's)")

    def direction(self, algorithms):
        adam = optax.scale_by_adam(self.beta1, self.beta2, self.epsilon, mu_dtype=self.mu_dtype)
        return optax.chain(adam, optax.scale_by_param_block_rms()) if self.parameter_scale else adam


@dataclasses.dataclass(frozen=True)
class Lion(OptimizerConfig):
    """Lion (Chen et al. 2023, 2302.06675, algorithm 2): one moment, and updates of one size.

    direction = sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g.
    """

    name = "lion"
    learning_rate: float = option(
        1e-4, "peak learning rate; 3 to 10 times below AdamW's", min=0.0, axis=True
    )
    weight_decay: float = option(0.1, "decoupled; 3 to 10 times AdamW's", min=0.0)
    beta1: float = option(0.9, "weight of the moment in the direction", min=0.0, max=1.0)
    beta2: float = option(0.99, "decay of the moment", min=0.0, max=1.0)
    mu_dtype: str = _moment_dtype("the moment")

    def direction(self, algorithms):
        return optax.scale_by_lion(self.beta1, self.beta2, self.mu_dtype)


@dataclasses.dataclass(frozen=True)
class Muon(OptimizerConfig):
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for all other parameters.

    m = momentum m + (1 - momentum) g; direction = scale * NewtonSchulz(m^), approximately the nearest
    semi-orthogonal matrix. `matrices` chooses the parameters: by default Optax's Muon takes every 2-D
    parameter, embeddings and output layers too.
    """

    name = "muon"
    momentum: float = option(0.95, "decay of the matrices' momentum", min=0.0, max=0.9999)
    nesterov: bool = option(True, "Nesterov momentum")
    newton_schulz_steps: int = option(5, "iterations of Newton-Schulz", min=1)
    consistent_rms: float = option(
        0.2,
        "scale = this * sqrt(max(in, out)), so that AdamW's learning rate and weight decay fit (Liu et al. "
        "2025, 2502.16982, section 2.2); 0: sqrt(max(1, out / in)) of Jordan et al.",
        min=0.0,
    )
    matrices: tuple = option(
        ((r"(.*/)?(embed|heads|projection)/.*", "adamw"), (r".*/kernel", "muon"), (r".*", "adamw")),
        "((regex, 'muon' or 'adamw'), ...), first match wins; muon needs 2-D kernels [in, out]",
    )
    beta1: float = option(0.9, "of AdamW, for the other parameters", min=0.0, max=1.0)
    beta2: float = option(0.98, "of AdamW, for the other parameters", min=0.0, max=1.0)
    epsilon: float = option(1e-8, "of AdamW, and added to the matrices' norm", min=0.0)
    mu_dtype: str = _moment_dtype("the momentum, and AdamW's average of the gradient,")

    def direction(self, algorithms):
        dimensions = optax.contrib.MuonDimensionNumbers()
        orthogonal = optax.contrib.scale_by_muon(
            ns_steps=self.newton_schulz_steps,
            beta=self.momentum,
            eps=self.epsilon,
            nesterov=self.nesterov,
            mu_dtype=self.mu_dtype,
            weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: dimensions, tree),
        )

        def scaled(updates, params=None):
            return jax.tree.map(lambda u: u * self._scale(*u.shape), updates)

        return optax.partition(
            {
                "muon": optax.chain(orthogonal, optax.stateless(scaled)),
                "adamw": optax.scale_by_adam(
                    self.beta1, self.beta2, self.epsilon, mu_dtype=self.mu_dtype
                ),
            },
            unflatten_params(algorithms),
        )

    def _scale(self, fan_in, fan_out):
        if self.consistent_rms:
            return self.consistent_rms * math.sqrt(max(fan_in, fan_out))
        return math.sqrt(max(1.0, fan_out / fan_in))

    def algorithms(self, flat):
        what = "config.optimizer.matrices"
        found = resolve_rules(self.matrices, flat, what)
        for path, algorithm in found.items():
            if algorithm not in ("muon", "adamw"):
                raise ConfigError(
                    f"{what} gives {path!r} to {algorithm!r}; expected 'muon' or 'adamw'"
                )
            if algorithm == "muon" and len(flat[path].shape) != 2:
                raise ConfigError(
                    f"{what} gives {path!r} of shape {list(flat[path].shape)} to muon; expected a matrix "
                    f"[in, out]: put a rule ({path!r}, 'adamw') before it"
                )
        return found


@dataclasses.dataclass(frozen=True)
class Adafactor(OptimizerConfig):
    """Adafactor (Shazeer & Stern 2018, algorithms 4 and 5) without momentum, as in T5.

    v = b_t v + (1 - b_t)(g^2 + epsilon) with b_t = 1 - t^-decay_exponent, stored for a large matrix as its
    row and column means; u = g / sqrt(v); u = u / max(1, RMS(u) / update_clip); direction =
    max(smallest_scale, RMS(p)) u. t counts the updates of this optimizer state, which is new in
    finetuning: T5X sets `step_offset` to the first step of finetuning instead.
    """

    name = "adafactor"
    learning_rate: float = option(1e-2, "peak, relative to each tensor's RMS", min=0.0, axis=True)
    schedule: str = option("relative_step", "shape of the learning rate", choices=SCHEDULES)
    warmup: str = option("never", "duration of the linear warmup")
    weight_decay: float = option(0.0, "decoupled: lr * weight_decay * parameter", min=0.0)
    grad_clip_norm: float = option(0.0, "largest norm of the whole gradient; 0: none", min=0.0)
    decay_exponent: float = option(0.8, "c in b_t = 1 - t^-c", min=0.0, max=1.0)
    epsilon: float = option(1e-30, "added to g^2 (epsilon 1)", min=0.0)
    update_clip: float = option(1.0, "largest RMS of a tensor's update (d); 0: none", min=0.0)
    parameter_scale: bool = option(True, "multiply updates by each tensor's RMS")
    smallest_scale: float = option(1e-3, "lower bound of that RMS (epsilon 2)", min=0.0)
    factored_size: int = option(128, "smallest side of a matrix that is factored", min=1)

    def direction(self, algorithms):
        chain = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_exponent,
                min_dim_size_to_factor=self.factored_size,
                epsilon=self.epsilon,
            )
        ]
        if self.update_clip:
            chain.append(optax.clip_by_block_rms(self.update_clip))
        if self.parameter_scale:
            chain.append(optax.scale_by_param_block_rms(self.smallest_scale))
        return optax.chain(*chain)

    def algorithms(self, flat):
        def is_factored(shape):
            return len(shape) > 1 and sorted(shape)[-2] >= self.factored_size

        return {
            path: f"{self.name}, factored" if is_factored(leaf.shape) else self.name
            for path, leaf in flat.items()
        }


OPTIMIZERS = {kind.name: kind for kind in (AdamW, Lion, Muon, Adafactor)}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients change the parameters, apart from the learning rate. Hashable: `jax.jit` takes it
    as a static argument.

    Attributes:
      config: OptimizerConfig; learning rate and schedule are reset to their defaults, so that runs that
        differ in nothing else are equal.
      ema_decay: decay of the averaged parameters, 0.0 for none.
      grad_accum_steps: microbatches per step.
      unfreeze_every: steps after which one more layer is trained; 0: all are from the start.
    """

    config: OptimizerConfig
    ema_decay: float = 0.0
    grad_accum_steps: int = 1
    unfreeze_every: int = 0

    @classmethod
    def of(cls, config, converter) -> "Optimizer":
        """That of a run: its config, and the durations.StepConverter of its task."""
        name = "optimizer.gradual_unfreezing"
        every = converter.steps(config.optimizer.gradual_unfreezing, name)
        training = config.training
        return cls(config.optimizer, training.ema_decay, training.grad_accum_steps, every)

    def __post_init__(self):
        default = type(self.config)()
        names = ("learning_rate", "schedule", "warmup", "cooldown", "final_lr_frac",
                 "gradual_unfreezing")  # fmt: skip
        reset = {name: getattr(default, name) for name in names}
        object.__setattr__(self, "config", dataclasses.replace(self.config, **reset))

    def transformation(self, params):
        """Optax transformation for the trainable `params`, without the learning rate.

        Its updates are directions to subtract, in units of the learning rate (lr_mults included)."""
        config, flat = self.config, flatten_params(params)
        wd_mults, lr_mults = _multipliers(config, flat)
        algorithms = config.algorithms(flat)
        clip = [optax.clip_by_global_norm(config.grad_clip_norm)] if config.grad_clip_norm else []

        def after_clipping(paths):
            chain = [config.direction({path: algorithms[path] for path in paths})]
            wd, lr = ({path: table[path] for path in paths} for table in (wd_mults, lr_mults))
            if config.weight_decay and any(wd.values()):
                chain.append(_add_weight_decay(config.weight_decay, unflatten_params(wd)))
            if any(multiplier != 1.0 for multiplier in lr.values()):
                chain.append(_scale(unflatten_params(lr)))
            return chain

        if self.unfreeze_every:
            return gradually(
                optax.chain(*clip, optax.identity()),
                lambda part: optax.chain(*after_clipping(flatten_params(part))),
                self.unfreeze_every,
            )
        return optax.chain(*clip, *after_clipping(flat))


def describe_param_rules(config, params, frozen):
    """Lines `path  count x shape  lr ...  wd ...  algorithm` for the log and the manifest.

    Layers with equal entries share a line (`layer_*`)."""
    flat = flatten_params(params)
    trainable = {path: leaf for path, leaf in flat.items() if path not in frozen}
    wd_mults, lr_mults = _multipliers(config, trainable)
    algorithms = config.algorithms(trainable)
    lines, layers = collections.Counter(), r"layer_\d+" if config.layer_lr_decay == 1 else "$^"
    for path, leaf in flat.items():
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        rules = "frozen"
        if path in trainable:
            rules = f"lr {lr_mults[path]:g}  wd {wd_mults[path]:g}  {algorithms[path]}"
        lines[re.sub(layers, "layer_*", path), shape, rules] += 1
    width = max(len(path) for path, _, _ in lines)
    return [
        f"{path:<{width}}  {count:>3} x {shape:<12}  {rules}"
        for (path, shape, rules), count in lines.items()
    ]


def _multipliers(config, flat):
    """{path: multiplier} of the weight decay and of the learning rate."""
    lr_mults = resolve_rules(config.lr_mults, flat, "config.optimizer.lr_mults")
    if config.layer_lr_decay != 1:
        below = layers_below_top(flat)
        lr_mults = {p: m * config.layer_lr_decay ** below[p] for p, m in lr_mults.items()}
    return resolve_rules(config.wd_mults, flat, "config.optimizer.wd_mults"), lr_mults


def _add_weight_decay(weight_decay, multipliers):
    def update(updates, params):
        return jax.tree.map(
            lambda u, p, m: u + weight_decay * m * p if m else u, updates, params, multipliers
        )

    return optax.stateless(update)


def _scale(multipliers):
    def update(updates, params):
        return jax.tree.map(lambda u, m: u * m, updates, multipliers)

    return optax.stateless(update)
