"""The layers against an independent NumPy forward pass, and what each choice of the config means."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import models
from models.attention import attend
from models.axes import constrain
from models.initial import standard_deviations
from models.layers import ACTIVATIONS, project
from models.positions import relative_buckets, rotate, sinusoids

RANDOM = np.random.default_rng(0)
SMALL = {"layers": 2, "width": 12, "heads": 3, "mlp_size": 20, "vocab_size": 50, "max_length": 9}
TOKENS = RANDOM.integers(0, 50, (2, 7)).astype(np.int32)
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1]], np.int32)


def random_parameters(model, *sequences):
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), *sequences, method="initialise")["params"]
    )
    return jax.tree.map(lambda x: RANDOM.normal(size=x.shape).astype(np.float32) / 2, shapes)


def numpy_norm(p, x, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def numpy_dense(p, x):
    return x @ p["kernel"] + p["bias"]


def numpy_gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def numpy_attention(p, x, segments, causal, heads):
    out = np.zeros_like(x)
    for b in range(x.shape[0]):
        q, k, v = (numpy_dense(p[name], x[b]) for name in ("query", "key", "value"))
        size = q.shape[-1] // heads
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            for t in range(x.shape[1]):
                seen = [
                    s
                    for s in range(x.shape[1])
                    if segments[b, s] == segments[b, t] > 0 and (s <= t or not causal)
                ]
                if not seen:
                    continue
                scores = k[seen, part] @ q[t, part] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[b, t, part] = weights / weights.sum() @ v[seen, part]
    return numpy_dense(p["out"], out)


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_forward_pass_equals_an_independent_one_in_numpy(architecture):
    """A pre-norm decoder as GPT-2, a post-norm encoder with types and transform as BERT."""
    causal, epsilon = architecture == "decoder", 1e-5
    fields = {"norm_epsilon": epsilon, "activation": "gelu"}
    if not causal:
        fields |= {"norm_position": "post", "embedding_norm": True, "token_types": 2}
        fields |= {"readout_transform": True, "output_bias": True}
    model = models.build(models.ModelConfig(architecture=architecture, **SMALL, **fields))
    types = (SEGMENTS == 2).astype(np.int32)
    sequence = models.sequence_of(
        jnp.asarray(TOKENS), jnp.asarray(SEGMENTS), "causal" if causal else "all", types=types
    )
    params = random_parameters(model, sequence)
    with jax.numpy_dtype_promotion("strict"):
        hidden = model.apply({"params": params}, sequence)
        features = model.apply({"params": params}, hidden, method="readout")
        table, bias = model.apply({"params": params}, method="unembedding")

    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    embed, stack = params["embed"], params[architecture]
    positions = np.array([[0, 1, 2, 3, 0, 1, 0], range(7)])
    x = embed["tokens"]["embedding"][TOKENS] + embed["positions"]["embedding"][positions]
    if not causal:
        x = numpy_norm(embed["norm"], x + embed["types"]["embedding"][types], epsilon)
    for i in range(SMALL["layers"]):
        p = stack[f"layer_{i}"]
        for name in ("self_attention", "mlp"):

            def sublayer(x, p=p, name=name):
                if name == "mlp":
                    return numpy_dense(p["mlp"]["out"], numpy_gelu(numpy_dense(p["mlp"]["in"], x)))
                return numpy_attention(p[name], x, SEGMENTS, causal, SMALL["heads"])

            norm = p[f"{name}_norm"]
            if causal:
                x = x + sublayer(numpy_norm(norm, x, epsilon))
            else:
                x = numpy_norm(norm, x + sublayer(x), epsilon)
    if causal:
        x = numpy_norm(stack["final_norm"], x, epsilon)
    real = SEGMENTS > 0
    np.testing.assert_allclose(hidden[real], x[real], atol=2e-5 * np.abs(x).max())
    if not causal:
        head = params["heads"]["lm"]
        x = numpy_norm(head["norm"], numpy_gelu(numpy_dense(head["transform"], x)), epsilon)
        np.testing.assert_array_equal(bias, head["bias"].astype(np.float32))
    np.testing.assert_allclose(features[real], x[real], atol=2e-5 * np.abs(x).max())
    np.testing.assert_array_equal(table, embed["tokens"]["embedding"].astype(np.float32))
    assert table.shape == (128, 12)


@pytest.mark.parametrize("transform", [False, True])
def test_embeddings_of_another_size_are_lifted_before_the_layers_and_come_down_after(transform):
    """E -> D after norm (ELECTRA), D -> E before the tied table: by the transform, or plainly."""
    fields = {"embedding_size": 6, "embedding_norm": True, "norm_position": "post"}
    config = models.ModelConfig(**SMALL, **fields, readout_transform=transform)
    model = models.build(config)
    sequence = models.sequence_of(jnp.asarray(TOKENS), jnp.ones_like(TOKENS))
    params = random_parameters(model, sequence)
    assert params["embed"]["tokens"]["embedding"].shape == (128, 6)
    assert params["embed"]["positions"]["embedding"].shape == (9, 6)
    assert params["projection"]["kernel"].shape == (6, 12)
    assert set(params["heads"]["lm"]) == ({"transform", "norm"} if transform else {"projection"})

    embed = params["embed"]
    x = embed["tokens"]["embedding"][TOKENS] + embed["positions"]["embedding"][np.arange(7)]
    x = numpy_dense(params["projection"], numpy_norm(embed["norm"], x, config.norm_epsilon))
    np.testing.assert_allclose(
        model.apply({"params": params}, sequence, method="embedded"), x, atol=1e-4
    )
    hidden = model.apply({"params": params}, sequence)
    features = model.apply({"params": params}, hidden, method="readout")
    assert hidden.shape == (2, 7, 12) and features.shape == (2, 7, 6)
    head, x = params["heads"]["lm"], np.asarray(hidden)
    if transform:
        x = numpy_dense(head["transform"], x)
        x = numpy_norm(head["norm"], numpy_gelu(x), config.norm_epsilon)
    else:
        x = numpy_dense(head["projection"], x)
    np.testing.assert_allclose(features, x, atol=1e-4)
    # Untied, the output has a kernel of its own for states as wide as the stack.
    untied = models.build(dataclasses.replace(config, tied_embeddings=False))
    shapes = jax.eval_shape(
        lambda: untied.init(jax.random.key(0), sequence, method="initialise")["params"]
    )
    assert shapes["heads"]["lm"]["kernel"].shape == (12, 128)
    assert "projection" not in shapes["heads"]["lm"]
    # Two networks of unlike widths share all of `embed`: ELECTRA's generator and discriminator.
    small = models.build(dataclasses.replace(config, width=6, embedding_size=6))
    theirs = random_parameters(small, sequence)
    assert "projection" not in theirs
    shared = {**theirs, "embed": params["embed"]}
    assert small.apply({"params": shared}, sequence).shape == (2, 7, 6)


def heads_of(kv_heads):
    shape = (2, 5, kv_heads, 4)
    return (RANDOM.normal(size=(2, 5, 4, 4)), RANDOM.normal(size=shape), RANDOM.normal(size=shape))


def test_grouped_query_attention_is_multi_head_with_repeated_key_heads():
    mask = np.tril(np.ones((2, 5, 5), bool))
    q, k, v = (jnp.asarray(x, jnp.float32) for x in heads_of(2))
    bias = jnp.asarray(RANDOM.normal(size=(4, 5, 5)), jnp.float32)
    grouped = attend(q, k, v, mask, bias=bias, scale=0.5)
    # Query head h reads key head h // (heads per key head), as in Llama.
    repeated = attend(
        q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2), mask, bias=bias, scale=0.5
    )
    np.testing.assert_allclose(grouped, repeated, atol=1e-6)


def test_grouped_query_with_as_many_key_heads_as_heads_is_multi_head():
    sequence = models.sequence_of(jnp.asarray(TOKENS), jnp.asarray(SEGMENTS))
    plain = models.build(models.ModelConfig(**SMALL))
    grouped = models.build(models.ModelConfig(**SMALL, kv_heads=3))
    params = random_parameters(plain, sequence)
    np.testing.assert_array_equal(
        plain.apply({"params": params}, sequence), grouped.apply({"params": params}, sequence)
    )


def test_a_window_limits_what_one_layer_sees_to_its_width():
    config = models.ModelConfig(**{**SMALL, "layers": 1}, window=2)
    model = models.build(config)
    ones = jnp.ones((1, 7), jnp.int32)
    before = models.sequence_of(jnp.asarray(TOKENS[:1]), ones)
    params = random_parameters(model, before)
    tokens = TOKENS[:1].copy()
    tokens[0, 3] = (tokens[0, 3] + 1) % 50
    out = [
        np.asarray(model.apply({"params": params}, s))
        for s in (before, models.sequence_of(jnp.asarray(tokens), ones))
    ]
    changed = np.abs(out[0] - out[1]).max(-1)[0] > 0
    np.testing.assert_array_equal(changed, [0, 0, 1, 1, 1, 0, 0])


def test_rotary_scores_depend_on_distance_alone():
    q, k = (jnp.asarray(RANDOM.normal(size=(1, 1, 2, 8)), jnp.float32) for _ in range(2))

    def score(at_q, at_k):
        turned = [rotate(x, jnp.array([[at]]), 10_000.0) for x, at in ((q, at_q), (k, at_k))]
        return (turned[0] * turned[1]).sum(-1)

    np.testing.assert_allclose(score(3, 1), score(13, 11), atol=1e-5)
    assert np.abs(score(3, 1) - score(3, 2)).max() > 1e-3
    # One pair by hand: entries 1 and 5 of 8 turn by position * base^(-2/8).
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    turned = rotate(jnp.asarray(x), jnp.array([[2]]), 10_000.0)[0, 0, 0]
    angle = 2 * 10_000 ** (-2 / 8)
    np.testing.assert_allclose(turned[1], 1 * math.cos(angle) - 5 * math.sin(angle), rtol=1e-5)
    np.testing.assert_allclose(turned[5], 5 * math.cos(angle) + 1 * math.sin(angle), rtol=1e-5)


def test_sinusoids_are_those_of_the_paper():
    out = sinusoids(jnp.array([[0, 1, 300]]), 6)
    for column, position in enumerate((0, 1, 300)):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            expected = math.sin(angle), math.cos(angle)
            np.testing.assert_allclose(out[0, column, 2 * i : 2 * i + 2], expected, atol=1e-4)


def test_relative_buckets_are_those_of_t5():
    causal = relative_buckets(200, 200, 32, 128, bidirectional=False)
    # 16 buckets of one distance each, then logarithmic up to 128; later keys count as distance 0.
    assert causal[150, 150 - np.arange(18)].tolist() == [*range(16), 16, 16]
    assert [causal[199, 199 - d] for d in (20, 32, 64, 127, 128, 199)] == [17, 21, 26, 31, 31, 31]
    assert not causal[10, 11:].any()
    both = relative_buckets(200, 200, 32, 128, bidirectional=True)
    assert both[100, 100 - np.arange(9)].tolist() == [*range(8), 8]
    assert both[100, 100 + np.arange(9)].tolist() == [0, *range(17, 24), 24]
    assert (both[0, 128:] == 31).all() and (both[128:, 0] == 15).all()


@pytest.mark.parametrize("sizes", [(4, 6), (6, 4)])
def test_gradients_of_a_dense_product_are_those_of_automatic_differentiation(sizes):
    x = jnp.asarray(RANDOM.normal(size=(2, 3, sizes[0])), jnp.float32)
    kernel = jnp.asarray(RANDOM.normal(size=sizes), jnp.float32)
    cotangent = jnp.asarray(RANDOM.normal(size=(2, 3, sizes[1])), jnp.float32)
    ours = jax.vjp(project, x, kernel)[1](cotangent)
    theirs = jax.vjp(jnp.dot, x, kernel)[1](cotangent)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_gelu_is_exact_and_its_approximation_is_close():
    x = np.linspace(-6, 6, 101).astype(np.float32)
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), numpy_gelu(x), atol=1e-6)
    difference = np.abs(ACTIVATIONS["gelu_tanh"](x) - numpy_gelu(x)).max()
    assert 1e-5 < difference < 1e-3


INITIAL = [  # path below the parameters -> kind of the table
    ("embed.tokens.embedding", "token"),
    ("embed.positions.embedding", "position"),
    ("embed.types.embedding", "type"),
    ("encoder.layer_0.self_attention.query.kernel", "query"),
    ("encoder.layer_1.self_attention.key.kernel", "kernel"),
    ("encoder.layer_1.self_attention.value.kernel", "kernel"),
    ("encoder.layer_1.self_attention.out.kernel", "residual"),
    ("encoder.layer_0.mlp.in.kernel", "kernel"),
    ("encoder.layer_0.mlp.gate.kernel", "kernel"),
    ("encoder.layer_0.mlp.out.kernel", "residual"),
    ("heads.lm.transform.kernel", "kernel"),
    ("heads.lm.kernel", "output"),
    ("decoder.layer_0.cross_attention.query.kernel", "query"),
    ("decoder.layer_0.cross_attention.out.kernel", "residual"),
    ("decoder.relative_bias.embedding", "relative_bias"),
]


def test_every_parameter_begins_with_the_distribution_of_the_table():
    size = {"layers": 2, "width": 64, "heads": 16, "mlp_size": 128, "vocab_size": 500}
    size["max_length"] = 64
    common = {"gated": True, "token_types": 64, "readout_transform": True, "output_bias": True}
    encoder = models.ModelConfig(**size, **common, tied_embeddings=False, attention_scale=False)
    both = models.ModelConfig(
        **size, architecture="encoder_decoder", positions="relative", readout_scale=True
    )
    ones = jnp.ones((1, 4), jnp.int32)
    sequence = models.sequence_of(ones, ones)
    measured = set()
    for config, decoder in ((encoder, None), (both, sequence)):
        expected = standard_deviations(config, depth=2)
        model = models.build(config)
        init = jax.jit(
            lambda m=model, d=decoder: m.init(jax.random.key(3), sequence, d, method="initialise")
        )
        flat = jax.tree_util.tree_leaves_with_path(init()["params"])
        params = {".".join(k.key for k in path): np.asarray(x) for path, x in flat}
        for path, x in params.items():
            if path.endswith(".bias"):
                assert not x.any(), path
            elif path.endswith(".scale"):
                assert (x == 1).all(), path
        for path, kind in INITIAL:
            if path in params and (path.startswith("decoder") or decoder is None):
                measured.add(path)
                x, n = params[path], params[path].size
                assert abs(x.std() / expected[kind] - 1) < 4 / math.sqrt(2 * n), path
                assert abs(x.mean()) < 4 * expected[kind] / math.sqrt(n), path
        if decoder is not None:
            assert abs(params["embed.tokens.embedding"].std() - 1.0) < 0.02
    assert measured == {path for path, _ in INITIAL}
    assert standard_deviations(both, 2)["residual"] == pytest.approx(0.02 / 2)
    assert standard_deviations(encoder, 2)["query"] == pytest.approx(0.02 / 2)


def test_constrain_is_the_identity_without_rules_and_lays_axes_out_with_them():
    x = jnp.ones((4, 3, 8))
    assert constrain(x, "BTD") is x
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices")
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=auto)
    rules = (("B", "data"), ("D", "tensor"), ("T", "tensor"))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        out = jax.jit(lambda x: constrain(x, "BTD"))(x)
    # T has 3 entries, which 2 devices do not divide: it stays whole.
    assert out.sharding.spec == jax.sharding.PartitionSpec("data", None, "tensor")


def test_letters_that_do_not_fit_the_array_are_refused():
    for letters in ("BT", "BTZ"):
        with pytest.raises(ValueError, match="one declared letter for each axis"):
            constrain(jnp.ones((4, 3, 8)), letters)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"width": 10, "heads": 3}, "does not divide model.width=10"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads=3 does not divide"),
        ({"head_size": 5, "positions": "rotary"}, "even model.head_size"),
        ({"width": 9, "heads": 3, "positions": "sinusoidal"}, "embeddings have 9 entries"),
        ({"embedding_size": 9, "positions": "sinusoidal"}, "embeddings have 9 entries"),
        ({"decoder_layers": 2}, "decoder_layers=2"),
        ({"readout_scale": True, "tied_embeddings": False}, "tied_embeddings=True"),
        ({"positions": "relative", "relative_max_distance": 8}, "relative_max_distance=8"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        models.ModelConfig(**fields)


def test_sequences_that_do_not_fit_the_network_are_refused():
    ones = jnp.ones((1, 10), jnp.int32)
    sequence = models.sequence_of(ones, ones)
    with pytest.raises(ValueError, match="max_length=9"):
        models.build(models.ModelConfig(**SMALL)).init(jax.random.key(0), sequence)
    both = models.build(models.ModelConfig(**SMALL, architecture="encoder_decoder"))
    with pytest.raises(ValueError, match="without a decoder sequence"):
        both.init(jax.random.key(0), sequence)
