"""Lion, Muon and Adafactor against their published update rules in NumPy, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import config as config_lib
from training.config import ConfigError
from training.optimizers import (
    OPTIMIZERS,
    Adafactor,
    AdamW,
    Lion,
    Muon,
    Optimizer,
    describe_param_rules,
)
from training.param_rules import flatten_params, unflatten_params

STEPS, LR = 12, 0.03
SHAPES = {
    "embed/tokens/embedding": (9, 4),
    "encoder/layer_0/mlp/in/kernel": (4, 6),
    "encoder/layer_0/mlp/in/bias": (6,),
    "encoder/layer_0/mlp/out/kernel": (6, 4),
    "heads/lm/transform/kernel": (4, 4),
}
WEIGHT_DECAY = 0.3
KERNELS = ((r".*kernel", 1.0), (r".*", 0.0))


def arrays(seed, scale=1.0):
    """{path: random array} of all SHAPES."""
    random = np.random.default_rng(seed)
    return {path: (scale * random.normal(size=shape)).astype(np.float32)
            for path, shape in SHAPES.items()}  # fmt: skip


def updates(config, params, gradients):
    """{path: float64 array} after each update with learning rate LR."""
    params = unflatten_params(params)
    tx = Optimizer(config).transformation(params)
    state = tx.init(params)

    @jax.jit
    def update(params, state, gradient):
        with jax.numpy_dtype_promotion("standard"):
            directions, state = tx.update(gradient, state, params)
        return jax.tree.map(lambda p, d: p - LR * d, params, directions), state

    for gradient in gradients:
        params, state = update(params, state, unflatten_params(gradient))
        assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} <= {
            np.dtype(np.float32),
            np.dtype(np.int32),
        }
        yield {path: np.asarray(leaf, np.float64) for path, leaf in flatten_params(params).items()}


def compare(config, update, rtol=3e-5):
    """`update(path, t, p, g, slots) -> p` in float64, with a dict of slots for each parameter."""
    params = arrays(0, 0.5)
    gradients = [arrays(1 + t, 10.0 ** (t % 3 - 2)) for t in range(STEPS)]
    expected = {path: np.asarray(p, np.float64) for path, p in params.items()}
    slots = {path: {} for path in params}
    for t, found in enumerate(updates(config, params, gradients), 1):
        for path, g in gradients[t - 1].items():
            g = np.asarray(g, np.float64)
            expected[path] = update(path, t, expected[path], g, slots[path])
            np.testing.assert_allclose(found[path], expected[path], rtol=rtol, atol=1e-6,
                                       err_msg=f"{path} after {t}")  # fmt: skip


def adam(t, g, slots, beta1=0.9, beta2=0.98, epsilon=1e-8):
    m = slots["m"] = beta1 * slots.get("m", 0) + (1 - beta1) * g
    v = slots["v"] = beta2 * slots.get("v", 0) + (1 - beta2) * g * g
    return (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)


def test_lion_is_algorithm_2_of_chen_et_al():
    def update(path, t, p, g, slots):
        m = slots.get("m", 0)
        direction = np.sign(0.9 * m + 0.1 * g) + (
            WEIGHT_DECAY * p if path.endswith("kernel") else 0
        )
        slots["m"] = 0.99 * m + 0.01 * g
        return p - LR * direction

    compare(Lion(grad_clip_norm=0.0, weight_decay=WEIGHT_DECAY, wd_mults=KERNELS), update)


def rms(x):
    return np.sqrt(np.mean(x * x))


def adafactor(path, t, p, g, slots, factored, first=1, offset=0):
    """Algorithms 4 (matrices) and 5 (vectors) of Shazeer & Stern with the settings of their algorithm 6,
    no momentum; T5X counts `first` .. of the whole run and takes off its `step_offset`."""
    epsilon1, epsilon2, d = 1e-30, 1e-3, 1.0
    beta = 1 - float(first - 1 + t - offset) ** -0.8
    square = g * g + epsilon1
    if factored:
        rows = slots["R"] = beta * slots.get("R", 0) + (1 - beta) * square.sum(1)
        columns = slots["C"] = beta * slots.get("C", 0) + (1 - beta) * square.sum(0)
        v = np.outer(rows, columns) / rows.sum()
    else:
        v = slots["V"] = beta * slots.get("V", 0) + (1 - beta) * square
    u = g / np.sqrt(v)
    u = u / max(1.0, rms(u) / d)
    return p - LR * max(epsilon2, rms(p)) * u


@pytest.mark.parametrize("factored_size", [1, 5, 128])
def test_adafactor_is_t5s_step_by_step(factored_size):
    """With sizes 1, 5 and 128: every matrix, those with sides of at least 5, and none is factored."""

    def update(path, t, p, g, slots):
        return adafactor(path, t, p, g, slots, p.ndim == 2 and min(p.shape) >= factored_size)

    compare(Adafactor(factored_size=factored_size), update)


def test_adafactor_factors_matrices_whose_sides_are_at_least_128():
    shapes = {"a/kernel": (128, 130), "b/kernel": (127, 130), "c/bias": (200,)}
    params = {path: np.full(shape, 0.1, np.float32) for path, shape in shapes.items()}
    state = Adafactor().direction(params).init(unflatten_params(params))
    moments = flatten_params(
        jax.tree.map(jnp.shape, state[0].v, is_leaf=lambda x: hasattr(x, "shape"))
    )
    assert moments == {"a/kernel": (1,), "b/kernel": (127, 130), "c/bias": (200,)}
    assert state[0].v_row["a"]["kernel"].size + state[0].v_col["a"]["kernel"].size == 258
    assert Adafactor().algorithms(params) == {
        "a/kernel": "adafactor, factored", "b/kernel": "adafactor", "c/bias": "adafactor",
    }  # fmt: skip


def test_adafactors_decay_starts_with_its_state_like_t5x_with_a_step_offset():
    """A fresh state is T5X's finetuning from step 1000 with step_offset=1000."""

    def update(path, t, p, g, slots):
        return adafactor(path, t, p, g, slots, p.ndim == 2, first=1001, offset=1000)

    compare(Adafactor(factored_size=1), update)


def orthogonal(m, steps=5):
    """Newton-Schulz iteration of Jordan et al. (2024) with their coefficients."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m.T if m.shape[0] > m.shape[1] else m
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if m.shape[0] > m.shape[1] else x


@pytest.mark.parametrize(("nesterov", "consistent_rms"), [(True, 0.2), (True, 0.0), (False, 0.2)])
def test_muon_orthogonalizes_the_hidden_kernels_and_adamw_updates_the_rest(
    nesterov, consistent_rms
):
    def update(path, t, p, g, slots):
        if path.startswith("encoder") and path.endswith("kernel"):
            m = slots["m"] = 0.95 * slots.get("m", 0) + 0.05 * g
            if nesterov:
                m = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
            rows, columns = g.shape
            scale = consistent_rms * np.sqrt(max(rows, columns))
            direction = (scale or np.sqrt(max(1, columns / rows))) * orthogonal(m)
        else:
            direction = adam(t, g, slots)
        return p - LR * (direction + (WEIGHT_DECAY * p if path.endswith("kernel") else 0))

    config = Muon(grad_clip_norm=0.0, weight_decay=WEIGHT_DECAY, wd_mults=KERNELS, nesterov=nesterov,
                  consistent_rms=consistent_rms)  # fmt: skip
    compare(config, update, rtol=3e-4)


def test_muon_updates_the_matrices_of_its_rule_without_a_second_moment():
    params = unflatten_params(arrays(0))
    algorithms = Muon().algorithms(flatten_params(params))
    assert [path for path, algorithm in algorithms.items() if algorithm == "muon"] == [
        "encoder/layer_0/mlp/in/kernel", "encoder/layer_0/mlp/out/kernel",
    ]  # fmt: skip
    state = Optimizer(Muon()).transformation(params).init(params)
    size = sum(np.prod(shape) for shape in SHAPES.values())
    matrices = 2 * 24
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if jnp.ndim(leaf) and leaf.size != 3)
    assert moments == 2 * (size - matrices) + matrices


@pytest.mark.parametrize(
    ("matrices", "words"),
    [
        (
            ((r".*", "muon"),),
            "gives 'encoder/layer_0/mlp/in/bias' of shape [6] to muon; expected a",
        ),
        (((r".*", "sgd"),), "to 'sgd'; expected 'muon' or 'adamw'"),
        (((r"decoder/.*", "muon"), (r".*", "adamw")), "rule 'decoder/.*' matches no parameter"),
    ],
)
def test_a_wrong_rule_for_matrices_is_named(matrices, words):
    with pytest.raises(ConfigError) as caught:
        Optimizer(Muon(matrices=matrices)).transformation(unflatten_params(arrays(0)))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_adamw_with_parameter_scale_multiplies_updates_by_each_tensors_rms():
    def update(path, t, p, g, slots):
        return p - LR * max(1e-3, rms(p)) * adam(t, g, slots)

    compare(AdamW(grad_clip_norm=0.0, weight_decay=0.0, parameter_scale=True), update)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_invariant_09_lr_mults_and_frozen_parameters_work_with_every_optimizer(name):
    """Half the learning rate is half the update; frozen parameters are in no part of the state."""
    kind = OPTIMIZERS[name]
    trainable = {path: leaf for path, leaf in arrays(0).items() if not path.startswith("heads")}
    gradient = {path: leaf for path, leaf in arrays(1).items() if path in trainable}
    half = ((r"(encoder|embed)/.*kernel", 0.5), (r".*", 1.0))
    common = {"grad_clip_norm": 0.0, "weight_decay": 0.1}
    (one,) = updates(kind(**common), trainable, [gradient])
    (two,) = updates(kind(**common, lr_mults=half), trainable, [gradient])
    for path, before in trainable.items():
        factor = 0.5 if path.endswith("kernel") else 1.0
        np.testing.assert_allclose(two[path] - before, factor * (one[path] - before), atol=1e-6)
    tree = unflatten_params(trainable)
    state = Optimizer(kind(**common)).transformation(tree).init(tree)
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert any("embed" in path for path in paths) and not any("heads" in path for path in paths)


def test_the_printed_rules_name_the_algorithm_of_each_parameter():
    params, frozen = unflatten_params(arrays(0)), frozenset({"heads/lm/transform/kernel"})
    lines = describe_param_rules(Muon(), params, frozen)
    found = {line.split()[0]: line.split("  ")[-1].strip() for line in lines}
    assert found["encoder/layer_*/mlp/in/kernel"] == "muon"
    assert found["encoder/layer_*/mlp/in/bias"] == "adamw"
    assert found["embed/tokens/embedding"] == "adamw"
    assert found["heads/lm/transform/kernel"] == "frozen"
    bias = next(line for line in lines if "mlp/in/bias" in line)
    assert bias.split()[1:] == ["1", "x", "6", "lr", "1", "wd", "0", "adamw"]


def test_invariant_07_an_option_of_another_optimizer_is_an_error():
    from training.schema import PretrainConfig

    section = {"name": "lion", "learning_rate": "3e-4", "beta2": "0.98"}
    resolved = config_lib.resolve(PretrainConfig, {"optimizer": section})
    assert resolved.optimizer == Lion(learning_rate=3e-4, beta2=0.98)
    assert config_lib.to_dict(resolved)["optimizer"]["name"] == "lion"
    for key, name in (("epsilon", "lion"), ("momentum", "adamw"), ("beta1", "adafactor")):
        with pytest.raises(ConfigError, match=f"unknown key config.optimizer.{key}"):
            config_lib.resolve(PretrainConfig, {"optimizer": {"name": name, key: 0.5}})
    with pytest.raises(ConfigError, match="'adafctor' is unknown; did you mean 'adafactor'"):
        config_lib.resolve(PretrainConfig, {"optimizer": {"name": "adafctor"}})
    assert isinstance(config_lib.resolve(PretrainConfig, {}).optimizer, AdamW)
