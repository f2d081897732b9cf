"""Logical axis names, one letter each, and `with_logical_constraint`, which shards an activation.
Layers name the axes of an array; training/sharding.py maps each name to axes of its mesh.
Without rules (one device, most tests) the constraint returns its argument.
"""

import math

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

AXIS_NAMES = {
    "B": "batch",
    "T": "positions (of queries)",
    "S": "positions of keys",
    "D": "emb_dim, the size of a hidden state",
    "H": "heads",
    "G": "key and value heads in an einsum; constraints call this axis H",
    "K": "head_dim",
    "F": "mlp_dim",
    "V": "padded vocabulary",
    "E": "embedding size, and size of the features that the output embedding multiplies",
    "N": "predicted positions, and negative samples",
}


def has_rules() -> bool:
    """Whether there are logical axis rules, and an active mesh."""
    return bool(nn.get_logical_axis_rules()) and not jax.sharding.get_abstract_mesh().empty


def mesh_axes(name: str, size: int) -> tuple[str, ...]:
    """The mesh axes that the rules give a logical axis of this size; () if those do not divide it."""
    axes, mesh = dict(nn.get_logical_axis_rules()).get(name) or (), jax.sharding.get_abstract_mesh()
    axes = (axes,) if isinstance(axes, str) else tuple(axes)
    return () if size % math.prod(mesh.shape[axis] for axis in axes) else axes


def mesh_axes_size(name: str) -> int:
    """The number of shards of a logical axis, if its mesh axes divide its size; 1 without rules."""
    if not has_rules():
        return 1
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in mesh_axes(name, 0))  # 0 is divisible by all


def other_axes() -> set[str]:
    """The mesh axes that no rule names, such as one for replicas."""
    named = {axis for _, axes in nn.get_logical_axis_rules()
             for axis in ((axes,) if isinstance(axes, str) else axes or ())}  # fmt: skip
    return set(jax.sharding.get_abstract_mesh().axis_names) - named


def with_logical_constraint(x: jax.Array, names: str) -> jax.Array:
    """Shards x, whose axes are named by the letters `names`, by the current logical axis rules.

    Rules come from `flax.linen.logical_axis_rules((('B', ('data', 'fsdp')), ...))` around the traced
    code, under `jax.set_mesh`; without rules or mesh the result is x. An axis without a rule is
    replicated. So is an axis whose mesh axes an earlier axis of x already uses, and one whose size its mesh
    axes do not divide (two key heads on four devices, a small last batch), where
    flax.linen.with_logical_constraint would fail.
    """
    if len(names) != x.ndim or not set(names) <= set(AXIS_NAMES):
        raise ValueError(
            f"axis names {names!r} for an array of shape {x.shape}: expected one name per axis, "
            f"each one of {''.join(AXIS_NAMES)}"
        )
    if not has_rules():
        return x
    taken, spec = set(), []
    for name, size in zip(names, x.shape, strict=True):
        axes = mesh_axes(name, size)
        axes = () if taken.intersection(axes) else axes
        taken.update(axes)
        spec.append(axes or None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
