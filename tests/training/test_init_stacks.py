"""Parameters of one architecture in a model of another: behavior that the log promises to keep is kept,
and a model that does not fit is an error."""

import dataclasses
import functools
import pathlib
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from training import checkpoint, init_from, init_stacks, run_directory
from training import config as config_lib
from training.config import ConfigError
from training.param_rules import flatten_params, unflatten_params
from training.schema import PretrainConfig

SIZE = {
    "num_layers": 2, "emb_dim": 16, "num_heads": 2, "mlp_dim": 24, "vocab_size": 50, "max_length": 8,
}  # fmt: skip
RANDOM = np.random.default_rng(0)
TOKENS = jnp.asarray(RANDOM.integers(0, 50, (2, 7)), jnp.int32)
ENCODED = models.make_inputs(TOKENS, jnp.ones_like(TOKENS))
GENERATED = models.make_inputs(TOKENS[:, ::-1], jnp.ones_like(TOKENS), "causal")
TOKENIZER = types.SimpleNamespace(fingerprint="the same")


def random_params(shapes, seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: random.normal(0, 0.5, x.shape).astype(x.dtype), shapes)


@functools.cache
def make(architecture, **fields):
    """(config, model, parameters far from their initial values)."""
    config = models.ModelConfig(architecture=architecture, **{**SIZE, **fields})
    model = models.build(config)
    inputs = (ENCODED, GENERATED) if architecture == "encoder_decoder" else (ENCODED,)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), *inputs, method="init_all")["params"]
    )
    return config, model, random_params(shapes, len(architecture))


def transfer(source, target, stacks):
    """(StackMapping, the target's parameters from a run of the source's, lines of the log)."""
    (there, _, source_params), (here, _, params) = source, target
    found, flat = flatten_params(source_params), flatten_params(params)
    mapping = init_stacks.map_stacks(there, here, found, flat, stacks)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = jax.tree.map(lambda _: device, params)
    task = types.SimpleNamespace(tokenizer=TOKENIZER, model_config=here)
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder)
        run_directory.write_config(run, {}, "pretrain", there)
        run_directory.write_json(run / "manifest.json", {"tokenizer": TOKENIZER.fingerprint})
        checkpoint.write_params(run, 0, source_params)
        config = config_lib.resolve(PretrainConfig, {"init_from": folder, "init_stacks": stacks})
        init_source = init_from.PretrainedModel(config, f"{run}@0", "", run, 0)
        result, lines, _ = init_from.load_for_pretraining(
            init_source, task, jax.device_put(params, places), places
        )
    assert jax.tree.map(jnp.shape, result) == jax.tree.map(jnp.shape, params)
    assert {*mapping.names, *mapping.zeros, *mapping.fresh} == set(flat)
    assert set(found) == {*mapping.names.values(), *mapping.dropped}
    result_flat = flatten_params(result)
    # A train step donates each buffer, so no two parameters may share one.
    assert len({x.unsafe_buffer_pointer() for x in result_flat.values()}) == len(flat)
    for path, path_there in mapping.names.items():
        np.testing.assert_array_equal(result_flat[path], found[path_there])
    for path in mapping.zeros:
        assert not result_flat[path].any()
    for path in mapping.fresh:
        np.testing.assert_array_equal(result_flat[path], flat[path])
    return mapping, result, lines


def encode(model, params, inputs=ENCODED):
    both = model.config.architecture == "encoder_decoder"
    return model.apply({"params": params}, inputs, **({"method": "encode"} if both else {}))


def logits(model, params, *inputs):
    hidden = model.apply({"params": params}, *inputs)
    features = model.apply({"params": params}, hidden, method="lm_features")
    table, _ = model.apply({"params": params}, method="output_embedding")
    return features @ table.T


def assert_same(found, expected):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("fields", [{}, {"positions": "relative"}], ids=["learned", "relative"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_a_decoder_in_an_encoder_decoder_decodes_as_before_for_any_encoder_input(fields, shared):
    """The output of cross-attention is zero at first."""
    source = make("decoder", **fields)
    target = make("encoder_decoder", share_encoder_decoder=shared, **fields)
    mapping, params, _ = transfer(source, target, "decoder")
    assert_same(
        logits(target[1], params, ENCODED, GENERATED), logits(source[1], source[2], GENERATED)
    )
    assert mapping.notes == ("decoder: decodes as before, for any encoder input",)
    assert {path.split("/", 2)[2] for path in mapping.zeros} == {
        "cross_attention/out/kernel",
        "cross_attention/out/bias",
    }


def test_a_decoder_fills_both_stacks_or_one():
    source, target = make("decoder"), make("encoder_decoder")
    mapping, params, _ = transfer(source, target, "both")
    assert_same(
        logits(target[1], params, ENCODED, GENERATED), logits(source[1], source[2], GENERATED)
    )
    # With causal attention the encoder is the decoder.
    before = source[1].apply({"params": source[2]}, GENERATED)
    assert_same(encode(target[1], params, GENERATED), before)
    assert not mapping.dropped
    mapping, params, _ = transfer(source, target, "encoder")
    assert_same(encode(target[1], params, GENERATED), before)
    assert all(path.startswith("decoder/") for path in mapping.fresh) and not mapping.zeros


@pytest.mark.parametrize(
    ("positions", "stacks", "shared"),
    [
        ("learned", "encoder", False),
        ("learned", "both", True),
        ("relative", "both", False),
        ("relative", "encoder", True),
    ],
)
def test_an_encoder_in_an_encoder_decoder_encodes_as_before(positions, stacks, shared):
    source = make("encoder", positions=positions)
    target = make("encoder_decoder", share_encoder_decoder=shared, positions=positions)
    mapping, params, _ = transfer(source, target, stacks)
    assert_same(encode(target[1], params), encode(source[1], source[2]))
    assert mapping.notes[0] == "encoder: encodes as before"
    if stacks == "both" and positions == "learned":  # with causal attention the decoder is it too
        assert_same(
            logits(target[1], params, ENCODED, GENERATED), logits(source[1], source[2], GENERATED)
        )
    if stacks == "both" and positions == "relative":
        assert "decoder/relative_bias/embedding" in mapping.fresh
        assert "decoder: behaves differently: relative biases" in mapping.notes[1]


@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_the_encoder_or_the_decoder_of_an_encoder_decoder_becomes_a_model(shared):
    source = make("encoder_decoder", share_encoder_decoder=shared, positions="relative")
    target = make("encoder", positions="relative")
    mapping, params, _ = transfer(source, target, "encoder")
    assert_same(encode(target[1], params), encode(source[1], source[2]))
    assert mapping.dropped and all(path.startswith("decoder/") for path in mapping.dropped)

    target = make("decoder", positions="relative")
    mapping, params, _ = transfer(source, target, "decoder")
    assert "its cross-attention is dropped" in mapping.notes[0]
    # It is the decoder: without the output of cross-attention, source and target agree.
    silent = flatten_params(source[2])
    silent = {p: x * 0 if "cross_attention/out" in p else x for p, x in silent.items()}
    silent = unflatten_params(silent)
    assert_same(logits(target[1], params, GENERATED), logits(source[1], silent, ENCODED, GENERATED))


def test_shared_stacks_become_separate_ones_that_behave_as_before():
    source = make("encoder_decoder", share_encoder_decoder=True, positions="relative")
    target = make("encoder_decoder", positions="relative")
    mapping, params, _ = transfer(source, target, "both")
    inputs = (ENCODED, GENERATED)
    assert_same(logits(target[1], params, *inputs), logits(source[1], source[2], *inputs))
    assert not (mapping.zeros or mapping.fresh or mapping.dropped)
    # Two stacks do not fit into one; one of them does.
    message = "fills one shared stack from the two.*encoder or decoder"
    with pytest.raises(ConfigError, match=message):
        transfer(target, source, "both")
    mapping, params, _ = transfer(target, source, "encoder")
    assert_same(encode(source[1], params), encode(target[1], target[2]))


@pytest.mark.parametrize(("a", "b"), [("decoder", "encoder"), ("encoder", "decoder")])
def test_a_decoder_and_an_encoder_are_the_same_with_causal_attention(a, b):
    source, target = make(a), make(b)
    _, params, _ = transfer(source, target, b)
    assert_same(logits(target[1], params, GENERATED), logits(source[1], source[2], GENERATED))
    biased, target = make(a, positions="relative"), make(b, positions="relative")
    mapping, params, _ = transfer(biased, target, b)
    assert mapping.fresh == (f"{b}/relative_bias/embedding",)
    assert mapping.dropped == (f"{a}/relative_bias/embedding",)
    assert "relative biases are bidirectional in an encoder" in mapping.notes[0]


SEPARATE = {"separate_decoder_embeddings": True, "embedding_norm": True, "position_offset": 2}
SINGLE = {"embedding_norm": True, "position_offset": 2}


def test_each_stack_keeps_its_own_positions_and_embedding_norm():
    """Between a model whose stacks share them and one whose stacks have their own, both ways."""
    separate = make("encoder_decoder", **SEPARATE)
    for stack in ("encoder", "decoder"):
        single = make(stack, **SINGLE)
        _, params, _ = transfer(single, separate, "both")
        before = single[1].apply({"params": single[2]}, GENERATED)
        assert_same(encode(separate[1], params, GENERATED), before)
        if stack == "decoder":
            assert_same(
                logits(separate[1], params, ENCODED, GENERATED),
                logits(single[1], single[2], GENERATED),
            )
        mapping, params, _ = transfer(separate, single, stack)
        prefix = "decoder_" if stack == "decoder" else ""
        for path in ("positions/embedding", "norm/scale"):
            assert mapping.names[f"embed/{path}"] == f"embed/{prefix}{path}"
        if stack == "encoder":
            assert_same(encode(single[1], params), encode(separate[1], separate[2]))
    shared = make("encoder_decoder", **SINGLE)
    _, params, _ = transfer(shared, separate, "both")
    inputs = (ENCODED, GENERATED)
    assert_same(logits(separate[1], params, *inputs), logits(shared[1], shared[2], *inputs))
    with pytest.raises(ConfigError, match="one position embedding from the two"):
        transfer(separate, shared, "both")
    _, params, _ = transfer(separate, shared, "encoder")
    assert_same(encode(shared[1], params), encode(separate[1], separate[2]))
    transfer(separate, make("encoder_decoder", **SEPARATE), "same")


def test_the_log_says_that_post_norm_changes_a_decoder():
    fields = {"norm_position": "post", "embedding_norm": True}
    source, target = make("decoder", **fields), make("encoder_decoder", **fields)
    mapping, params, _ = transfer(source, target, "decoder")
    assert "cross-attention adds zeros, but its norm follows them" in mapping.notes[0]
    after = logits(target[1], params, ENCODED, GENERATED)
    assert np.abs(after - logits(source[1], source[2], GENERATED)).max() > 0.1


def test_heads_of_the_objective_there_are_dropped_and_those_here_are_fresh():
    there, model, params = make("decoder")
    here, other, target_params = make("encoder")
    params = {
        **params,
        "heads": {"pair": {"kernel": np.ones((16, 2), np.float32)}},
        "generator": {"x": np.ones(2, np.float32)},
    }
    head = {"discriminator": {"kernel": np.ones((16, 1), np.float32)}}
    target = here, other, {**target_params, "heads": head}
    mapping, _, _ = transfer((there, model, params), target, "encoder")
    assert set(mapping.dropped) == {"heads/pair/kernel", "generator/x"}
    assert mapping.fresh == ("heads/discriminator/kernel",)


def test_the_log_names_the_fresh_the_dropped_and_the_copied_parameters():
    _, _, lines = transfer(make("decoder"), make("encoder_decoder"), "both")
    assert lines[0].startswith("fresh: ")
    assert "decoder/layer_*/cross_attention/query/kernel" in lines[0]
    assert "zeros: 4 tensors: decoder/layer_*/cross_attention/out/bias, " in lines[0]
    assert lines[1] == "dropped: 0 tensors: none"
    assert "decoder, embed, encoder from decoder" in lines[2]
    assert lines[3:5] == ["encoder: as the decoder did, for causal attention",
                          "decoder: decodes as before, for any encoder input"]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "stacks", "message"),
    [
        ({"architecture": "encoder"}, "same",
         "architecture 'decoder', this run 'encoder'; set config.init_stacks .*: encoder$"),
        ({"architecture": "encoder_decoder"}, "same", "fill: encoder or decoder or both"),
        ({"architecture": "encoder"}, "decoder", "init_stacks='decoder' copies no stack"),
        ({"num_heads": 4}, "same", "model.num_heads is 2 there and 4 here"),
        ({"num_layers": 3}, "same", "model.num_layers is 2 there and 3 here"),
        ({"architecture": "encoder", "num_layers": 3}, "encoder",
         "the decoder has 2 layers there, the encoder 3 here .config.model.num_layers."),
        ({"architecture": "encoder_decoder", "num_decoder_layers": 3}, "decoder",
         "the decoder 3 here .config.model.num_decoder_layers."),
        ({"architecture": "encoder", "emb_dim": 32}, "encoder",
         "model.emb_dim is 16 there and 32 here"),
        ({"architecture": "encoder", "positions": "rope"}, "encoder",
         "model.positions is 'learned'"),
        ({"architecture": "encoder", "max_length": 9}, "encoder",
         "embed/positions/embedding is float32.8, 16. there and float32.9, 16. here"),
    ],
)  # fmt: skip
def test_invariant_06_a_model_that_does_not_fit_is_an_error_of_one_line(changes, stacks, message):
    target = make(**{"architecture": "decoder", **changes})
    with pytest.raises(ConfigError, match=message) as caught:
        transfer(make("decoder"), target, stacks)
    assert "\n" not in str(caught.value)


def test_configs_that_mean_the_same_model_fit():
    config, model, params = make("decoder")
    spelled_out = dataclasses.replace(
        config, num_kv_heads=2, head_dim=8, embedding_size=16, dropout_rate=0.3
    )
    target = spelled_out, models.build(spelled_out), params
    mapping, result, _ = transfer((config, model, params), target, "same")
    assert mapping.names == {path: path for path in flatten_params(params)}
    jax.tree.map(np.testing.assert_array_equal, result, params)
