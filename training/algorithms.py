"""The optimizers by name, all of Optax: how a gradient becomes a direction of unit rate.

`optimizer.build` wraps a direction in what all of them share: clipping before it; decay by rules and
rates by rules after it. The learning rate itself is an argument of the step.
"""

import dataclasses
import math

import jax
import optax

from models.config import knob
from training import rules
from training.config import ConfigError

SCHEDULES = ("cosine", "linear", "rsqrt", "relative_step", "wsd", "constant")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What every optimizer is told: rate, schedule, clipping, and the rules over parameter paths.

    Each optimizer is a subclass with its own hyperparameters; `name` chooses it in a config.
    """

    learning_rate: float = knob(1e-3, "peak", min=0.0)
    schedule: str = knob("cosine", "shape of the rate over the run", choices=SCHEDULES)
    warmup: str = knob("6 %", "duration of linear warmup")
    decay: str = knob("10 %", "final decay of wsd (duration)")
    final_ratio: float = knob(0.1, "last rate of cosine, linear, wsd / peak", min=0.0, max=1.0)
    weight_decay: float = knob(0.01, "decoupled: the rate times this times p", min=0.0)
    clip_norm: float = knob(1.0, "of the whole gradient; 0 = none", min=0.0)
    decay_rules: tuple = knob(
        ((r".*/(kernel|embedding)", 1.0), (r".*", 0.0)),
        "(regex, factor of weight_decay), first match wins",
    )
    rate_rules: tuple = knob(((r".*", 1.0),), "(regex, factor of learning_rate)")

    def direction(self, params):
        """Optax transformation of clipped gradients into directions, for the *trainable* `params`."""
        raise TypeError(f"{type(self).__name__} is no optimizer; take one of {list(OPTIMIZERS)}")

    def methods(self, leaves):
        """{path: what updates it} for {path: leaf}, for the printed table."""
        return dict.fromkeys(leaves, self.name)


@dataclasses.dataclass(frozen=True)
class AdamW(OptimizerConfig):
    """Adam (Kingma & Ba 2015) with decoupled decay (Loshchilov & Hutter 2019).

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; direction = m^ / (sqrt(v^) + epsilon), with
    m^, v^ corrected for their start at zero.
    """

    name = "adamw"
    beta1: float = knob(0.9, "memory of the gradient", min=0.0, max=1.0)
    beta2: float = knob(0.98, "memory of its square", min=0.0, max=1.0)
    epsilon: float = knob(1e-8, "added to the root", min=0.0)
    parameter_scale: bool = knob(
        False, "steps relative to each tensor's RMS, as Adafactor's (Nawrot 2023, nanoT5)"
    )

    def direction(self, params):
        adam = optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)
        return optax.chain(adam, optax.scale_by_param_block_rms()) if self.parameter_scale else adam


@dataclasses.dataclass(frozen=True)
class Lion(OptimizerConfig):
    """Lion (Chen et al. 2023, 2302.06675, algorithm 2): one moment, and steps of one size.

    direction = sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g.
    """

    name = "lion"
    learning_rate: float = knob(1e-4, "peak; 3 to 10 times below AdamW's", min=0.0)
    weight_decay: float = knob(0.1, "decoupled; 3 to 10 times AdamW's", min=0.0)
    beta1: float = knob(0.9, "share of the moment in the direction", min=0.0, max=1.0)
    beta2: float = knob(0.99, "memory of the moment", min=0.0, max=1.0)

    def direction(self, params):
        return optax.scale_by_lion(self.beta1, self.beta2)


@dataclasses.dataclass(frozen=True)
class Muon(OptimizerConfig):
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for everything else.

    m = momentum m + (1 - momentum) g; direction = scale * NewtonSchulz(m^), the nearest half-orthogonal
    matrix in a few products. `matrices` says which parameters: left to itself Optax takes every
    2-D leaf, embeddings and output layers too.
    """

    name = "muon"
    momentum: float = knob(0.95, "memory of the matrices' gradient", min=0.0, max=0.9999)
    nesterov: bool = knob(True, "look one gradient ahead")
    newton_schulz_steps: int = knob(5, "products of three matrices", min=1)
    consistent_rms: float = knob(
        0.2,
        "scale = this * sqrt(max(in, out)), so that AdamW's rates and decay fit (Liu et al. 2025, "
        "2502.16982, section 2.2); 0: sqrt(max(1, out / in)) of Jordan et al.",
        min=0.0,
    )
    matrices: tuple = knob(
        ((r"(.*/)?(embed|heads|projection)/.*", "adamw"), (r".*/kernel", "muon"), (r".*", "adamw")),
        "(regex, muon | adamw), first match wins; muon needs 2-D kernels [in, out]",
    )
    beta1: float = knob(0.9, "of the AdamW beside", min=0.0, max=1.0)
    beta2: float = knob(0.98, "of the AdamW beside", min=0.0, max=1.0)
    epsilon: float = knob(1e-8, "of the AdamW beside and of the matrices' norm", min=0.0)

    def direction(self, params):
        dimensions = optax.contrib.MuonDimensionNumbers()
        orthogonal = optax.contrib.scale_by_muon(
            ns_steps=self.newton_schulz_steps,
            beta=self.momentum,
            eps=self.epsilon,
            nesterov=self.nesterov,
            weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: dimensions, tree),
        )

        def scaled(updates, params=None):
            return jax.tree.map(lambda u: u * self._scale(*u.shape), updates)

        return optax.partition(
            {
                "muon": optax.chain(orthogonal, optax.stateless(scaled)),
                "adamw": optax.scale_by_adam(self.beta1, self.beta2, self.epsilon),
            },
            rules.merge(self.methods(rules.paths(params)), {}),
        )

    def _scale(self, fan_in, fan_out):
        if self.consistent_rms:
            return self.consistent_rms * math.sqrt(max(fan_in, fan_out))
        return math.sqrt(max(1.0, fan_out / fan_in))

    def methods(self, leaves):
        found = rules.resolve(self.matrices, leaves, "config.optimizer.matrices")
        for path, method in found.items():
            if method not in ("muon", "adamw"):
                raise ConfigError(
                    f"config.optimizer.matrices gives {path!r} to {method!r}; expected 'muon' or 'adamw'"
                )
            if method == "muon" and len(leaves[path].shape) != 2:
                raise ConfigError(
                    f"config.optimizer.matrices gives {path!r} of shape {list(leaves[path].shape)} to "
                    f"muon; expected a matrix [in, out]: put a rule ({path!r}, 'adamw') before it"
                )
        return found


@dataclasses.dataclass(frozen=True)
class Adafactor(OptimizerConfig):
    """Adafactor (Shazeer & Stern 2018, algorithms 4 and 5) as T5 has it: no momentum.

    v = b_t v + (1 - b_t)(g^2 + epsilon) with b_t = 1 - t^-decay_exponent, kept for a large matrix as its row
    and column means; u = g / sqrt(v); u = u / max(1, RMS(u) / update_clip); direction =
    max(smallest_scale, RMS(p)) u. t counts the updates of *this* optimizer state, which is fresh in
    finetuning: T5X's `step_offset` = the step that finetuning begins at.
    """

    name = "adafactor"
    learning_rate: float = knob(1e-2, "peak, relative to each tensor's RMS", min=0.0)
    schedule: str = knob("relative_step", "shape of the rate", choices=SCHEDULES)
    warmup: str = knob("never", "duration of linear warmup")
    weight_decay: float = knob(0.0, "decoupled, on top of the relative step", min=0.0)
    clip_norm: float = knob(0.0, "of the whole gradient; 0 = none, as T5", min=0.0)
    decay_exponent: float = knob(0.8, "c of b_t = 1 - t^-c", min=0.0, max=1.0)
    epsilon: float = knob(1e-30, "added to g^2 (epsilon 1)", min=0.0)
    update_clip: float = knob(1.0, "largest RMS of a tensor's update (d); 0 = none", min=0.0)
    parameter_scale: bool = knob(True, "steps relative to each tensor's RMS")
    smallest_scale: float = knob(1e-3, "least such RMS (epsilon 2)", min=0.0)
    factored_size: int = knob(128, "least side of a matrix that is factored", min=1)

    def direction(self, params):
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

    def methods(self, leaves):
        def factored(shape):
            return len(shape) > 1 and sorted(shape)[-2] >= self.factored_size

        return {path: f"{self.name}, factored" if factored(leaf.shape) else self.name
                for path, leaf in leaves.items()}  # fmt: skip


OPTIMIZERS = {kind.name: kind for kind in (AdamW, Lion, Muon, Adafactor)}
