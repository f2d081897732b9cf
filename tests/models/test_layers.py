"""The layers against an independent NumPy forward pass, and the meaning of single options."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import models
from models.attention import dot_product_attention
from models.config import complete_config, resolve_defaults
from models.initializers import standard_deviations
from models.layers import ACTIVATIONS, dense_product
from models.logical_axes import with_logical_constraint
from models.positions import relative_buckets, rotate, sinusoids

RANDOM = np.random.default_rng(0)
SMALL = {"num_layers": 2, "emb_dim": 12, "num_heads": 3, "mlp_dim": 20, "vocab_size": 50,
         "max_length": 9}  # fmt: skip
TOKENS = RANDOM.integers(0, 50, (2, 7)).astype(np.int32)
SEGMENT_IDS = np.array([[1, 1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1]], np.int32)


def abstract_params(model, *inputs):
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), *inputs, method="init_all")["params"]
    )


def random_params(model, *inputs):
    shapes = abstract_params(model, *inputs)
    return jax.tree.map(lambda x: RANDOM.normal(size=x.shape).astype(np.float32) / 2, shapes)


def numpy_norm(p, x, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def numpy_dense(p, x):
    return x @ p["kernel"] + p["bias"]


def numpy_gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def numpy_attention(p, x, segment_ids, causal, num_heads):
    out = np.zeros_like(x)
    for b in range(x.shape[0]):
        q, k, v = (numpy_dense(p[name], x[b]) for name in ("query", "key", "value"))
        dim = q.shape[-1] // num_heads
        for h in range(num_heads):
            part = slice(h * dim, (h + 1) * dim)
            for t in range(x.shape[1]):
                visible = [
                    s
                    for s in range(x.shape[1])
                    if segment_ids[b, s] == segment_ids[b, t] > 0 and (s <= t or not causal)
                ]
                if not visible:
                    continue
                scores = k[visible, part] @ q[t, part] / math.sqrt(dim)
                weights = np.exp(scores - scores.max())
                out[b, t, part] = weights / weights.sum() @ v[visible, part]
    return numpy_dense(p["out"], out)


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_the_forward_pass_equals_an_independent_one_in_numpy(architecture):
    """A pre-norm decoder as GPT-2, a post-norm encoder with token types and LM transform as BERT."""
    causal, epsilon = architecture == "decoder", 1e-5
    fields = {"norm_epsilon": epsilon, "activation": "gelu"}
    if not causal:
        fields |= {"norm_position": "post", "embedding_norm": True, "num_token_types": 2}
        fields |= {"lm_head_transform": True, "lm_head_bias": True}
    model = models.build(models.ModelConfig(architecture=architecture, **SMALL, **fields))
    types = (SEGMENT_IDS == 2).astype(np.int32)
    attention = "causal" if causal else "bidirectional"
    inputs = models.make_inputs(
        jnp.asarray(TOKENS), jnp.asarray(SEGMENT_IDS), attention, token_type_ids=types
    )
    params = random_params(model, inputs)
    with jax.numpy_dtype_promotion("strict"):
        hidden = model.apply({"params": params}, inputs)
        features = model.apply({"params": params}, hidden, method="lm_features")
        embedding, bias = model.apply({"params": params}, method="output_embedding")

    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    embed, stack = params["embed"], params[architecture]
    positions = np.array([[0, 1, 2, 3, 0, 1, 0], range(7)])
    x = embed["tokens"]["embedding"][TOKENS] + embed["positions"]["embedding"][positions]
    if not causal:
        x = numpy_norm(embed["norm"], x + embed["types"]["embedding"][types], epsilon)
    for i in range(SMALL["num_layers"]):
        p = stack[f"layer_{i}"]
        for name in ("self_attention", "mlp"):

            def sublayer(x, p=p, name=name):
                if name == "mlp":
                    return numpy_dense(p["mlp"]["out"], numpy_gelu(numpy_dense(p["mlp"]["in"], x)))
                return numpy_attention(p[name], x, SEGMENT_IDS, causal, SMALL["num_heads"])

            norm = p[f"{name}_norm"]
            if causal:
                x = x + sublayer(numpy_norm(norm, x, epsilon))
            else:
                x = numpy_norm(norm, x + sublayer(x), epsilon)
    if causal:
        x = numpy_norm(stack["final_norm"], x, epsilon)
    real = SEGMENT_IDS > 0
    np.testing.assert_allclose(hidden[real], x[real], atol=2e-5 * np.abs(x).max())
    if not causal:
        head = params["heads"]["lm"]
        x = numpy_norm(head["norm"], numpy_gelu(numpy_dense(head["transform"], x)), epsilon)
        np.testing.assert_array_equal(bias, head["bias"].astype(np.float32))
    np.testing.assert_allclose(features[real], x[real], atol=2e-5 * np.abs(x).max())
    np.testing.assert_array_equal(embedding, embed["tokens"]["embedding"].astype(np.float32))
    assert embedding.shape == (128, 12)


@pytest.mark.parametrize("transform", [False, True])
def test_factorized_embeddings_are_projected_before_the_layers_and_before_the_logits(transform):
    """E -> D after the norm (ELECTRA), D -> E before the tied embedding: by the LM transform, or by a
    projection."""
    fields = {"embedding_size": 6, "embedding_norm": True, "norm_position": "post"}
    config = models.ModelConfig(**SMALL, **fields, lm_head_transform=transform)
    model = models.build(config)
    inputs = models.make_inputs(jnp.asarray(TOKENS), jnp.ones_like(TOKENS))
    params = random_params(model, inputs)
    assert params["embed"]["tokens"]["embedding"].shape == (128, 6)
    assert params["embed"]["positions"]["embedding"].shape == (9, 6)
    assert params["projection"]["kernel"].shape == (6, 12)
    assert set(params["heads"]["lm"]) == ({"transform", "norm"} if transform else {"projection"})

    embed = params["embed"]
    x = embed["tokens"]["embedding"][TOKENS] + embed["positions"]["embedding"][np.arange(7)]
    x = numpy_dense(params["projection"], numpy_norm(embed["norm"], x, config.norm_epsilon))
    embedded = model.apply({"params": params}, inputs, method="embed_inputs")
    np.testing.assert_allclose(embedded, x, atol=1e-4)
    hidden = model.apply({"params": params}, inputs)
    features = model.apply({"params": params}, hidden, method="lm_features")
    assert hidden.shape == (2, 7, 12) and features.shape == (2, 7, 6)
    head, x = params["heads"]["lm"], np.asarray(hidden)
    if transform:
        x = numpy_dense(head["transform"], x)
        x = numpy_norm(head["norm"], numpy_gelu(x), config.norm_epsilon)
    else:
        x = numpy_dense(head["projection"], x)
    np.testing.assert_allclose(features, x, atol=1e-4)
    # An untied output embedding multiplies hidden states of size D.
    untied = models.build(dataclasses.replace(config, tie_word_embeddings=False))
    head = abstract_params(untied, inputs)["heads"]["lm"]
    assert head["kernel"].shape == (12, 128) and "projection" not in head
    # Two models of different emb_dim share all of `embed`: ELECTRA's generator and discriminator.
    small = models.build(dataclasses.replace(config, emb_dim=6, embedding_size=6))
    small_params = random_params(small, inputs)
    assert "projection" not in small_params
    shared = {**small_params, "embed": params["embed"]}
    assert small.apply({"params": shared}, inputs).shape == (2, 7, 6)


def test_grouped_query_attention_is_multi_head_attention_with_repeated_key_heads():
    mask = np.tril(np.ones((2, 5, 5), bool))
    shapes = (2, 5, 4, 4), (2, 5, 2, 4), (2, 5, 2, 4)
    q, k, v = (jnp.asarray(RANDOM.normal(size=shape), jnp.float32) for shape in shapes)
    bias = jnp.asarray(RANDOM.normal(size=(4, 5, 5)), jnp.float32)
    grouped = dot_product_attention(q, k, v, mask, bias=bias, scale=0.5)
    # Query head h uses key head h // (heads per key head), as in Llama.
    k, v = jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2)
    repeated = dot_product_attention(q, k, v, mask, bias=bias, scale=0.5)
    np.testing.assert_allclose(grouped, repeated, atol=1e-6)


def test_grouped_query_attention_with_as_many_key_heads_as_heads_is_multi_head_attention():
    inputs = models.make_inputs(jnp.asarray(TOKENS), jnp.asarray(SEGMENT_IDS))
    plain = models.build(models.ModelConfig(**SMALL))
    grouped = models.build(models.ModelConfig(**SMALL, num_kv_heads=3))
    variables = {"params": random_params(plain, inputs)}
    np.testing.assert_array_equal(plain.apply(variables, inputs), grouped.apply(variables, inputs))


def test_a_sliding_window_limits_the_attention_of_a_layer():
    config = models.ModelConfig(**{**SMALL, "num_layers": 1}, sliding_window=2)
    model = models.build(config)
    ones = jnp.ones((1, 7), jnp.int32)
    before = models.make_inputs(jnp.asarray(TOKENS[:1]), ones)
    params = random_params(model, before)
    tokens = TOKENS[:1].copy()
    tokens[0, 3] = (tokens[0, 3] + 1) % 50
    after = models.make_inputs(jnp.asarray(tokens), ones)
    out = [np.asarray(model.apply({"params": params}, inputs)) for inputs in (before, after)]
    changed = np.abs(out[0] - out[1]).max(-1)[0] > 0
    np.testing.assert_array_equal(changed, [0, 0, 1, 1, 1, 0, 0])


def test_rope_scores_depend_on_distance_alone():
    q, k = (jnp.asarray(RANDOM.normal(size=(1, 1, 2, 8)), jnp.float32) for _ in range(2))

    def score(q_position, k_position):
        a = rotate(q, jnp.array([[q_position]]), 10_000.0)
        b = rotate(k, jnp.array([[k_position]]), 10_000.0)
        return (a * b).sum(-1)

    np.testing.assert_allclose(score(3, 1), score(13, 11), atol=1e-5)
    assert np.abs(score(3, 1) - score(3, 2)).max() > 1e-3
    # One pair by hand: the angle of entries 1 and 5 of 8 is position * theta^(-2/8).
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    rotated = rotate(jnp.asarray(x), jnp.array([[2]]), 10_000.0)[0, 0, 0]
    angle = 2 * 10_000 ** (-2 / 8)
    np.testing.assert_allclose(rotated[1], 1 * math.cos(angle) - 5 * math.sin(angle), rtol=1e-5)
    np.testing.assert_allclose(rotated[5], 5 * math.cos(angle) + 1 * math.sin(angle), rtol=1e-5)


def test_sinusoids_are_those_of_the_paper():
    out = sinusoids(jnp.array([[0, 1, 300]]), 6)
    for column, position in enumerate((0, 1, 300)):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            expected = math.sin(angle), math.cos(angle)
            np.testing.assert_allclose(out[0, column, 2 * i : 2 * i + 2], expected, atol=1e-4)


def test_relative_buckets_are_those_of_t5():
    distances = np.arange(200)[None, :] - np.arange(200)[:, None]
    causal = relative_buckets(distances, 32, 128, bidirectional=False)
    # 16 buckets of one distance each, then logarithmic up to 128; later keys count as distance 0.
    assert causal[150, 150 - np.arange(18)].tolist() == [*range(16), 16, 16]
    assert [causal[199, 199 - d] for d in (20, 32, 64, 127, 128, 199)] == [17, 21, 26, 31, 31, 31]
    assert not causal[10, 11:].any()
    bidirectional = relative_buckets(distances, 32, 128, bidirectional=True)
    assert bidirectional[100, 100 - np.arange(9)].tolist() == [*range(8), 8]
    assert bidirectional[100, 100 + np.arange(9)].tolist() == [0, *range(17, 24), 24]
    assert (bidirectional[0, 128:] == 31).all() and (bidirectional[128:, 0] == 15).all()


@pytest.mark.parametrize("sizes", [(4, 6), (6, 4)])
def test_the_gradients_of_dense_product_are_those_of_automatic_differentiation(sizes):
    x = jnp.asarray(RANDOM.normal(size=(2, 3, sizes[0])), jnp.float32)
    kernel = jnp.asarray(RANDOM.normal(size=sizes), jnp.float32)
    cotangent = jnp.asarray(RANDOM.normal(size=(2, 3, sizes[1])), jnp.float32)
    ours = jax.vjp(dense_product, x, kernel)[1](cotangent)
    expected = jax.vjp(jnp.dot, x, kernel)[1](cotangent)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_gelu_is_exact_and_its_approximation_is_close():
    x = np.linspace(-6, 6, 101).astype(np.float32)
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), numpy_gelu(x), atol=1e-6)
    difference = np.abs(ACTIVATIONS["gelu_tanh"](x) - numpy_gelu(x)).max()
    assert 1e-5 < difference < 1e-3


KINDS = [  # (parameter, its kind in the table)
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


def test_every_parameter_is_initialized_with_the_distribution_of_the_table():
    size = {"num_layers": 2, "emb_dim": 64, "num_heads": 16, "mlp_dim": 128, "vocab_size": 500,
            "max_length": 64}  # fmt: skip
    encoder = models.ModelConfig(
        **size, gated_mlp=True, num_token_types=64, lm_head_transform=True, lm_head_bias=True,
        tie_word_embeddings=False, scale_attention=False,
    )  # fmt: skip
    encoder_decoder = models.ModelConfig(
        **size,
        architecture="encoder_decoder",
        positions="relative",
        scale_logits_by_embedding_size=True,
    )
    ones = jnp.ones((1, 4), jnp.int32)
    inputs = models.make_inputs(ones, ones)
    measured = set()
    for config, decoder_inputs in ((encoder, None), (encoder_decoder, inputs)):
        expected = standard_deviations(config, depth=2)
        init = functools.partial(models.build(config).init, method="init_all")
        tree = jax.jit(init)(jax.random.key(3), inputs, decoder_inputs)["params"]
        flat = jax.tree_util.tree_leaves_with_path(tree)
        params = {".".join(k.key for k in path): np.asarray(x) for path, x in flat}
        for path, x in params.items():
            if path.endswith(".bias"):
                assert not x.any(), path
            elif path.endswith(".scale"):
                assert (x == 1).all(), path
        for path, kind in KINDS:
            if path in params and (path.startswith("decoder") or decoder_inputs is None):
                measured.add(path)
                x, n = params[path], params[path].size
                assert abs(x.std() / expected[kind] - 1) < 4 / math.sqrt(2 * n), path
                assert abs(x.mean()) < 4 * expected[kind] / math.sqrt(n), path
        if decoder_inputs is not None:
            assert abs(params["embed.tokens.embedding"].std() - 1.0) < 0.02
    assert measured == {path for path, _ in KINDS}
    assert standard_deviations(encoder_decoder, 2)["residual"] == pytest.approx(0.02 / 2)
    assert standard_deviations(encoder, 2)["query"] == pytest.approx(0.02 / 2)


def test_a_logical_constraint_is_the_identity_without_rules_and_shards_with_them():
    x = jnp.ones((4, 3, 8))
    assert with_logical_constraint(x, "BTD") is x
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices")
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=auto)
    rules = (("B", "data"), ("D", "tensor"), ("T", "tensor"))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        out = jax.jit(lambda x: with_logical_constraint(x, "BTD"))(x)
    # T has 3 entries, which 2 devices do not divide: it is replicated.
    assert out.sharding.spec == jax.sharding.PartitionSpec("data", None, "tensor")


def test_axis_names_that_do_not_fit_the_array_are_refused():
    for names in ("BT", "BTZ"):
        with pytest.raises(ValueError, match="expected one name per axis"):
            with_logical_constraint(jnp.ones((4, 3, 8)), names)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"emb_dim": 10, "num_heads": 3}, "num_heads=3, emb_dim=10: num_heads must divide"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads=3, num_heads=4: num_kv_heads must"),
        ({"head_dim": 5, "positions": "rope"}, "RoPE needs an even head_dim"),
        ({"emb_dim": 9, "num_heads": 3, "positions": "sinusoidal"}, " embedding_size=9"),
        ({"embedding_size": 9, "positions": "sinusoidal"}, " embedding_size=9"),
        ({"num_decoder_layers": 2}, "num_decoder_layers=2"),
        ({"positions": "relative", "relative_max_distance": 8}, "relative_max_distance=8"),
        ({"architecture": "embeddings", "embedding_size": 8}, "embedding_size=8: set emb_dim"),
    ],
)
def test_contradictory_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        models.ModelConfig(**fields)


def test_inputs_that_do_not_fit_the_model_are_refused():
    ones = jnp.ones((1, 10), jnp.int32)
    inputs = models.make_inputs(ones, ones)
    with pytest.raises(ValueError, match="max_length=9"):
        models.build(models.ModelConfig(**SMALL)).init(jax.random.key(0), inputs)
    both = models.build(models.ModelConfig(**SMALL, architecture="encoder_decoder"))
    with pytest.raises(ValueError, match="without decoder_inputs"):
        both.init(jax.random.key(0), inputs)
    with pytest.raises(ValueError, match="vocab_size=0 and model.max_length=9: expected both"):
        models.build(models.ModelConfig(**{**SMALL, "vocab_size": 0}))


def test_complete_config_fills_in_zeros_and_refuses_what_is_too_small():
    config = complete_config(models.ModelConfig(), 300, 64, 2)
    assert (config.vocab_size, config.max_length, config.num_token_types) == (300, 64, 2)
    assert complete_config(config, 200, 32) == config
    for arguments, message in (
        ((301, 64), "vocab_size=300 is smaller than the 301 tokens of the tokenizer"),
        ((300, 65), "max_length=64 is smaller than the 65 positions of a sequence"),
        ((300, 64, 3), "num_token_types=2 is smaller than the 3 token types of the objective"),
    ):
        with pytest.raises(ValueError, match=message):
            complete_config(config, *arguments)
    rope = dataclasses.replace(config, positions="rope")
    assert complete_config(rope, 300, 65) == rope


def test_resolve_defaults_changes_no_parameter_and_no_output():
    config = models.ModelConfig(
        **SMALL, architecture="encoder_decoder", positions="rope", sliding_window=2,
        global_attn_every_n_layers=2,
    )  # fmt: skip
    resolved = resolve_defaults(config)
    assert resolved == resolve_defaults(resolved)
    names = ("embedding_size", "num_kv_heads", "head_dim", "num_decoder_layers", "local_rope_theta")
    assert [getattr(resolved, name) for name in names] == [12, 3, 4, 2, 10_000.0]
    inputs = models.make_inputs(jnp.asarray(TOKENS), jnp.asarray(SEGMENT_IDS))
    params = random_params(models.build(config), inputs, inputs)
    out = [models.build(c).apply({"params": params}, inputs, inputs) for c in (config, resolved)]
    np.testing.assert_array_equal(*out)
