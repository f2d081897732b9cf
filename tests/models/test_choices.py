"""Choices of the network against what they are made of: shared stacks, QK-norm, splits of layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import models.stack

SMALL = {"layers": 2, "width": 16, "heads": 4, "mlp_size": 24, "vocab_size": 50, "max_length": 9}
RANDOM = np.random.default_rng(0)
TOKENS = jnp.asarray(RANDOM.integers(0, 50, (2, 7)), jnp.int32)
SOURCE = models.sequence_of(TOKENS, jnp.ones_like(TOKENS))
REPLY = models.sequence_of(TOKENS[:, :5], jnp.ones_like(TOKENS[:, :5]), "causal")


def random_parameters(model, *sequences):
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), *sequences, method="initialise")["params"]
    )
    return jax.tree.map(lambda x: RANDOM.normal(size=x.shape).astype(np.float32) / 2, shapes)


def test_shared_stacks_are_separate_ones_with_equal_parameters():
    """The decoder's tree holds cross-attention and its own relative biases, nothing else; values are
    those of a network with two stacks, gradients the sums of both stacks' gradients."""
    separate = models.ModelConfig(architecture="encoder_decoder", positions="relative", **SMALL)
    shared = models.build(dataclasses.replace(separate, shared_stacks=True))
    params = random_parameters(shared, SOURCE, REPLY)
    own = {"cross_attention", "cross_attention_norm"}
    assert {name: set(part) for name, part in params["decoder"].items()} == {
        "layer_0": own,
        "layer_1": own,
        "relative_bias": {"embedding"},
    }

    def doubled(params):
        decoder = {
            name: {**params["encoder"][name], **params["decoder"].get(name, {})}
            for name in ("layer_0", "layer_1", "final_norm")
        }
        return {**params, "decoder": {**params["decoder"], **decoder}}

    def output(model, params):
        return jnp.sin(model.apply({"params": params}, SOURCE, REPLY)).sum()

    both = models.build(separate)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: output(shared, p)))(params)
    expected, pulled = jax.jit(jax.value_and_grad(lambda p: output(both, doubled(p))))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradient, pulled)
    # decode() alone finds the lent layers too.
    encoded = shared.apply({"params": params}, SOURCE, method="encode")
    hidden = shared.apply({"params": params}, REPLY, encoded, SOURCE, method="decode")
    np.testing.assert_allclose(jnp.sin(hidden).sum(), expected, rtol=1e-5)


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_qk_norm_is_the_norm_of_each_head_before_the_turn(norm):
    """By kernels: a network without QK-norm whose queries and keys come out normalised already."""
    fields = {"norm": norm, "biases": False, "positions": "none", "kv_heads": 2}
    config = models.ModelConfig(**{**SMALL, "layers": 1}, **fields, qk_norm=True)
    model = models.build(config)
    params = random_parameters(model, SOURCE)
    attention = params["encoder"]["layer_0"]["self_attention"]
    assert attention["query_norm"]["scale"].shape == attention["key_norm"]["scale"].shape == (4,)
    hidden, seen = model.apply(
        {"params": params}, SOURCE, capture_intermediates=True, mutable=["intermediates"]
    )
    seen = seen["intermediates"]["encoder"]["layer_0"]["self_attention"]

    def normalised(x, scale):
        x = np.asarray(x, np.float64)
        if norm == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * scale

    for name, heads in (("query", 4), ("key", 2)):
        plain = np.asarray(seen[name]["__call__"][0]).reshape(2, 7, heads, 4)
        np.testing.assert_allclose(
            seen[f"{name}_norm"]["__call__"][0],
            normalised(plain, attention[f"{name}_norm"]["scale"]),
            atol=1e-5,
        )
    # Scores, and with them the output, know the direction of a query alone, not its size.
    larger = jax.tree.map(lambda x: x, params)
    kernel = larger["encoder"]["layer_0"]["self_attention"]["query"]["kernel"]
    larger["encoder"]["layer_0"]["self_attention"]["query"]["kernel"] = 100 * kernel
    np.testing.assert_allclose(model.apply({"params": larger}, SOURCE), hidden, atol=1e-3)
    plain = models.build(dataclasses.replace(config, qk_norm=False))
    assert np.abs(plain.apply({"params": larger}, SOURCE) - hidden).max() > 0.1


def trunk(**fields):
    """Parameters of the two stacks, relative biases and norms left out."""
    config = models.ModelConfig(
        architecture="encoder_decoder", norm="rmsnorm", biases=False, positions="relative",
        **{**SMALL, **fields},
    )  # fmt: skip
    model = models.build(config)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), SOURCE, REPLY, method="initialise")["params"]
    )
    stacks = {"encoder": shapes["encoder"], "decoder": shapes["decoder"]}
    return sum(x.size for x in jax.tree.leaves(stacks) if x.ndim == 2 and x.shape[0] != 32)


def test_the_rows_of_t5s_table_2_are_config_values():
    """2P: two stacks of L layers; P: shared, or two stacks of L/2. Cross-attention comes on top
    (Raffel et al. 2020, section 3.2.2 calls both P)."""
    D, F, layers = SMALL["width"], SMALL["mlp_size"], 4  # 12 in the paper
    layer, cross = 4 * D * D + 2 * D * F, 4 * D * D
    assert trunk(layers=4) == 2 * layers * layer + layers * cross
    assert trunk(layers=4, shared_stacks=True) == layers * layer + layers * cross
    assert trunk(layers=2) == layers * layer + layers // 2 * cross
    assert trunk(layers=3, decoder_layers=1) == layers * layer + cross


@pytest.mark.parametrize(
    "fields",
    [{"architecture": "decoder"}, {"architecture": "encoder_decoder", "decoder_layers": 1}],
)
def test_stacks_that_cannot_share_are_refused(fields):
    with pytest.raises(ValueError, match="two stacks of equal depth"):
        models.ModelConfig(**SMALL, **fields, shared_stacks=True)


def hidden(model, params, *sequences):
    return np.asarray(model.apply({"params": params}, *sequences))


def test_unused_rows_lie_before_the_position_table():
    plain = models.build(models.ModelConfig(**SMALL))
    moved = models.build(models.ModelConfig(**SMALL, position_offset=2))
    params = random_parameters(moved, SOURCE)
    table = params["embed"]["positions"]["embedding"]
    assert table.shape == (11, 16)
    same = {**params, "embed": {**params["embed"], "positions": {"embedding": table[2:]}}}
    np.testing.assert_array_equal(hidden(moved, params, SOURCE), hidden(plain, same, SOURCE))


def test_layers_of_two_kinds_are_those_of_networks_of_one_kind():
    """Layer by layer: the first sees everything by the one base, the next a window by the other."""
    fields = {"positions": "rotary", "rotary_base": 100.0}
    shape = {**SMALL, "layers": 3}
    config = models.ModelConfig(**shape, **fields, window=2, global_every=2, local_rotary_base=10.0)
    assert [config.window_of(i) for i in range(3)] == [0, 2, 0]
    assert [config.rotary_base_of(i) for i in range(3)] == [100.0, 10.0, 100.0]
    params = random_parameters(models.build(config), SOURCE)
    wide = {**shape, "layers": 1, **fields}
    kinds = [wide, {**wide, "rotary_base": 10.0, "window": 2}, wide]
    x = params["embed"]["tokens"]["embedding"][TOKENS]
    for i, kind in enumerate(kinds):
        stack = models.stack.Stack(models.ModelConfig(**kind), "encoder")
        last = params["encoder"]["final_norm"]
        alone = {"layer_0": params["encoder"][f"layer_{i}"], "final_norm": last}
        if i < 2:  # without the norm at the end
            layer = models.stack.Layer(models.ModelConfig(**kind), 1)
            x = layer.apply({"params": alone["layer_0"]}, x, SOURCE)
        else:
            x = stack.apply({"params": alone}, x, SOURCE)
    np.testing.assert_allclose(x, hidden(models.build(config), params, SOURCE), atol=1e-4)


def test_without_the_first_norm_self_attention_reads_the_embeddings():
    config = models.ModelConfig(**SMALL, embedding_norm=True, first_norm=False)
    model = models.build(config)
    params = random_parameters(model, SOURCE)
    assert "self_attention_norm" not in params["encoder"]["layer_0"]
    assert "self_attention_norm" in params["encoder"]["layer_1"]
    _, seen = model.apply(
        {"params": params}, SOURCE, capture_intermediates=True, mutable=["intermediates"]
    )
    seen = seen["intermediates"]
    kernel = params["encoder"]["layer_0"]["self_attention"]["query"]
    read = np.asarray(seen["embed"]["__call__"][0])
    query = read @ kernel["kernel"] + kernel["bias"]
    got = seen["encoder"]["layer_0"]["self_attention"]["query"]["__call__"][0]
    np.testing.assert_allclose(got, query, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"global_every": 2}, "global_every=2 with window=0"),
        ({"local_rotary_base": 10.0, "positions": "rotary"}, "local_rotary_base=10.0.*layers of both"),
        ({"first_norm": False, "norm_position": "post"}, "first_norm=False with norm_position='post'"),
        ({"position_offset": 2, "positions": "rotary"}, "position_offset=2 with positions='rotary'"),
        ({"separate_embeddings": True}, "separate_embeddings=True with architecture='encoder'"),
        ({"separate_embeddings": True, "architecture": "encoder_decoder", "positions": "none"},
         "learned positions or an embedding norm"),
    ],
)  # fmt: skip
def test_choices_without_an_object_are_refused_in_one_line(fields, words):
    with pytest.raises(ValueError, match=words) as caught:
        models.ModelConfig(**SMALL, **fields)
    assert "\n" not in str(caught.value)
