"""Options of ModelConfig against equivalent models: shared stacks, QK-norm, depths, mixed layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.transformer import TransformerLayer, TransformerStack

SMALL = {"num_layers": 2, "emb_dim": 16, "num_heads": 4, "mlp_dim": 24, "vocab_size": 50,
         "max_length": 9}  # fmt: skip
RANDOM = np.random.default_rng(0)
TOKENS = jnp.asarray(RANDOM.integers(0, 50, (2, 7)), jnp.int32)
INPUTS = models.make_inputs(TOKENS, jnp.ones_like(TOKENS))
DECODER_INPUTS = models.make_inputs(TOKENS[:, :5], jnp.ones_like(TOKENS[:, :5]), "causal")


def abstract_params(model, *inputs):
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), *inputs, method="init_all")["params"]
    )


def random_params(model, *inputs):
    shapes = abstract_params(model, *inputs)
    return jax.tree.map(lambda x: RANDOM.normal(size=x.shape).astype(np.float32) / 2, shapes)


def intermediates(model, params, inputs):
    """(hidden states, outputs of every submodule)."""
    hidden, state = model.apply(
        {"params": params}, inputs, capture_intermediates=True, mutable=["intermediates"]
    )
    return hidden, state["intermediates"]


def test_shared_stacks_equal_separate_ones_with_equal_parameters():
    """The decoder's tree holds only cross-attention and its own relative biases. Values are those of a
    model with two stacks, gradients the sums of both stacks' gradients."""
    separate = models.ModelConfig(architecture="encoder_decoder", positions="relative", **SMALL)
    shared = models.build(dataclasses.replace(separate, share_encoder_decoder=True))
    params = random_params(shared, INPUTS, DECODER_INPUTS)
    own = {"cross_attention", "cross_attention_norm"}
    assert {name: set(part) for name, part in params["decoder"].items()} == {
        "layer_0": own,
        "layer_1": own,
        "relative_bias": {"embedding"},
    }

    def duplicated(params):
        decoder = {
            name: {**params["encoder"][name], **params["decoder"].get(name, {})}
            for name in ("layer_0", "layer_1", "final_norm")
        }
        return {**params, "decoder": {**params["decoder"], **decoder}}

    def output(model, params):
        return jnp.sin(model.apply({"params": params}, INPUTS, DECODER_INPUTS)).sum()

    both = models.build(separate)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: output(shared, p)))(params)
    expected = jax.jit(jax.value_and_grad(lambda p: output(both, duplicated(p))))(params)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradient, expected[1])
    # decode() alone finds the encoder's layers too.
    encoded = shared.apply({"params": params}, INPUTS, method="encode")
    hidden = shared.apply({"params": params}, DECODER_INPUTS, encoded, INPUTS, method="decode")
    np.testing.assert_allclose(jnp.sin(hidden).sum(), expected[0], rtol=1e-5)


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_qk_norm_normalizes_each_head(norm):
    fields = {"norm": norm, "use_bias": False, "positions": "none", "num_kv_heads": 2}
    config = models.ModelConfig(**{**SMALL, "num_layers": 1}, **fields, qk_norm=True)
    model = models.build(config)
    params = random_params(model, INPUTS)
    attention = params["encoder"]["layer_0"]["self_attention"]
    assert attention["query_norm"]["scale"].shape == attention["key_norm"]["scale"].shape == (4,)
    hidden, outputs = intermediates(model, params, INPUTS)
    outputs = outputs["encoder"]["layer_0"]["self_attention"]

    def normalized(x, scale):
        x = np.asarray(x, np.float64)
        if norm == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * scale

    for name, heads in (("query", 4), ("key", 2)):
        before = np.asarray(outputs[name]["__call__"][0]).reshape(2, 7, heads, 4)
        np.testing.assert_allclose(
            outputs[f"{name}_norm"]["__call__"][0],
            normalized(before, attention[f"{name}_norm"]["scale"]),
            atol=1e-5,
        )
    # Scores, and so the output, depend on the direction of a query, not on its size.
    larger = jax.tree.map(lambda x: x, params)
    kernel = larger["encoder"]["layer_0"]["self_attention"]["query"]["kernel"]
    larger["encoder"]["layer_0"]["self_attention"]["query"]["kernel"] = 100 * kernel
    np.testing.assert_allclose(model.apply({"params": larger}, INPUTS), hidden, atol=1e-3)
    plain = models.build(dataclasses.replace(config, qk_norm=False))
    assert np.abs(plain.apply({"params": larger}, INPUTS) - hidden).max() > 0.1


def num_stack_params(**fields):
    """Parameters of the two stacks without relative biases and norms."""
    config = models.ModelConfig(
        architecture="encoder_decoder", norm="rmsnorm", use_bias=False, positions="relative",
        **{**SMALL, **fields},
    )  # fmt: skip
    params = abstract_params(models.build(config), INPUTS, DECODER_INPUTS)
    leaves = jax.tree.leaves((params["encoder"], params["decoder"]))
    return sum(x.size for x in leaves if x.ndim == 2 and x.shape[0] != 32)


def test_the_rows_of_t5s_table_2_are_configs():
    """2P: two stacks of L layers. P: shared stacks, or two stacks of L/2. Cross-attention is extra
    (Raffel et al. 2020, section 3.2.2, call both P)."""
    D, F, L = SMALL["emb_dim"], SMALL["mlp_dim"], 4  # 12 in the paper
    layer, cross = 4 * D * D + 2 * D * F, 4 * D * D
    assert num_stack_params(num_layers=4) == 2 * L * layer + L * cross
    assert num_stack_params(num_layers=4, share_encoder_decoder=True) == L * layer + L * cross
    assert num_stack_params(num_layers=2) == L * layer + L // 2 * cross
    assert num_stack_params(num_layers=3, num_decoder_layers=1) == L * layer + cross


@pytest.mark.parametrize(
    "fields",
    [{"architecture": "decoder"}, {"architecture": "encoder_decoder", "num_decoder_layers": 1}],
)
def test_stacks_that_cannot_be_shared_are_refused(fields):
    with pytest.raises(ValueError, match="two stacks of equal depth"):
        models.ModelConfig(**SMALL, **fields, share_encoder_decoder=True)


def hidden(model, params, *inputs):
    return np.asarray(model.apply({"params": params}, *inputs))


def test_position_offset_adds_unused_rows_at_the_start_of_the_table():
    plain = models.build(models.ModelConfig(**SMALL))
    offset = models.build(models.ModelConfig(**SMALL, position_offset=2))
    params = random_params(offset, INPUTS)
    table = params["embed"]["positions"]["embedding"]
    assert table.shape == (11, 16)
    same = {**params, "embed": {**params["embed"], "positions": {"embedding": table[2:]}}}
    np.testing.assert_array_equal(hidden(offset, params, INPUTS), hidden(plain, same, INPUTS))


def test_mixed_layers_equal_those_of_models_with_one_kind_of_layer():
    """Layers 0 and 2 are global with rope_theta, layer 1 has the window and local_rope_theta."""
    fields = {"positions": "rope", "rope_theta": 100.0}
    shape = {**SMALL, "num_layers": 3}
    config = models.ModelConfig(
        **shape, **fields, sliding_window=2, global_attn_every_n_layers=2, local_rope_theta=10.0
    )
    assert [config.sliding_window_at(i) for i in range(3)] == [0, 2, 0]
    assert [config.rope_theta_at(i) for i in range(3)] == [100.0, 10.0, 100.0]
    params = random_params(models.build(config), INPUTS)
    wide = {**shape, "num_layers": 1, **fields}
    kinds = [wide, {**wide, "rope_theta": 10.0, "sliding_window": 2}, wide]
    x = params["embed"]["tokens"]["embedding"][TOKENS]
    for i, kind in enumerate(kinds):
        layer_params = params["encoder"][f"layer_{i}"]
        if i < 2:
            layer = TransformerLayer(models.ModelConfig(**kind), 1)
            x = layer.apply({"params": layer_params}, x, INPUTS)
        else:  # with the final norm
            stack = TransformerStack(models.ModelConfig(**kind), "encoder")
            final_norm = params["encoder"]["final_norm"]
            x = stack.apply(
                {"params": {"layer_0": layer_params, "final_norm": final_norm}}, x, INPUTS
            )
    np.testing.assert_allclose(x, hidden(models.build(config), params, INPUTS), atol=1e-4)


def test_without_the_first_prenorm_self_attention_reads_the_embeddings():
    config = models.ModelConfig(**SMALL, embedding_norm=True, skip_first_prenorm=True)
    model = models.build(config)
    params = random_params(model, INPUTS)
    assert "self_attention_norm" not in params["encoder"]["layer_0"]
    assert "self_attention_norm" in params["encoder"]["layer_1"]
    _, outputs = intermediates(model, params, INPUTS)
    dense = params["encoder"]["layer_0"]["self_attention"]["query"]
    embeddings = np.asarray(outputs["embed"]["__call__"][0])
    expected = embeddings @ dense["kernel"] + dense["bias"]
    query = outputs["encoder"]["layer_0"]["self_attention"]["query"]["__call__"][0]
    np.testing.assert_allclose(query, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"global_attn_every_n_layers": 2}, "global_attn_every_n_layers=2, sliding_window=0"),
        ({"local_rope_theta": 10.0, "positions": "rope"}, "local_rope_theta=10.0.*global and"),
        ({"skip_first_prenorm": True, "norm_position": "post"}, "skip_first_prenorm=True, "
         "norm_position='post'"),
        ({"position_offset": 2, "positions": "rope"}, "position_offset=2, positions='rope'"),
        ({"separate_decoder_embeddings": True}, "separate_decoder_embeddings=True, "
         "architecture='encoder'"),
        ({"separate_decoder_embeddings": True, "architecture": "encoder_decoder",
          "positions": "none"}, "learned positions or an embedding norm"),
    ],
)  # fmt: skip
def test_options_without_effect_are_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        models.ModelConfig(**SMALL, **fields)
    assert "\n" not in str(caught.value)
