"""TrainState: what is trained, its average and the optimizer state after a number of steps.

Made by `TrainState.create`, changed by `apply_gradients` inside train_step, saved by checkpoint.py.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from training import sharding
from training.optimizers import Optimizer
from training.param_rules import flatten_params, merge_params, unflatten_params


@struct.dataclass
class TrainState:
    """State after `step` updates.

    Attributes:
      step: int32[], updates applied; also the position in the data.
      first_nonfinite_step: int32[], the first update that was skipped because its loss or gradient was
        not finite; -1 if there was none.
      params: nested dict of float32 arrays: the parameters that are trained. The frozen ones are a tree
        of their own, an argument of train_step.
      opt_state: Optax state of `params`.
      ema_params: exponential moving average of `params`; {} without one.
      optimizer: how gradients become updates; static.
    """

    step: jax.Array
    first_nonfinite_step: jax.Array
    params: dict
    opt_state: tuple
    ema_params: dict
    optimizer: Optimizer = struct.field(pytree_node=False)

    @classmethod
    def create(cls, params, optimizer: Optimizer) -> "TrainState":
        """The state before the first update of the trainable `params`."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            first_nonfinite_step=jnp.full((), -1, jnp.int32),
            params=params,
            opt_state=optimizer.transformation(params).init(params),
            ema_params=jax.tree.map(jnp.copy, params) if optimizer.ema_decay else {},
            optimizer=optimizer,
        )

    def apply_gradients(self, grads, sums, loss_coefficients, learning_rate):
        """(state after one more update, sums with the gradient norm).

        A non-finite loss or gradient leaves parameters, average and optimizer state unchanged, and the
        number of the update is recorded; the host raises when it next reads it.

        Args:
          grads: gradients of `params`.
          sums: {name: (sum, weight)} of all losses and metrics.
          loss_coefficients: {name: coefficient} of the minimized losses.
          learning_rate: float32[].
        """
        tx = self.optimizer.transformation(self.params)
        with jax.numpy_dtype_promotion("standard"):  # Optax breaks under strict promotion
            squares = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
            updates, opt_state = tx.update(grads, self.opt_state, self.params)
            finite = jnp.isfinite(squares)
            for name in loss_coefficients:
                finite &= jnp.isfinite(sums[name][0])
            stepped = jax.tree.map(
                lambda p, u: jnp.where(finite, p - learning_rate * u, p), self.params, updates
            )
            ema_params = self.ema_params
            if self.optimizer.ema_decay:
                ema_params = update_ema(
                    ema_params, stepped, self.step + 1, self.optimizer.ema_decay
                )
            opt_state, ema_params = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (opt_state, ema_params),
                (self.opt_state, self.ema_params),
            )
        first = jnp.where(self.first_nonfinite_step < 0, self.step + 1, self.first_nonfinite_step)
        state = self.replace(
            step=self.step + 1,
            first_nonfinite_step=jnp.where(finite, self.first_nonfinite_step, first),
            params=stepped,
            opt_state=opt_state,
            ema_params=ema_params,
        )
        sums = dict(sums, gradient_norm=(jnp.sqrt(squares), jnp.ones(())))
        return sharding.constrain_state(state), sums


def abstract_state(mesh, params, optimizer: Optimizer) -> TrainState:
    """The state around abstract trainable `params`: ShapeDtypeStructs with shardings, as a restore needs
    them."""
    shapes = jax.eval_shape(lambda p: TrainState.create(p, optimizer), params)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding.state_shardings(mesh, shapes),
    )


def update_ema(ema_params, params, step, decay: float):
    """The average after update `step` (1, 2, ...), which produced the trainable `params`.

    The average of update t weighs the parameters of update s by decay^(t - s), normalized: average +=
    (params - average) * (1 - decay) / (1 - decay^t). This is the moving average from zero with Adam's
    bias correction (Kingma & Ba 2015, section 3), kept corrected, so that a reader needs neither the
    decay nor t. The initial parameters have no weight after update 1.
    """
    log = math.log(decay)
    weight = jnp.expm1(log) / jnp.expm1(jnp.asarray(step, jnp.float32) * log)
    return jax.tree.map(lambda a, p: a + weight * (p - a), ema_params, params)


def eval_params(state: TrainState, frozen: dict) -> dict:
    """All parameters, as evaluation, the best checkpoint and finetuning use them: averaged if available."""
    return merge_params(state.ema_params, merge_params(state.params, frozen))


def init_output_bias(params, counts):
    """Initializes each output bias to the log frequency of its targets, so that an untrained model
    predicts the marginal distribution.

    counts: {loss: (float64[classes] weight of each class, denominator of the loss)}. The bias of a head
    with a softmax (heads/lm/bias [V], a generator's too, or heads/NAME/output/bias [C]) becomes log(1 +
    count) of the targets of loss NAME; a single logit [1] becomes their log odds. Without this, the first
    updates write token frequencies into the token embedding or into one direction that all hidden states
    share, which leaves tokens hard to tell apart (docs/log.md).
    """
    flat = flatten_params(params)
    for path, bias in flat.items():
        found = re.fullmatch(r"(?:.*/)?heads/(\w+)/(?:output/)?bias", path)
        if found and found[1] in counts:
            logs = np.log1p(counts[found[1]][0])
            values = np.zeros(bias.shape, np.float32)
            if bias.shape == (1,):
                values[0] = logs[1] - logs[0]
            else:
                size = min(len(logs), len(values))
                values[:size] = logs[:size]
            flat[path] = jax.device_put(values, bias.sharding)
    return unflatten_params(flat)
