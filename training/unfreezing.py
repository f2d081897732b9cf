"""Depth of a parameter in the model, and gradual unfreezing, which trains one more layer at a time.

Used by training/optimizers.py.
"""

import re

import jax
import jax.numpy as jnp
import optax

from training.param_rules import flatten_params, unflatten_params


def layers_below_top(paths) -> dict[str, int]:
    """{path: layers above it, of its own stack}: 0 for the heads and the top layer; embeddings and what
    else a stack reads from the start (T5's relative bias) are below the bottom layer.

    Parameters of an adapter are where the module is that they change. The encoder and the decoder of an
    encoder-decoder count from their own top: each decoder layer reads the encoder's output.
    """
    found, depths = {}, {}
    for path in paths:
        place = path.removeprefix("adapter/")
        layer = re.match(r"(encoder|decoder)/layer_(\d+)/", place)
        found[path] = (layer[1], int(layer[2])) if layer else (place, -1)
        if layer:
            depths[layer[1]] = max(depths.get(layer[1], 0), int(layer[2]) + 1)
    deepest = max(depths.values(), default=0)

    def below(place, layer):
        if layer >= 0:
            return depths[place] - 1 - layer
        return 0 if place.startswith("heads/") or "/final_norm/" in place else deepest

    return {path: below(*where) for path, where in found.items()}


def unfreezing_groups(paths) -> dict[str, int]:
    """{path: how many groups are unfrozen before it}: the heads and final norms, then each layer from the
    top, then the embeddings. Groups without a trained parameter do not count."""
    paths = list(paths)
    below = layers_below_top(paths)
    for path in paths:
        is_head = path.startswith("heads/") or "/final_norm/" in path
        below[path] = -1 if is_head else below[path]
    order = sorted(set(below.values()))
    return {path: order.index(depth) for path, depth in below.items()}


def gradually(clip, make, every):
    """Optax transformation that trains group g (`unfreezing_groups`) from step g * every on. Before, a
    parameter has no gradient, and its moments stay as they are at the start.

    Args:
      clip: transformation of the gradients of all parameters that are trained at the step.
      make: params -> transformation of a part of them; each group has a state of its own, so that its
        moments are corrected for their own number of updates.
      every: steps.
    """

    def split(tree):
        """The subtree of each group."""
        flat = flatten_params(tree)
        groups = unfreezing_groups(flat)
        return [
            unflatten_params({path: x for path, x in flat.items() if groups[path] == group})
            for group in sorted(set(groups.values()))
        ]

    def init(params):
        states = [make(part).init(part) for part in split(params)]
        return {"count": jnp.zeros((), jnp.int32), "clip": clip.init(params), "groups": states}

    def update(grads, state, params):
        def chosen(group, new, old):
            trains = state["count"] >= group * every
            return jax.tree.map(lambda n, o: jnp.where(trains, n, o), new, old)

        def unless_frozen(group, tree):
            return chosen(group, tree, jax.tree.map(jnp.zeros_like, tree))

        masked = _join(unless_frozen(*numbered) for numbered in enumerate(split(grads)))
        clipped, clip_state = clip.update(masked, state["clip"], params)
        updates, states = [], []
        for group, (part, gradient, before) in enumerate(
            zip(split(params), split(clipped), state["groups"], strict=True)
        ):
            update, after = make(part).update(gradient, before, part)
            updates.append(unless_frozen(group, update))
            states.append(chosen(group, after, before))
        state = {"count": state["count"] + 1, "clip": clip_state, "groups": states}
        return _join(updates), state

    return optax.GradientTransformation(init, update)


def _join(parts):
    return unflatten_params({path: x for part in parts for path, x in flatten_params(part).items()})
