"""Adapters: the function that each one adds, for the three architectures, against the merged weights or an
independent computation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import ADAPTERS, ModelConfig, make_inputs
from models.adapters import modules_of
from training.param_rules import flatten_params, unflatten_params

SHAPE = {
    "vocab_size": 128,
    "max_length": 24,
    "num_layers": 2,
    "emb_dim": 16,
    "num_heads": 2,
    "mlp_dim": 24,
}
MODELS = {
    "encoder": {
        "positions": "learned",
        "embedding_norm": True,
        "norm_position": "post",
        "num_token_types": 2,
    },
    "decoder": {"positions": "rope", "gated_mlp": True, "norm": "rmsnorm", "num_kv_heads": 1},
    "encoder_decoder": {"positions": "relative", "gated_mlp": True, "use_bias": False},
    "shared": {
        "architecture": "encoder_decoder",
        "positions": "rope",
        "share_encoder_decoder": True,
    },
}
KINDS = {
    "lora": {"target_modules": (r".*/(query|key|value|out|in)",), "rank": 3},
    "dora": {"target_modules": (r".*/(query|key|value|out|in)",), "rank": 3, "use_dora": True},
    "rslora": {"rank": 4, "use_rslora": True},
    "ia3": {},
    "bottleneck": {"size": 5},
    "prompt": {"num_virtual_tokens": 4},
    "prefix": {"num_virtual_tokens": 4},
}


def adapter_of(kind, **options):
    name = "lora" if kind in ("dora", "rslora") else kind
    return ADAPTERS[name](**{**KINDS[kind], **options})


@functools.cache
def setup(name):
    """(ModelConfig, parameters, inputs) of a model."""
    config = ModelConfig(**{"architecture": name, **SHAPE, "use_bias": True, **MODELS[name]})
    tokens = jnp.asarray(np.random.default_rng(0).integers(5, 120, (3, 10)), jnp.int32)
    segments = jnp.ones_like(tokens).at[1, 7:].set(0)
    source = make_inputs(tokens, segments, "causal" if name == "decoder" else "bidirectional")
    inputs = [source]
    if config.architecture == "encoder_decoder":
        inputs.append(make_inputs(tokens[:, :6], segments[:, :6], "causal"))
    params = models.build(config).init(jax.random.key(0), *inputs, method="init_all")["params"]
    random = np.random.default_rng(1)  # biases and norms that are not constant
    return (
        config,
        jax.tree.map(lambda x: x + 0.1 * random.normal(size=x.shape).astype(x.dtype), params),
        inputs,
    )


def trained(kind, name, **options):
    """(adapter, its parameters after some training: none of them at its initial value)."""
    config, params, _ = setup(name)
    adapter, random = adapter_of(kind, **options), np.random.default_rng(2)
    own = adapter.init(jax.random.key(1), params, config)
    return adapter, jax.tree.map(
        lambda x: x + 0.2 * random.normal(size=x.shape).astype(x.dtype), own
    )


def apply(name, adapter, params, own, inputs=None, **options):
    config, _, given = setup(name)
    model = models.build(config, adapter)
    params = {**params, "adapter": own} if own else params
    return model.apply({"params": params}, *(inputs or given), **options)


def merged(adapter, params, own):
    flat, modules = flatten_params(params), modules_of(own)
    for module, leaves in modules.items():
        there = {n: flat[f"{module}/{n}"] for n in ("kernel", "bias") if f"{module}/{n}" in flat}
        flat |= {f"{module}/{name}": leaf for name, leaf in adapter.merge(there, leaves).items()}
    return unflatten_params(flat)


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("dora", name) for name in MODELS), ("ia3", "encoder"), ("ia3", "encoder_decoder"),
     ("lora", "encoder_decoder"), ("rslora", "decoder")],
)  # fmt: skip
def test_the_merged_weights_compute_the_same(kind, name):
    _, params, _ = setup(name)
    adapter, own = trained(kind, name)
    found, without = apply(name, adapter, params, own), apply(name, None, params, {})
    expected = apply(name, None, merged(adapter, params, own), {})
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=2e-4)
    assert np.abs(found - without).max() > 0.05


def test_a_prompt_begins_as_rows_of_the_vocabulary_and_never_of_its_padding():
    config, params, _ = setup("decoder")
    small, table = dataclasses.replace(config, vocab_size=3), params["embed"]["tokens"]["embedding"]
    prompt = ADAPTERS["prompt"](num_virtual_tokens=50).init(jax.random.key(1), params, small)
    rows = {tuple(row) for row in np.asarray(prompt["embed"]["tokens"]["prompt"]["embedding"])}
    assert rows == {tuple(row) for row in np.asarray(table[:3])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["encoder_decoder"])
def test_a_new_adapter_computes_the_pretrained_function(kind, name):
    config, params, _ = setup(name)
    adapter = adapter_of(kind)
    own = adapter.init(jax.random.key(1), params, config)
    same = np.allclose(apply(name, adapter, params, own), apply(name, None, params, {}), atol=1e-5)
    assert same == (kind not in ("prompt", "prefix"))


@pytest.mark.parametrize(
    ("kind", "name"), [("lora", "encoder"), ("ia3", "decoder"), ("lora", "encoder_decoder")]
)
def test_gradients_are_those_of_the_merged_weights(kind, name):
    _, params, _ = setup(name)
    adapter, own = trained(kind, name)
    weights = jax.random.normal(jax.random.key(3), apply(name, None, params, {}).shape)

    def loss(own):
        return (apply(name, adapter, params, own) * weights).sum()

    def loss_of_merged(own):
        return (apply(name, None, merged(adapter, params, own), {}) * weights).sum()

    found, expected = (flatten_params(jax.grad(f)(own)) for f in (loss, loss_of_merged))
    for path, gradient in expected.items():
        scale = float(np.abs(gradient).max())
        np.testing.assert_allclose(found[path], gradient, atol=1e-4 * max(scale, 1.0), err_msg=path)


def test_doras_gradient_is_that_of_the_merged_weights_with_a_constant_norm():
    _, params, _ = setup("decoder")
    adapter, own = trained("dora", "decoder")
    weights = jax.random.normal(jax.random.key(3), apply("decoder", None, params, {}).shape)
    norms = {
        module: jnp.linalg.norm(_kernel(params, module) + adapter.scale * _product(leaves), axis=0)
        for module, leaves in modules_of(own).items()
    }

    def merged_with_constant_norm(own):
        flat = flatten_params(params)
        for module, leaves in modules_of(own).items():
            kernel = _kernel(params, module) + adapter.scale * _product(leaves)
            flat[f"{module}/kernel"] = kernel * (leaves["magnitude/scale"] / norms[module])[None]
        return (apply("decoder", None, unflatten_params(flat), {}) * weights).sum()

    found = jax.grad(lambda own: (apply("decoder", adapter, params, own) * weights).sum())(own)
    expected = flatten_params(jax.grad(merged_with_constant_norm)(own))
    for path, gradient in expected.items():
        scale = max(float(np.abs(gradient).max()), 1.0)
        np.testing.assert_allclose(
            flatten_params(found)[path], gradient, atol=1e-4 * scale, err_msg=path
        )


def _kernel(params, module):
    return flatten_params(params)[f"{module}/kernel"]


def _product(leaves):
    return leaves["lora_a/kernel"] @ leaves["lora_b/kernel"]


def test_dropout_is_applied_in_training_alone_and_to_the_input_of_a_alone():
    _, params, _ = setup("decoder")
    adapter, own = trained("lora", "decoder", dropout_rate=0.5)
    plain, _ = trained("lora", "decoder")
    rngs = [{"dropout": jax.random.key(seed)} for seed in (0, 1)]
    quiet = apply("decoder", adapter, params, own)
    np.testing.assert_array_equal(quiet, apply("decoder", plain, params, own))
    one, two = (apply("decoder", adapter, params, own, deterministic=False, rngs=r) for r in rngs)
    assert np.abs(one - two).max() > 1e-3
    zero = jax.tree.map(jnp.zeros_like, own)
    noisy = apply("decoder", adapter, params, zero, deterministic=False, rngs=rngs[0])
    np.testing.assert_array_equal(noisy, apply("decoder", None, params, {}))


@pytest.mark.parametrize(("placement", "count"), [("houlsby", 6), ("pfeiffer", 2)])
def test_a_bottleneck_follows_each_sublayer_or_the_mlp_alone(placement, count):
    """Its `up` bias is added to the output of each sublayer: all of them sum up in the residual stream."""
    config = ModelConfig(
        **{**SHAPE, "architecture": "decoder", "positions": "rope", "num_layers": 3}
    )
    inputs = setup("decoder")[2][0]
    params = models.build(config).init(jax.random.key(0), inputs, method="init_all")["params"]
    adapter = ADAPTERS["bottleneck"](size=2, placement=placement)
    own = adapter.init(jax.random.key(1), params, config)
    assert sum(path.endswith("up/bias") for path in flatten_params(own)) == {6: 6, 2: 3}[count]
    flat = {p: x + (1.0 if p.endswith("up/bias") else 0.0) for p, x in flatten_params(own).items()}
    norm = flatten_params(params)
    zeros = {p: x * 0 if "/out/" in p else x for p, x in norm.items()}  # sublayers that add nothing
    run = functools.partial(models.build(config, adapter).apply)
    hidden = run({"params": {**unflatten_params(zeros), "adapter": unflatten_params(flat)}}, inputs)
    embedded = params["embed"]["tokens"]["embedding"][inputs.tokens]
    summed = embedded + len([p for p in flat if p.endswith("up/bias")])
    mean, variance = summed.mean(-1, keepdims=True), summed.var(-1, keepdims=True)
    np.testing.assert_allclose(hidden, (summed - mean) / np.sqrt(variance + 1e-6), atol=1e-4)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_prompt_computes_what_its_tokens_would(name):
    """A prompt of the embeddings of four tokens, against these tokens in the row."""
    config, params, (inputs,) = setup(name)
    adapter, first = adapter_of("prompt"), jnp.asarray([7, 8, 9, 10], jnp.int32)
    table = params["embed"]["tokens"]["embedding"]
    own = {"embed": {"tokens": {"prompt": {"embedding": table[first]}}}}
    found = apply(name, adapter, params, own)
    tokens = jnp.concatenate([jnp.broadcast_to(first, (3, 4)), inputs.tokens], 1)
    segments = jnp.concatenate([jnp.ones((3, 4), jnp.int32), inputs.segment_ids], 1)
    longer = make_inputs(tokens, segments, inputs.attention)
    expected = apply(name, None, params, {}, [longer])[:, 4:]
    real = np.asarray(inputs.segment_ids) > 0
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)


def test_a_prompt_of_an_encoder_decoder_is_in_its_encoder():
    config, params, (inputs, decoder_inputs) = setup("encoder_decoder")
    first = jnp.asarray([7, 8, 9, 10], jnp.int32)
    table = params["embed"]["tokens"]["embedding"]
    own = {"embed": {"tokens": {"prompt": {"embedding": table[first]}}}}
    found = apply("encoder_decoder", adapter_of("prompt"), params, own)
    tokens = jnp.concatenate([jnp.broadcast_to(first, (3, 4)), inputs.tokens], 1)
    segments = jnp.concatenate([jnp.ones((3, 4), jnp.int32), inputs.segment_ids], 1)
    longer = make_inputs(tokens, segments)
    expected = apply("encoder_decoder", None, params, {}, [longer, decoder_inputs])
    real = np.asarray(decoder_inputs.segment_ids) > 0
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)


def test_a_prefix_computes_what_the_keys_and_values_of_its_tokens_would():
    """One layer without positions: the prefix is made of the keys and values of four tokens."""
    config = ModelConfig(
        **{**SHAPE, "architecture": "decoder", "positions": "none", "num_layers": 1}
    )
    _, _, (inputs,) = setup("decoder")
    params = models.build(config).init(jax.random.key(0), inputs, method="init_all")["params"]
    first = jnp.broadcast_to(jnp.asarray([7, 8, 9, 10], jnp.int32), (3, 4))
    tokens = jnp.concatenate([first, inputs.tokens], 1)
    segments = jnp.concatenate([jnp.ones((3, 4), jnp.int32), inputs.segment_ids], 1)
    longer = make_inputs(tokens, segments, "causal")
    expected, seen = models.build(config).apply(
        {"params": params}, longer, capture_intermediates=lambda m, _: m.name in ("key", "value")
    )
    attention = seen["intermediates"]["decoder"]["layer_0"]["self_attention"]
    own = {part: attention[part]["__call__"][0][0, :4] for part in ("key", "value")}
    own = {"decoder": {"layer_0": {"self_attention": {"prefix": own}}}}
    adapter = adapter_of("prefix")
    found = models.build(config, adapter).apply({"params": {**params, "adapter": own}}, inputs)
    real = np.asarray(inputs.segment_ids) > 0
    np.testing.assert_allclose(found[real], expected[:, 4:][real], atol=1e-5)


def test_every_packed_segment_sees_the_prefix():
    _, params, (inputs,) = setup("decoder")
    adapter, own = trained("prefix", "decoder")
    packed = make_inputs(
        jnp.concatenate([inputs.tokens[:1, :6], inputs.tokens[2:, :4]], 1),
        jnp.asarray([[1] * 6 + [2] * 4], jnp.int32),
        "causal",
    )
    found = apply("decoder", adapter, params, own, [packed])
    alone = make_inputs(inputs.tokens[2:, :4], jnp.ones((1, 4), jnp.int32), "causal")
    expected = apply("decoder", adapter, params, own, [alone])
    np.testing.assert_allclose(found[:, 6:], expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_replicas_share_the_base_and_each_computes_as_alone(kind):
    _, params, _ = setup("decoder")
    adapter, own = trained(kind, "decoder")
    other = jax.tree.map(lambda x: x * 0.5, own)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), own, other)
    found = jax.vmap(lambda own: apply("decoder", adapter, params, own))(stacked)
    for row, each in zip(found, (own, other), strict=True):
        np.testing.assert_allclose(row, apply("decoder", adapter, params, each), atol=1e-5)


def test_bfloat16_and_recomputation_do_not_break_an_adapter():
    config, params, inputs = setup("decoder")
    half = dataclasses.replace(config, dtype="bfloat16")
    for kind in ("dora", "bottleneck", "prefix"):
        adapter, own = trained(kind, "decoder")
        model = models.build(half, adapter)

        @jax.checkpoint
        def loss(own, model=model):
            hidden = model.apply({"params": {**params, "adapter": own}}, *inputs)
            assert hidden.dtype == jnp.bfloat16
            return hidden.astype(jnp.float32).mean()

        gradients = jax.grad(loss)(own)
        assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradients))


def test_a_model_that_ignores_an_adapter_says_so():
    _, params, _ = setup("decoder")
    _, own = trained("lora", "decoder")
    with pytest.raises(ValueError, match="these parameters have an adapter"):
        apply("decoder", None, params, own)
