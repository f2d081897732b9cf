"""Layer-wise learning-rate decay and gradual unfreezing, against the same updates made group by group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.optimizers import OPTIMIZERS, AdamW, Muon, Optimizer, describe_param_rules
from training.param_rules import flatten_params, unflatten_params
from training.unfreezing import layers_below_top, unfreezing_groups

PATHS = {
    "embed/tokens/embedding": (1, 1),
    "encoder/layer_0/mlp/in/kernel": (1, 1),
    "encoder/layer_1/mlp/in/kernel": (0, 2),
    "encoder/relative_bias/embedding": (1, 1),
    "decoder/layer_0/mlp/in/kernel": (2, 1),
    "decoder/layer_1/mlp/in/kernel": (1, 2),
    "decoder/layer_2/mlp/in/kernel": (0, 3),
    "decoder/final_norm/scale": (0, 0),
    "heads/lm/kernel": (0, 0),
    "adapter/decoder/layer_1/mlp/in/lora_a/kernel": (1, 2),
}
FLAT = {
    "embed/tokens/embedding": (6, 4),
    "encoder/layer_0/mlp/in/kernel": (4, 4),
    "encoder/layer_1/mlp/in/kernel": (4, 4),
    "heads/classification/output/kernel": (4, 2),
}
ORDER = list(reversed(FLAT))  # the heads first


def arrays(seed):
    random = np.random.default_rng(seed)
    flat = {path: random.normal(size=shape).astype(np.float32) for path, shape in FLAT.items()}
    return unflatten_params({path: jnp.asarray(x) for path, x in flat.items()})


def test_layers_count_from_the_top_of_their_stack_and_embeddings_are_below_all():
    below = layers_below_top(PATHS)
    assert below["decoder/layer_2/mlp/in/kernel"] == below["encoder/layer_1/mlp/in/kernel"] == 0
    assert (
        below["decoder/layer_0/mlp/in/kernel"] == 2 and below["encoder/layer_0/mlp/in/kernel"] == 1
    )
    assert below["adapter/decoder/layer_1/mlp/in/lora_a/kernel"] == 1
    assert below["embed/tokens/embedding"] == below["encoder/relative_bias/embedding"] == 3
    groups = unfreezing_groups(PATHS)
    assert groups["heads/lm/kernel"] == groups["decoder/final_norm/scale"] == 0
    assert groups["decoder/layer_2/mlp/in/kernel"] == 1 and groups["embed/tokens/embedding"] == 4
    only = unfreezing_groups(["encoder/layer_0/mlp/in/kernel", "embed/tokens/embedding"])
    assert sorted(only.values()) == [0, 1]  # something is trained from the start


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layer_lr_decay_multiplies_the_update_of_each_layer(name):
    kind, params, grads = OPTIMIZERS[name], arrays(0), arrays(1)
    common = {"grad_clip_norm": 0.0, "weight_decay": 0.1}
    updates = []
    for config in (kind(**common), kind(**common, layer_lr_decay=0.5)):
        tx = Optimizer(config).transformation(params)
        with jax.numpy_dtype_promotion("standard"):
            updates.append(flatten_params(tx.update(grads, tx.init(params), params)[0]))
    for path, factor in zip(ORDER, (1, 1, 0.5, 0.25), strict=True):
        np.testing.assert_allclose(updates[1][path], factor * updates[0][path], rtol=1e-6)
    lines = describe_param_rules(kind(layer_lr_decay=0.5), params, ())
    assert [line.split()[0] for line in lines if "lr 0.5 " in line] == [
        "encoder/layer_0/mlp/in/kernel"
    ]


@pytest.mark.parametrize("kind", [AdamW, Muon], ids=lambda kind: kind.name)
def test_a_group_is_frozen_until_its_step_and_then_updated_as_if_it_began_there(kind):
    config, every, steps = kind(weight_decay=0.1, grad_clip_norm=1.0), 2, 9
    whole = Optimizer(config, unfreeze_every=every)
    params, state = arrays(0), None
    expected = {path: np.array(x) for path, x in flatten_params(params).items()}
    alone = {}
    with jax.numpy_dtype_promotion("standard"):
        tx = whole.transformation(params)
        state = tx.init(params)
        for step in range(steps):
            grads = arrays(step + 1)
            updates, state = tx.update(grads, state, params)
            trained = [path for n, path in enumerate(ORDER) if step >= n * every]
            norm = np.sqrt(sum(np.square(flatten_params(grads)[path]).sum() for path in trained))
            for path in trained:
                part = unflatten_params({path: jnp.asarray(expected[path])})
                one = Optimizer(kind(weight_decay=0.1, grad_clip_norm=0.0, **_rules(kind, path)))
                one = one.transformation(part)
                gradient = flatten_params(grads)[path] / max(1.0, norm)
                update, alone[path] = one.update(
                    unflatten_params({path: gradient}), alone.get(path) or one.init(part), part
                )
                expected[path] = expected[path] - 0.1 * flatten_params(update)[path]
            params = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
            for path, found in flatten_params(params).items():
                np.testing.assert_allclose(
                    found, expected[path], rtol=2e-5, atol=1e-6, err_msg=path
                )


def _rules(kind, path):
    """Each rule must match a parameter, and here there is one."""
    decay = 1.0
    rules = {"wd_mults": ((".*", decay),)}
    if kind is Muon:
        muon = path.startswith("encoder")
        rules["matrices"] = ((".*", "muon" if muon else "adamw"),)
    return rules


def test_without_unfreezing_the_optimizer_state_is_as_it_was():
    params = arrays(0)
    plain = Optimizer(AdamW()).transformation(params).init(params)
    assert len(plain) == 3 and type(plain[1]).__name__ == "ScaleByAdamState"
