"""FLOPs of the matrix products in a traced program, with loops, kernels and recomputation.

XLA's cost analysis counts the body of a loop once and a custom call not at all. Used by tools/plan.py.
"""

import math

from jax.extend import core


def matrix_flops(jaxpr, mesh_shape: dict[str, int]) -> float:
    """FLOPs of all dot_general and convolutions of a (closed) jaxpr, over all devices.

    The body of a `scan` counts `length` times, one of a Pallas kernel once per entry of its grid (also where
    its mask skips blocks: an upper bound), one of a shard_map once per shard, one of a `while` once; of a
    `cond`, the most expensive branch counts.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return float(sum(_flops(each, mesh_shape) for each in jaxpr.eqns))


def _flops(equation, mesh_shape):
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * kernel.size // features
    bodies = [
        matrix_flops(body, mesh_shape) for value in params.values() for body in _bodies(value)
    ]
    if not any(bodies):
        return 0
    if name == "cond":
        return max(bodies)
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "pallas_call":
        grid = params["grid_mapping"].grid
        times = math.prod(size for size in grid if isinstance(size, int))
    elif name == "shard_map":
        times = math.prod(mesh_shape[axis] for axis in params["newly_manual_axes"])
    return times * sum(bodies)


def _bodies(value):
    if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [body for each in value for body in _bodies(each)]
    return []
