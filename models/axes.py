"""The letters of the axes, declared once, and `constrain`, which ties an array's axes to a mesh.
Layers say what the axes of an array are; training/ says where each letter lies on its mesh.
Without a table of rules (one device, tests) `constrain` gives its argument back.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax.sharding import PartitionSpec

LETTERS = {
    'B': 'rows of the batch',
    'T': 'positions (of queries)',
    'S': 'positions of keys',
    'D': 'width of a hidden state',
    'H': 'query heads',
    'G': 'key and value heads',
    'R': 'query heads per key head: H = G R',
    'K': 'entries of a head',
    'F': 'hidden size of the MLP',
    'V': 'pieces of the padded vocabulary',
    'E': 'features that the output reads',
    'N': 'predicted positions',
}

_rules: ContextVar[Mapping | None] = ContextVar('axis_rules', default=None)


@contextmanager
def axis_rules(rules: Mapping[str, str | tuple[str, ...]]):
    """While open, letters lie on mesh axes: axis_rules({'B': ('data', 'fsdp'), 'H': 'tensor'}).

    Open it where the step is *traced*, under `jax.set_mesh`; a letter without a rule is whole on
    every device.
    """
    unknown = [letter for letter in rules if letter not in LETTERS]
    if unknown:
        raise ValueError(f'axis letters {unknown} are not declared: expected among {list(LETTERS)}')
    token = _rules.set(dict(rules))
    try:
        yield
    finally:
        _rules.reset(token)


def shards(letter: str) -> int:
    """Into how many parts the rules and the mesh of this trace cut an axis (1 without them)."""
    rules = _rules.get()
    if rules is None:
        return 1
    axes = rules.get(letter) or ()
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1
    for axis in (axes,) if isinstance(axes, str) else axes:
        parts *= mesh.shape[axis]
    return parts


def constrain(x: jax.Array, letters: str) -> jax.Array:
    """x, its axes laid on the mesh by the letters; the identity when no rules are set.

    An axis whose size the mesh axis does not divide (two key heads on four devices, a last small
    batch) stays whole, as does one whose mesh axes a letter further left has already taken.
    """
    rules = _rules.get()
    if rules is None:
        return x
    if len(letters) != x.ndim:
        raise ValueError(f'constrain got {letters!r} for shape {x.shape}: one letter for each axis')
    taken, spec = set(), []
    for letter, size in zip(letters, x.shape, strict=True):
        axes = rules.get(letter) or ()
        axes = (axes,) if isinstance(axes, str) else tuple(axes)
        if taken.intersection(axes) or size % shards(letter):
            axes = ()
        taken.update(axes)
        spec.append(axes or None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
