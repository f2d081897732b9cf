"""Rematerialization and scan_layers: the same losses, gradients and parameters, with less memory and a
program whose size does not depend on the number of layers.

Gradients are compared to 1e-5 of the tensor's largest entry (of the model's where a gradient vanishes).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import ADAPTERS, LayerLoop, ModelConfig
from models.layer_loop import repeated_periods
from training.param_rules import flatten_params, unflatten_params

slow = pytest.mark.slow
SIZES = {"vocab_size": 100, "max_length": 64, "emb_dim": 16, "num_heads": 2, "mlp_dim": 32}
TOKENS = np.random.default_rng(0).integers(0, 100, (4, 12)).astype(np.int32)
SEGMENTS = np.repeat(np.array([[1] * 7 + [2] * 4 + [0]], np.int32), 4, 0)
MODELS = {
    "encoder": {"architecture": "encoder", "num_layers": 2, "dtype": "bfloat16"},
    # Layer 0 has no norm, and every second layer is global: one layer, then two rounds of two.
    "alternating": {
        "architecture": "encoder", "num_layers": 5, "positions": "rope", "sliding_window": 4,
        "global_attn_every_n_layers": 2, "local_rope_theta": 100.0, "embedding_norm": True,
        "skip_first_prenorm": True,
    },
    "decoder": {"architecture": "decoder", "num_layers": 3, "positions": "rope", "qk_norm": True},
    "encoder_decoder": {"architecture": "encoder_decoder", "num_layers": 2, "positions": "relative",
                        "num_decoder_layers": 3},
    "shared": {"architecture": "encoder_decoder", "num_layers": 2, "positions": "relative",
               "share_encoder_decoder": True},
}  # fmt: skip


def inputs_of(config):
    if config.architecture == "encoder_decoder":
        return (models.make_inputs(TOKENS, SEGMENTS),
                models.make_inputs(TOKENS[:, ::-1].copy(), SEGMENTS, "causal"))  # fmt: skip
    causal = "causal" if config.architecture == "decoder" else "bidirectional"
    return (models.make_inputs(TOKENS, SEGMENTS, causal),)


@functools.cache
def setup(name, adapter=None):
    config = ModelConfig(**SIZES, **MODELS[name])
    params = models.build(config).init(jax.random.key(0), *inputs_of(config))["params"]
    if adapter is not None:  # its zeros would hide it
        own = adapter.init(jax.random.key(1), params, config)
        params = {**params, "adapter": jax.tree.map(lambda x: x + jnp.float32(0.05), own)}
    return config, params


@functools.cache
def gradients(name, loop, adapter=None, dropout_rate=0.0):
    """(loss, gradients) of a sum over the hidden states."""
    config, params = setup(name, adapter)
    config = dataclasses.replace(config, dropout_rate=dropout_rate)
    model, inputs = models.build(config, adapter, loop), inputs_of(config)
    options = {"deterministic": not dropout_rate}
    if dropout_rate:
        options["rngs"] = {"dropout": jax.random.key(2)}

    def loss(params):
        hidden = model.apply({"params": params}, *inputs, **options).astype(jnp.float32)
        return (hidden * jnp.sin(jnp.arange(hidden.size).reshape(hidden.shape))).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_equal(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance, atol=tolerance)
    found, expected = flatten_params(found[1]), flatten_params(expected[1])
    assert found.keys() == expected.keys()
    model_scale = max(float(np.abs(leaf).max()) for leaf in expected.values())
    for name, leaf in expected.items():
        scale = float(np.abs(leaf).max())
        scale = scale if scale > 1e-3 * model_scale else model_scale
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[slow] * (n == "encoder_decoder")) for n in MODELS]
)
@pytest.mark.parametrize("loop", [LayerLoop("full"), LayerLoop("dots", True)], ids=str)
def test_losses_and_gradients_do_not_depend_on_the_loop(name, loop):
    tolerance = 2e-2 if MODELS[name].get("dtype") else 1e-5  # bfloat16 has 8 bits
    assert_equal(gradients(name, loop), gradients(name, LayerLoop()), tolerance)


@pytest.mark.parametrize("loop", [LayerLoop("dots"), LayerLoop("none", True),
                                  LayerLoop("offload", True)], ids=str)  # fmt: skip
def test_every_choice_computes_the_same_gradients(loop):
    assert_equal(gradients("decoder", loop), gradients("decoder", LayerLoop()))


def test_rematerialization_draws_the_same_dropout_masks_again():
    assert_equal(
        gradients("decoder", LayerLoop("full"), None, 0.3),
        gradients("decoder", LayerLoop(), None, 0.3),
    )


def test_each_layer_of_a_scan_has_dropout_masks_of_its_own():
    config, params = setup("decoder")
    zeros = flatten_params(jax.tree.map(jnp.zeros_like, params))
    ones = [path for path in zeros if path.endswith(("mlp/out/bias", "final_norm/scale"))]
    params = unflatten_params(zeros | {path: jnp.ones_like(zeros[path]) for path in ones})
    # Each layer adds its mask to zero; with one mask for all layers, the sums have two values.
    model = models.build(
        dataclasses.replace(config, dropout_rate=0.4), loop=LayerLoop("none", True)
    )
    hidden = model.apply({"params": params}, *inputs_of(config), deterministic=False,
                         rngs={"dropout": jax.random.key(2)})  # fmt: skip
    values = [len(np.unique(row.round(3))) for row in np.asarray(hidden).reshape(-1, 16)]
    assert max(values) == 4  # a sum of three masks


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        (
            "shared",
            ADAPTERS["lora"](target_modules=(".*/(query|value)", ".*/mlp/in"), use_dora=True),
        ),
        ("decoder", ADAPTERS["lora"](target_modules=("decoder/layer_0/.*",))),
        ("decoder", ADAPTERS["prefix"](num_virtual_tokens=2)),
        ("decoder", ADAPTERS["bottleneck"](size=4)),
    ],
    ids=str,
)
def test_an_adapter_in_a_scan_changes_the_layers_that_it_names(name, adapter):
    expected = gradients(name, LayerLoop(), adapter)
    assert expected[0] != gradients(name, LayerLoop())[0]
    assert_equal(gradients(name, LayerLoop("full", True), adapter), expected, 1e-4)


@pytest.mark.parametrize("name", ["decoder", "shared"])
def test_a_cache_is_filled_and_read_without_the_loop(name):
    config, params = setup(name)
    found = []
    for loop in (LayerLoop(), LayerLoop("full", True)):
        model = models.build(config, loop=loop)
        prefill = functools.partial(models.prefill, model, capacity=14)
        _, cache = jax.jit(prefill)(params, *inputs_of(config))
        step = jax.jit(functools.partial(models.decode_step, model))
        found.append(step(params, TOKENS[:, :1], cache))
    jax.tree.map(np.testing.assert_array_equal, *found)


def lowered(architecture, num_layers, loop):
    """The gradients of a model in rows long enough that activations are most of its memory."""
    config = ModelConfig(
        architecture, **{**SIZES, "emb_dim": 32, "mlp_dim": 128}, num_layers=num_layers
    )
    tokens = jax.ShapeDtypeStruct((16, 64), jnp.int32)
    inputs = models.ModelInputs(tokens, tokens, tokens)
    inputs = (inputs,) * (2 if architecture == "encoder_decoder" else 1)
    model = models.build(config, loop=loop)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]

    def loss(params, *inputs):
        return jnp.square(model.apply({"params": params}, *inputs)).mean()

    return jax.jit(jax.grad(loss)).lower(params, *inputs)


# XLA's CPU backend computes unrolled layers again too early to save memory, so only the loop shows
# the arrays that a policy keeps (docs/performance.md).
@pytest.mark.parametrize(
    "architecture",
    ["decoder", *(pytest.param(a, marks=slow) for a in ("encoder", "encoder_decoder"))],
)
def test_rematerialization_makes_the_memory_of_a_compiled_step_smaller(architecture):
    memory = {
        remat: lowered(architecture, 6, LayerLoop(remat, True)).compile().memory_analysis()
        for remat in ("none", "dots", "full")
    }
    none, dots, full = (memory[name].temp_size_in_bytes for name in ("none", "dots", "full"))
    assert full < 0.75 * dots and dots < 0.6 * none


def test_a_scanned_program_hardly_grows_with_the_number_of_layers():
    """It stacks 12 more layers; their computation is there once."""
    programs = {
        (scan, depth): lowered("decoder", depth, LayerLoop("full", scan)).as_text()
        for scan in (False, True)
        for depth in (4, 16)
    }
    products = {key: text.count("stablehlo.dot_general") for key, text in programs.items()}
    assert products[True, 16] == products[True, 4] > 0
    assert products[False, 16] == 4 * products[False, 4]
    growth = {scan: len(programs[scan, 16]) - len(programs[scan, 4]) for scan in (False, True)}
    assert growth[True] < 0.2 * growth[False]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("A", [(0, 1, 1)]),
        ("AAAA", [(0, 1, 4)]),
        ("ABBABBA", [(0, 3, 2), (6, 1, 1)]),
        ("ABCC", [(0, 1, 1), (1, 1, 1), (2, 1, 2)]),
        ("GLLgLLgLL", [(0, 1, 1), (1, 3, 2), (7, 1, 2)]),
        ("LLLLLGLLLLLGLL", [(0, 6, 2), (12, 1, 2)]),
    ],
)
def test_layers_that_alternate_are_grouped_by_their_period(kinds, expected):
    assert repeated_periods(kinds) == expected
