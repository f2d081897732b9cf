"""The parts of a train step that both entry files share: random streams and accumulated gradients.

The step itself is in train.py and finetune.py. Losses are (sum, weight) pairs, divided once, by the
weight of the whole batch.
"""

import jax
import jax.numpy as jnp

from models import AdaptedModel
from models.adapters import ADAPTER_KEY
from training import sharding
from training.compilation import announced_jit
from training.config import ConfigError
from training.param_rules import merge_params

STREAMS = ("init", "corruption", "evaluation", "dropout", "head")


def rng_stream(seed: int, name: str) -> jax.Array:
    """The root key of a named stream: fold_in(threefry key of the seed, number of the stream)."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), STREAMS.index(name))


def rng_streams(seeds) -> dict[str, jax.Array]:
    """{stream: root key} of the config section `seed`."""
    of = {"init": seeds.init, "corruption": seeds.data, "evaluation": seeds.data,
          "dropout": seeds.dropout, "head": seeds.head}  # fmt: skip
    return {name: rng_stream(seed, name) for name, seed in of.items()}


@announced_jit("the initial parameters", static_argnums=(0, 1))
def init_params(task, model, rngs):
    """Random parameters of a task's model, its heads and its adapter; rngs: `rng_streams`."""
    params = task.init(rngs, model)
    if isinstance(model, AdaptedModel):
        batch = task.abstract_batch
        lengths = [
            x.tokens.shape[-1] for x in (batch.inputs, batch.decoder_inputs) if x is not None
        ]
        model.adapter.check(model.config, max(lengths))
    return sharding.constrain_params({**params, **init_adapter(model, rngs, params)})


@announced_jit("the initial parameters of the adapter", static_argnums=(0,))
def init_adapter(model, rngs, params):
    """{'adapter': its initial parameters}, which may depend on those of the model; {} without any."""
    if not isinstance(model, AdaptedModel):
        return {}
    own = model.adapter.init(jax.random.fold_in(rngs["head"], 1), params, model.config)
    return sharding.constrain_params({ADAPTER_KEY: own} if own else {})


def split_microbatches(batch, count: int):
    """[B, ...] leaves -> [count, B / count, ...]; a microbatch takes every count-th row, so that a
    batch that is sharded over devices stays in place."""

    def split(x):
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def total_loss(task, sums, denominators):
    """The sum over the minimized losses of coefficient * sum / denominator of the whole batch."""
    return sum(
        coefficient * sums[name][0] / jnp.where(denominators[name] > 0, denominators[name], 1.0)
        for name, coefficient in task.loss_coefficients().items()
    )


def accumulate_gradients(task, model, state, frozen, batch, dropout_rng):
    """(gradients of the trainable parameters, {name: (sum, weight)}) over all microbatches.

    Args:
      task: tasks.LoadedTask.
      model: linen module.
      state: TrainState; its optimizer has the number of microbatches, a divisor of the batch.
      frozen: the parameters that are not trained; {} if all are.
      batch: Batch with a leading batch axis.
      dropout_rng: key, or None for no dropout; microbatch m uses fold_in(dropout_rng, m).
    """
    batch = sharding.constrain_batch(batch)
    denominators, count = task.loss_denominators(batch), state.optimizer.grad_accum_steps

    def loss_fn(trainable, part, rng):
        sums = task.losses(model, merge_params(trainable, frozen), part, rng)
        return total_loss(task, sums, denominators), sums

    def rng_of(number):
        return None if dropout_rng is None else jax.random.fold_in(dropout_rng, number)

    gradient = jax.grad(loss_fn, has_aux=True)
    if count == 1:
        return gradient(state.params, batch, rng_of(0))

    def accumulate(carry, numbered):
        number, part = numbered
        return jax.tree.map(jnp.add, carry, gradient(state.params, part, rng_of(number))), None

    parts = split_microbatches(batch, count)
    shapes = jax.eval_shape(
        gradient, state.params, jax.tree.map(lambda x: x[0], parts), dropout_rng
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(accumulate, zeros, (jnp.arange(count), parts))[0]


def check_batch_layout(training, mesh) -> None:
    """Raises ConfigError unless the batch of config.training divides into microbatches and device shards,
    each process holds consecutive rows (process p reads the p-th part of a batch), and remat=offload has
    a host memory."""
    batch_size, grad_accum_steps = training.batch_size, training.grad_accum_steps
    shards = sharding.num_batch_shards(mesh)
    if batch_size % (grad_accum_steps * shards):
        raise ConfigError(
            f"config.training.batch_size={batch_size} does not divide into {grad_accum_steps} "
            f"microbatches on {shards} device shards; choose a multiple of {grad_accum_steps * shards}"
        )
    device = mesh.local_mesh.devices.flat[0]
    if training.remat == "offload" and (
        device.platform == "cpu"
        or "pinned_host" not in [memory.kind for memory in device.addressable_memories()]
    ):
        raise ConfigError(
            f"config.training.remat='offload': {device.device_kind} has no host memory besides its own; use "
            f"remat='dots' or 'full', or an accelerator whose memories include pinned_host"
        )
    if not sharding.rows_follow_processes(mesh):
        processes = len({device.process_index for device in mesh.devices.flat})
        raise ConfigError(
            f"config.mesh={dict(mesh.shape)} puts rows of one process on devices of another; make "
            f"data * fsdp a multiple of the {processes} processes, and keep tensor and sequence within one"
        )
