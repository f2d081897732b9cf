"""What a training run consists of at a step: the clock, the parameters, their average and the moments.

Made by `create`, changed only by training/step.py, saved and restored by training/checkpoint.py.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from training import mesh as meshes
from training import rules


@struct.dataclass
class TrainState:
    """State after `step` updates.

    Attributes:
      step: int32 scalar, updates applied; also the position in the data.
      nonfinite: int32 scalar, number of the first update that was skipped because its loss or
        gradient was not finite; -1 while there is none.
      params: nested dict of float32 arrays, frozen leaves included.
      optimizer: optax state of the trainable subtree.
      average: exponential moving average of the trainable parameters (see `advanced`), {} without one.
    """

    step: jax.Array
    nonfinite: jax.Array
    params: dict
    optimizer: tuple
    average: dict = struct.field(default_factory=dict)


def abstract(params, tx, frozen, ema=0.0):
    """Shapes of the state around abstract `params`; nothing is allocated. ema: as `advanced`."""
    return jax.eval_shape(functools.partial(fresh, tx, frozen, averages=bool(ema)), params)


def target(state, placement):
    """The abstract state with its shardings: what a restore has to fill."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        state,
        placement,
    )


def shardings(mesh, state):
    """Where each leaf of a (possibly abstract) state lives."""
    params = meshes.parameter_shardings(mesh, state.params)
    whole = meshes.replicated(mesh)
    places = rules.paths(params)
    return TrainState(
        step=whole,
        nonfinite=whole,
        params=params,
        optimizer=meshes.like_parameters(mesh, state.optimizer, state.params, params),
        average=rules.merge({path: places[path] for path in rules.paths(state.average)}, {}),
    )


def create(params, tx, frozen, placement):
    """A fresh state around `params`, placed by `placement` (from `shardings`)."""
    params = jax.device_put(params, placement.params)
    state = fresh(tx, frozen, params, averages=bool(placement.average))
    return jax.device_put(state, placement)


def advanced(average, params, step, ema):
    """The average after update `step` (1, 2, ...) that made the trainable `params`.

    With decay `ema` the average of update t weighs the parameters of update s by ema^(t - s),
    normalised: average += (params - average) * (1 - ema) / (1 - ema^t). That is the moving average from
    zero with Adam's correction for its start (Kingma & Ba 2015, section 3), kept corrected, so that
    whoever reads it needs neither ema nor t. The initial parameters have no weight after update 1.
    """
    log = math.log(ema)
    weight = jnp.expm1(log) / jnp.expm1(jnp.asarray(step, jnp.float32) * log)
    return jax.tree.map(lambda a, p: a + weight * (p - a), average, params)


def averaged(state):
    """What evaluation, the best checkpoint and finetuning see: the average where there is one."""
    return rules.merge(state.average, state.params)


def at_frequencies(params, answers):
    """`params` with each output bias at how often its answers occur (entropy.added): the best guess
    before anything is read. That of a head of classes (heads/lm/bias [V], of a generator too, or
    heads/NAME/output/bias [C]) at log(1 + count) of the answers to loss NAME, that of a yes or no, [1],
    at their log odds.

    Then no hidden state has to carry how often each answer occurs, and none of the first updates goes
    into writing that into the token table or into one direction that all states share, which leaves
    tokens hard to tell apart (docs/log.md)."""
    flat = rules.paths(params)
    for path, bias in flat.items():
        found = re.fullmatch(r"(?:.*/)?heads/(\w+)/(?:output/)?bias", path)
        if found and found[1] in answers:
            logs = np.log1p(answers[found[1]][0])
            values = np.zeros(bias.shape, np.float32)
            if bias.shape == (1,):
                values[0] = logs[1] - logs[0]
            else:
                size = min(len(logs), len(values))
                values[:size] = logs[:size]
            flat[path] = jax.device_put(values, bias.sharding)
    return rules.merge(flat, {})


def fresh(tx, frozen, params, averages=False):
    """The state before the first update of `params`, wherever they are."""
    trainable, _ = rules.split(params, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        nonfinite=jnp.full((), -1, jnp.int32),
        params=params,
        optimizer=tx.init(trainable),
        average=jax.tree.map(jnp.copy, trainable) if averages else {},
    )


def initialiser(objective, model, batch):
    """`key -> params` of an objective or a task, shared by all callers with the same shapes.

    Args:
      objective: what has `initialise(model, key, batch) -> params`; hashable.
      model: linen module with hashable fields.
      batch: (abstract) Batch; only shapes matter.
    """
    leaves, structure = jax.tree.flatten(batch)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _initialiser(objective, model, shapes, structure)


@functools.lru_cache(maxsize=64)
def _initialiser(objective, model, shapes, structure):
    def init(key):
        zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
        return objective.initialise(model, key, jax.tree.unflatten(structure, zeros))

    return init


@functools.lru_cache(maxsize=64)
def with_head(init, task):
    """`(key, head key) -> params` of a trunk with a task's head beside it; kept, so that it can key
    the cache of compiled functions."""

    def both(key, head_key):
        params = init(key)
        heads = {**params.get("heads", {}), task.name: task.head_parameters(head_key)}
        return {**params, "heads": heads}

    return both


@functools.lru_cache(maxsize=64)
def compiled(function, placement):
    """`jax.jit(function)` with its output on `placement` (step.Placement), kept per process."""
    return jax.jit(function, out_shardings=placement.tree)
