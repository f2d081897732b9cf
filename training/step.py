"""One update as a pure function of (state, rows, keys, rate), and one evaluation of a batch.

Between the loop and the model: corruption, microbatches, gradients, the finite check, the update.
Losses are (sum, weight) pairs from end to end and are divided once, by the whole batch's weight.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from objectives.base import Objective, Setting
from training import entropy, rules
from training import mesh as meshes
from training import state as states
from training.config import ConfigError

STREAMS = ("init", "corruption", "evaluation", "dropout", "head")


def stream_key(seed, name):
    """Root key of one named stream: fold_in(threefry key of the seed, stream number)."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), STREAMS.index(name))


def row_numbers(first, count):
    """Global row numbers first .. first + count - 1 as uint32[count, 2] (high and low word)."""
    numbers = np.arange(first, first + count, dtype=np.uint64)
    return np.stack([numbers >> np.uint64(32), numbers & np.uint64(0xFFFFFFFF)], 1).astype(
        np.uint32
    )


def row_keys(key, numbers):
    """One key per row: fold_in(fold_in(stream key, high word), low word), for uint32[B, 2]."""
    return jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(key, n[0]), n[1]))(numbers)


def microbatches(batch, count):
    """[B, ...] leaves -> [count, B / count, ...]; each microbatch takes every count-th row, so that
    a batch sharded over devices stays where it is."""

    def cut(x):
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, batch)


def total_loss(objective, sums, weights):
    """Sum over minimised losses of coefficient * sum / weight of the whole batch."""
    return sum(
        coefficient * sums[name][0] / jnp.maximum(weights[name], 1.0)
        for name, coefficient in objective.coefficients().items()
    )


def gradients(objective, model, trainable, frozen, batch, key, count):
    """Gradient of the total loss over `count` microbatches and the sums of all losses.

    Args:
      trainable, frozen: the two parts of the parameters; gradients are of the first alone.
      batch: an objective's or task's Batch with a leading batch axis.
      key: dropout key, or None for no dropout; microbatch m uses fold_in(key, m).
      count: number of microbatches, a divisor of the batch.

    Returns:
      (gradient tree like `trainable`, {name: (sum, weight)}).
    """
    weights = objective.weights(batch)

    def loss(trainable, part, part_key):
        params = rules.merge(trainable, frozen)
        sums = objective.losses(model, params, part, part_key)
        return total_loss(objective, sums, weights), sums

    gradient = jax.grad(loss, has_aux=True)
    if count == 1:
        return gradient(trainable, batch, None if key is None else jax.random.fold_in(key, 0))

    def accumulate(carry, numbered):
        number, part = numbered
        new = gradient(trainable, part, None if key is None else jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, carry, new), None

    parts = microbatches(batch, count)
    shapes = jax.eval_shape(gradient, trainable, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(accumulate, zeros, (jnp.arange(count), parts))[0]


def update(objective, model, tx, frozen, count, state, batch, key, rate, ema=0.0):
    """(state, batch, key, rate) -> (state after one more update, sums).

    A non-finite loss or gradient leaves parameters, average and moments as they were and records the
    number of the update in `state.nonfinite`; the host raises when it next looks. `ema` is the decay
    of the averaged parameters, 0 for a state without them.
    """
    trainable, fixed = rules.split(state.params, frozen)
    grads, sums = gradients(objective, model, trainable, fixed, batch, key, count)
    with jax.numpy_dtype_promotion("standard"):  # Optax is not written for strict promotion
        squares = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
        directions, optimizer = tx.update(grads, state.optimizer, trainable)
        finite = jnp.isfinite(squares)
        for name in objective.coefficients():
            finite &= jnp.isfinite(sums[name][0])
        stepped = jax.tree.map(
            lambda p, d: jnp.where(finite, p - rate * d, p), trainable, directions
        )
        average = state.average
        if ema:
            average = states.advanced(average, stepped, state.step + 1, ema)
        optimizer, average = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optimizer, average),
            (state.optimizer, state.average),
        )
    first = jnp.where(state.nonfinite < 0, state.step + 1, state.nonfinite)
    sums = dict(sums, gradient_norm=(jnp.sqrt(squares), jnp.ones(())))
    return state.replace(
        step=state.step + 1,
        nonfinite=jnp.where(finite, state.nonfinite, first),
        params=rules.merge(stepped, fixed),
        optimizer=optimizer,
        average=average,
    ), sums


@dataclasses.dataclass(frozen=True)
class Corruption:
    """Raw rows -> Batch inside the compiled step; hashable, so that runs share programs."""

    objective: Objective
    setting: Setting

    def __call__(self, keys, rows):
        return self.objective.corrupt_batch(self.setting, keys, rows)


def as_given(keys, batch):
    """Labelled examples are a Batch already."""
    return batch


@functools.lru_cache(maxsize=64)
def compiled_batch(make_batch):
    """Jitted `(source, numbers, root) -> Batch`: what `compiled_update` makes of its rows, alone."""
    return jax.jit(lambda source, numbers, root: make_batch(row_keys(root, numbers), source))


@functools.lru_cache(maxsize=64)
def compiled_tally(objective, model, make_batch, mesh, placement):
    """Jitted `(params, source, numbers, root) -> entropy.tally` of a batch, `placement` being that of
    the parameters; drops what it need not
    compute, which is all of the model unless its guesses are part of the question."""
    classes = make_batch.setting.vocabulary.size

    def tally(params, source, numbers, root):
        batch = make_batch(row_keys(root, numbers), source)
        return entropy.tally(objective, model, params, batch, None, classes)

    whole, split = meshes.replicated(mesh), meshes.rows(mesh)
    return jax.jit(tally, in_shardings=(placement.tree, split, split, whole),
                   out_shardings=whole)  # fmt: skip


@functools.lru_cache(maxsize=64)
def compiled_update(
    objective, model, make_batch, tx_config, build_tx, frozen, count, mesh, placement, ema=0.0
):
    """Jitted `(state, source, numbers, roots, rate) -> (state, sums)`; one per distinct setting.

    `make_batch(keys, source) -> Batch` runs inside the program: corruption of raw rows for
    pretraining, the identity for labelled examples. Runs of one process that differ only in seeds,
    rates, data or length share the program: `roots` = (corruption key, dropout key) are arguments.
    `placement` holds the state's shardings behind a hashable wrapper.
    """

    def step(state, source, numbers, roots, rate):
        corruption, dropout = roots
        batch = make_batch(row_keys(corruption, numbers), source)
        key = jax.random.fold_in(dropout, state.step)
        trainable, _ = rules.split(state.params, frozen)
        tx = build_tx(tx_config, trainable)
        return update(objective, model, tx, frozen, count, state, batch, key, rate, ema)

    whole, split = meshes.replicated(mesh), meshes.rows(mesh)
    return jax.jit(
        step,
        in_shardings=(placement.tree, split, split, whole, whole),
        out_shardings=(placement.tree, whole),
        donate_argnums=0,
    )


@functools.lru_cache(maxsize=64)
def compiled_evaluation(objective, model, make_batch, mesh, placement):
    """Jitted `(params, source, numbers, root) -> sums`, without dropout; masks depend on row
    numbers alone, so they are the same at every evaluation."""

    def evaluate(params, source, numbers, root):
        batch = make_batch(row_keys(root, numbers), source)
        return objective.losses(model, params, batch, None)

    whole, split = meshes.replicated(mesh), meshes.rows(mesh)
    return jax.jit(evaluate, in_shardings=(placement.tree.params, split, split, whole),
                   out_shardings=whole)  # fmt: skip


class Placement:
    """A tree of shardings that hashes by content, so that it can key a cache."""

    def __init__(self, tree):
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        self._key = (tuple(leaves), structure)

    def __hash__(self):
        return hash(self._key)

    def __eq__(self, other):
        return isinstance(other, Placement) and self._key == other._key


def check_batch(batch_size, count, mesh):
    """Raises ConfigError unless the batch divides into microbatches and device shards, and each
    process holds a part of its own, in order: the data room gives process p the p-th part."""
    shards = meshes.row_divisor(mesh)
    if batch_size % (count * shards):
        raise ConfigError(
            f"config.training.batch_size={batch_size} does not divide into {count} microbatches on "
            f"{shards} device shards; choose a multiple of {count * shards}"
        )
    share = shards // jax.process_count()
    for device, (part,) in meshes.rows(mesh).devices_indices_map((shards,)).items():
        if not share or (part.start or 0) // share != device.process_index:
            raise ConfigError(
                f"config.mesh={dict(mesh.shape)} lays rows of one process on devices of another; "
                f"give data and fsdp together a multiple of {jax.process_count()} (the processes), "
                f"and keep tensor within a process"
            )


@functools.lru_cache(maxsize=64)
def compiled_predictions(task, model, mesh, placement):
    """Jitted `(params, batch) -> predictions`, whole on every process."""

    def predict(params, batch):
        return task.predictions(model, params, batch)

    split = meshes.rows(mesh)
    return jax.jit(predict, in_shardings=(placement.tree.params, split),
                   out_shardings=meshes.replicated(mesh))  # fmt: skip


def no_rows(mesh, batch_size):
    """Row numbers for a step whose batch is given and draws nothing: zeros uint32[B, 2]."""
    local = batch_size // jax.process_count()
    return meshes.global_array(mesh, np.zeros((local, 2), np.uint32))
