"""The replica axis: the leading axis of the arrays of several finetuning runs in one program.

training/replicas.py says what a replica is.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from training import generated, sharding
from training.sharding import REPLICA


@dataclasses.dataclass(frozen=True)
class ReplicaAxis:
    """The leading axis of the arrays of a program; `jax.jit` takes it as a static argument.

    Attributes:
      size: number of replicas; 0: the arrays have no such axis.
      shares_frozen: all replicas have the same frozen parameters, which have no such axis.
    """

    size: int = 0
    shares_frozen: bool = True

    def vmap(self, function, frozen: int, shared=()):
        """jax.vmap of `function` over the replica axis.

        Args:
          frozen: index of its argument of frozen parameters, which have no such axis if replicas share them.
          shared: indices of other arguments without the axis.
        """
        if not self.size:
            return function
        shared = (*shared, frozen) if self.shares_frozen else shared

        def mapped(*arguments):
            axes = [None if n in shared else 0 for n in range(len(arguments))]
            return jax.vmap(function, in_axes=axes, spmd_axis_name=REPLICA)(*arguments)

        return mapped

    def replicate_counters(self, state, sums):
        """(state, sums) of a train step; every process can read the sums and the counters of all replicas."""
        if not self.size:
            return state, sums
        counters = {"step": state.step, "first_nonfinite_step": state.first_nonfinite_step}
        counters, sums = sharding.constrain_replicated((counters, sums))
        return state.replace(**counters), sums

    def stack(self, trees, mesh, shardings=None):
        """One tree of arrays [R, ...] from a tree for each replica.

        shardings: those of one replica's tree; None: its arrays are replicated over the devices.
        """
        if not self.size:
            return trees[0]
        if shardings is None:
            shardings = jax.tree.map(lambda _: sharding.replicated(mesh), trees[0])
        # Every process reads the counters, so these are replicated (`replicate_counters`).
        shardings = jax.tree.map(
            lambda leaf, own: (
                replica_sharding(mesh, own) if leaf.ndim else sharding.replicated(mesh)
            ),
            trees[0],
            shardings,
        )

        def stack_leaves(*trees):
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

        return jax.jit(stack_leaves, out_shardings=shardings)(*trees)

    def take_replica(self, state, number: int):
        """The TrainState of one replica."""
        return _take_replica(state, number) if self.size else state

    def global_batch(self, mesh, inputs):
        """A global array [R, B, ...] from each replica's global batch [B, ...] of NumPy arrays; for a run
        alone, from this process's rows."""
        if not self.size:
            return sharding.global_array(mesh, inputs[0])
        batch = replica_sharding(mesh, sharding.batch_sharding(mesh))
        return jax.tree.map(lambda *x: _make_global_array(np.stack(x), batch), *inputs)

    def stack_values(self, values):
        """The values of all replicas, stacked: {metric: [R]} of dicts, float32[total, R] of learning
        rates."""
        if not self.size:
            return values[0]
        if isinstance(values[0], dict):
            return {name: np.array([each[name] for each in values]) for name in values[0]}
        return np.stack(values, axis=-1)

    def evaluate(self, task, split, predict, failed=(), is_final=False, generator_args=()):
        """([the predictions of each replica], [its {metric: value}]) for a split.

        Args:
          predict: function of evaluation inputs that returns `LoadedTask.outputs` of all replicas.
          failed: numbers of replicas without scores; theirs are NaN.
          is_final: whether this is the final evaluation.
          generator_args: (model, params, frozen, mesh), for a task that generates.
        """
        outputs = jax.device_get([predict(inputs) for inputs in task.eval_inputs(split)])
        own = [outputs]
        if self.size:
            own = [_index(outputs, number) for number in range(self.size)]
        predictions = [task.collect(split, task.in_order(split, each)) for each in own]
        count = task.num_to_generate(split, is_final)
        for number in sorted({*range(len(own))}.difference(failed)) if count else ():
            found = generated.generate(self, task, split, number, count, is_final, *generator_args)
            predictions[number] = task.with_generated(predictions[number], found)
        scores = [
            {} if number in failed else task.score(split, each)
            for number, each in enumerate(predictions)
        ]
        names = next(filter(None, scores), {})
        return predictions, [each or dict.fromkeys(names, np.nan) for each in scores]

    def global_shared_batch(self, mesh, inputs):
        """A global array [B, ...] that all replicas read."""
        if not self.size:
            return sharding.global_array(mesh, inputs)
        batch = sharding.batch_sharding(mesh)
        return jax.tree.map(lambda x: _make_global_array(x, batch), inputs)


def replica_sharding(mesh, own) -> NamedSharding:
    """Adds the replica axis to a sharding `own` of one replica's array, for arrays [R, ...]."""
    return NamedSharding(mesh, PartitionSpec(REPLICA, *own.spec))


@jax.jit
def _take_replica(state, number):
    def one(x):
        return jax.lax.dynamic_index_in_dim(x, number, keepdims=False)

    return sharding.constrain_state(jax.tree.map(one, state))


def _index(tree, number):
    return jax.tree.map(lambda x: x[number], tree)


def _make_global_array(x, own_sharding):
    """A global array with a sharding, from the whole array `x` on each host."""
    return jax.make_array_from_callback(x.shape, own_sharding, lambda index: x[index])


def stack_replicas(pairs, size, mesh):
    """(ReplicaAxis, TrainState, frozen) of [(TrainState, frozen)]: arrays [size, ...]; unchanged for 0."""
    states, frozen = [state for state, _ in pairs], [params for _, params in pairs]
    shares = all(tree is frozen[0] for tree in frozen)
    axis = ReplicaAxis(size, shares)
    state = axis.stack(states, mesh, jax.tree.map(lambda x: x.sharding, states[0]))
    if shares:
        return axis, state, frozen[0]
    return axis, state, axis.stack(frozen, mesh, jax.tree.map(lambda x: x.sharding, frozen[0]))


def share_frozen(pairs):
    """Yields (state, frozen) pairs with one tree for all frozen ones that equal the first, so that a base is
    held once; pairs: an iterator."""
    first = None
    for state, frozen in pairs:
        if first is None:
            first = frozen
        # The structures differ if a replica has no checkpoint.
        elif jax.tree.structure(first) == jax.tree.structure(frozen) and _all_equal(first, frozen):
            frozen = first
        yield state, frozen


@jax.jit
def _all_equal(tree, other):
    """bool[], replicated: also for arrays that are split over processes."""
    equal = jax.tree.map(jnp.array_equal, tree, other)
    return sharding.constrain_replicated(jax.tree.reduce(jnp.logical_and, equal, jnp.bool_(True)))
