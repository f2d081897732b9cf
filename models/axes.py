"""The letters of the axes, declared once, and `constrain`, which ties an array's axes to a mesh.
Layers say what the axes of an array are; training/ says where each letter lies on its mesh.
Without rules (one device, most tests) `constrain` gives its argument back.
"""

import math

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

LETTERS = {
    "B": "rows of the batch",
    "T": "positions (of queries)",
    "S": "positions of keys",
    "D": "width of a hidden state",
    "H": "heads",
    "G": "key and value heads in an einsum, where there may be fewer than H",
    "K": "entries of a head",
    "F": "hidden size of the MLP",
    "V": "pieces of the padded vocabulary",
    "E": "entries of an embedding, and features that the output reads",
    "N": "predicted positions",
}


def shards(axes: tuple[str, ...]) -> int:
    """Into how many parts these mesh axes cut an array's axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in axes)


def constrain(x: jax.Array, letters: str) -> jax.Array:
    """x, its axes laid on the mesh by the letters.

    The rules are those of `flax.linen.logical_axis_rules((('B', ('data', 'fsdp')), ...))`, open
    where the step is traced, under `jax.set_mesh`; without either this is the identity. A letter
    without a rule is whole on every device. So is an axis that its mesh axes do not divide (two key
    heads on four devices, a last small batch), or whose mesh axes a letter before it has taken.
    """
    if len(letters) != x.ndim or not set(letters) <= set(LETTERS):
        raise ValueError(
            f"constrain got {letters!r} for shape {x.shape}: one declared letter for each axis"
        )
    rules = dict(nn.get_logical_axis_rules())
    if not rules or jax.sharding.get_abstract_mesh().empty:
        return x
    taken, spec = set(), []
    for letter, size in zip(letters, x.shape, strict=True):
        axes = rules.get(letter) or ()
        axes = (axes,) if isinstance(axes, str) else tuple(axes)
        if taken.intersection(axes) or size % shards(axes):
            axes = ()
        taken.update(axes)
        spec.append(axes or None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
