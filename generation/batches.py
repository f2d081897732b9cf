"""Batches of few shapes and their place on a mesh, shared by the kinds of generation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

_AXES = ("data", "fsdp")  # of a mesh: the rows are split over them, as in training


def bucket(count: int, least: int = 1) -> int:
    """The smallest power of two that is at least `count` and `least`, which is a power of two."""
    return max(least, 1 << max(0, count - 1).bit_length())


def _axes(mesh):
    return tuple(axis for axis in _AXES if axis in mesh.shape)


def num_row_shards(mesh: jax.sharding.Mesh | None) -> int:
    """The number of parts that the rows of a batch are split into."""
    return 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in _axes(mesh)]))


def place_rows(mesh: jax.sharding.Mesh | None, x: np.ndarray) -> jax.Array:
    """A NumPy array with a first axis of rows, on the devices."""
    if mesh is None:
        return jnp.asarray(x)
    sharding = NamedSharding(mesh, PartitionSpec(_axes(mesh)))
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
