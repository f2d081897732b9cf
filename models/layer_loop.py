"""How the layers of a stack are computed: rematerialization, and one scan over equal layers.
TransformerStack calls `run_layers`. Neither choice changes a parameter or its name.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.config import option

_POLICIES = jax.checkpoint_policies
# What the forward pass keeps of a layer besides its input; the backward pass computes the rest again.
POLICIES = {
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "full": _POLICIES.nothing_saveable,
    "offload": _POLICIES.offload_dot_with_no_batch_dims("device", "pinned_host"),
}


@dataclass(frozen=True)
class LayerLoop:
    """How training computes the layers of a stack. Results differ at most by rounding, and with
    scan_layers by the dropout masks. A cache (generation) is not affected."""

    remat: str = option(
        "none",
        "rematerialization: each layer keeps all activations for the backward pass (none), the outputs of "
        "its matrix products with weights (dots), these in host memory (offload), or its input alone (full)",
        choices=("none", *POLICIES),
    )
    scan_layers: bool = option(
        False,
        "run equal layers in one loop, so that the program hardly grows with their number; costs a copy of "
        "their parameters and gradients",
    )

    @property
    def layer_loop(self) -> "LayerLoop":
        """Only these fields. The config section `training` inherits them and adds fields that are not part
        of a model."""
        return LayerLoop(self.remat, self.scan_layers)

    def wrap(self, function, transform, **options):
        """`function` of a layer with rematerialization by `transform`, nn.remat or jax.checkpoint."""
        if self.remat == "none":
            return function
        return transform(function, policy=POLICIES[self.remat], **options)


def repeated_periods(kinds) -> list[tuple[int, int, int]]:
    """[(first layer, period, repeats)] that cover layers of these kinds in order: from each first layer on,
    the period whose repetitions cover the most layers. ABBABBA -> [(0, 3, 2), (6, 1, 1)]."""
    cover, first = [], 0
    while first < len(kinds):
        best = 1, 1
        for period in range(1, (len(kinds) - first) // 2 + 1):
            end = first + period
            while kinds[end : end + period] == kinds[first : first + period]:
                end += period
            repeats = (end - first) // period
            if repeats > 1 and period * repeats > best[0] * best[1]:
                best = period, repeats
        cover.append((first, *best))
        first += best[0] * best[1]
    return cover


def run_layers(stack: nn.Module, x: jax.Array, arguments, deterministic: bool) -> jax.Array:
    """x[B,T,D] after all layers of a TransformerStack, each called with (x, *arguments, deterministic)."""
    loop, depth = stack.loop, stack.config.num_layers_in(stack.stack)
    layers = [getattr(stack, f"layer_{i}") for i in range(depth)]

    def call(layer, x, *arguments):
        return layer(x, *arguments, deterministic)

    call = loop.wrap(call, nn.remat)
    parts = [(i, 1, 1) for i in range(depth)]
    if loop.scan_layers:
        variables = [_variables(stack, layer) for layer in layers]
        parts = repeated_periods(
            [(stack.config.layer_kind(i), _form(v)) for i, v in enumerate(variables)]
        )
    for first, period, repeats in parts:
        if repeats == 1:
            x = call(layers[first], x, *arguments)
        else:
            end = first + period * repeats
            stacked = [
                jax.tree.map(
                    lambda *leaves: jnp.stack(leaves), *variables[first + i : end : period]
                )
                for i in range(period)
            ]
            rng = None
            if not deterministic and stack.has_rng("dropout"):
                rng = stack.make_rng("dropout")
            functions = [_function(loop, layer, arguments, deterministic)
                         for layer in layers[first : first + period]]  # fmt: skip
            x = _scan(functions, stacked, repeats, rng, x)
    return x


def _scan(functions, stacked, repeats, rng, x):
    """x after `repeats` rounds of the functions of a period, in one loop over their stacked variables."""
    period = len(functions)

    def step(x, numbered):
        number, variables = numbered
        for i, function in enumerate(functions):
            layer_rng = None
            if rng is not None:
                layer_rng = jax.random.fold_in(rng, number * jnp.int32(period) + jnp.int32(i))
            x = function(variables[i], x, layer_rng)
        return x, None

    return jax.lax.scan(step, x, (jnp.arange(repeats, dtype=jnp.int32), stacked))[0]


def _function(loop, layer, arguments, deterministic):
    """(variables, x, dropout rng) -> x: a layer as a function of its variables."""
    shared = None if layer.shared is None else layer.shared.clone(parent=None, name=None)
    layer = layer.clone(parent=None, name=None, shared=shared)

    def apply(arguments, variables, x, rng):
        rngs = {} if rng is None else {"dropout": rng}
        return layer.apply(variables, x, *arguments, deterministic, rngs=rngs)

    return partial(loop.wrap(apply, jax.checkpoint, prevent_cse=False), arguments)


def _variables(stack, layer):
    """{collection: tree}: the variables of a layer. If it reuses a layer of another stack, that layer's
    variables are under the key `shared`."""
    variables = {name: dict(tree.get(layer.name, {})) for name, tree in stack.variables.items()}
    if layer.shared is not None:
        for name, tree in stack.shared.variables.items():
            variables.setdefault(name, {})["shared"] = tree.get(layer.name, {})
    return variables


def _form(variables):
    """What equal layers have in common: names, shapes and types of their variables."""
    leaves, structure = jax.tree.flatten(variables)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
