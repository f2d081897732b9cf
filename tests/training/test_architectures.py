"""Weights between architectures: what is said to stay as it was does, and what does not fit is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from training import architectures, rules, transfer
from training.config import ConfigError

SIZE = {"layers": 2, "width": 16, "heads": 2, "mlp_size": 24, "vocab_size": 50, "max_length": 8}
RANDOM = np.random.default_rng(0)
TOKENS = jnp.asarray(RANDOM.integers(0, 50, (2, 7)), jnp.int32)
READ = models.sequence_of(TOKENS, jnp.ones_like(TOKENS))
TYPED = models.sequence_of(TOKENS[:, ::-1], jnp.ones_like(TOKENS), "causal")
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def sequences(config):
    return (READ, TYPED) if config.architecture == "encoder_decoder" else (READ,)


@functools.cache
def made(architecture, **fields):
    """(config, model, parameters far from their initial values)."""
    config = models.ModelConfig(architecture=architecture, **{**SIZE, **fields})
    model = models.build(config)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), *sequences(config), method="initialise")["params"]
    )
    random = np.random.default_rng(len(architecture))
    params = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape) / 2, x.dtype), shapes)
    return config, model, params


def carried(source, target, init_as):
    """(plan, the target's parameters out of the source's), by way of the strict comparison."""
    (there, _, theirs), (here, _, params) = source, target
    found, flat = rules.paths(theirs), rules.paths(params)
    plan = architectures.plan(there, here, found, flat, init_as)
    report = transfer.plan(flat, plan.renamed(found), "all", plan.new())
    places = jax.tree.map(lambda _: HERE, params)

    def read(report, wanted, shardings):
        """transfer.load without a disk: what is asked for, under the names of the checkpoint."""
        assert set(report.loaded) == rules.paths(wanted).keys() == rules.paths(shardings).keys()
        return rules.merge({path: found[path] for path in report.loaded}, {})

    result = architectures.load(read, plan, report, params, places)
    assert jax.tree.map(jnp.shape, result) == jax.tree.map(jnp.shape, params)
    every = {*plan.names, *plan.zero, *plan.fresh}
    assert every == set(flat) and set(found) == {*plan.names.values(), *plan.left}
    # A step donates each buffer: none may stand for two parameters.
    assert len({x.unsafe_buffer_pointer() for x in jax.tree.leaves(result)}) == len(flat)
    for path in plan.zero:
        assert not rules.paths(result)[path].any()
    for path in plan.fresh:
        np.testing.assert_array_equal(rules.paths(result)[path], flat[path])
    return plan, result


def encode(model, params, sequence=READ):
    if model.config.architecture == "encoder_decoder":
        return model.apply({"params": params}, sequence, method="encode")
    return model.apply({"params": params}, sequence)


def scores(model, params, *given):
    hidden = model.apply({"params": params}, *given)
    features = model.apply({"params": params}, hidden, method="readout")
    table, _ = model.apply({"params": params}, method="unembedding")
    return features @ table.T


def equal(ours, theirs):
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("fields", [{}, {"positions": "relative"}], ids=["learned", "relative"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_a_decoder_in_an_encoder_decoder_types_as_it_did(fields, shared):
    """Whatever is encoded: what cross-attention writes begins at zero."""
    source = made("decoder", **fields)
    target = made("encoder_decoder", shared_stacks=shared, **fields)
    plan, params = carried(source, target, "decoder")
    equal(scores(target[1], params, READ, TYPED), scores(source[1], source[2], TYPED))
    assert plan.notes == ("decoder: decodes as it did, whatever is encoded",)
    assert {path.split("/", 2)[2] for path in plan.zero} == {
        "cross_attention/out/kernel",
        "cross_attention/out/bias",
    }


def test_a_decoder_fills_both_stacks_or_one():
    source, target = made("decoder"), made("encoder_decoder")
    plan, params = carried(source, target, "both")
    equal(scores(target[1], params, READ, TYPED), scores(source[1], source[2], TYPED))
    # Its encoder is the decoder where that sees what lies before alone.
    equal(encode(target[1], params, TYPED), source[1].apply({"params": source[2]}, TYPED))
    assert not plan.left
    plan, params = carried(source, target, "encoder")
    equal(encode(target[1], params, TYPED), source[1].apply({"params": source[2]}, TYPED))
    assert all(path.startswith("decoder/") for path in plan.fresh) and not plan.zero


@pytest.mark.parametrize(
    ("positions", "init_as", "shared"),
    [
        ("learned", "encoder", False),
        ("learned", "both", True),
        ("relative", "both", False),
        ("relative", "encoder", True),
    ],
)
def test_an_encoder_in_an_encoder_decoder_encodes_as_it_did(positions, init_as, shared):
    source = made("encoder", positions=positions)
    target = made("encoder_decoder", shared_stacks=shared, positions=positions)
    plan, params = carried(source, target, init_as)
    equal(encode(target[1], params), encode(source[1], source[2]))
    assert plan.notes[0] == "encoder: encodes as it did"
    if init_as == "both" and positions == "learned":  # and its decoder, where nothing is ahead
        equal(scores(target[1], params, READ, TYPED), scores(source[1], source[2], TYPED))
    if init_as == "both" and positions == "relative":
        assert "decoder/relative_bias/embedding" in plan.fresh
        assert shared or "decoder: not what it was: relative biases" in plan.notes[1]


@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_an_encoder_decoder_gives_its_encoder_away_and_its_decoder(shared):
    source = made("encoder_decoder", shared_stacks=shared, positions="relative")
    target = made("encoder", positions="relative")
    plan, params = carried(source, target, "encoder")
    equal(encode(target[1], params), encode(source[1], source[2]))
    assert plan.left and all(path.startswith("decoder/") for path in plan.left)

    target = made("decoder", positions="relative")
    plan, params = carried(source, target, "decoder")
    assert "cross-attention is left" in plan.notes[0]
    # It is the decoder: with an encoder's cross-attention silenced, source and target agree.
    silent = rules.paths(source[2])
    silent = {p: x * 0 if "cross_attention/out" in p else x for p, x in silent.items()}
    silent = rules.merge(silent, {})
    equal(scores(target[1], params, TYPED), scores(source[1], silent, READ, TYPED))


def test_stacks_that_shared_their_layers_come_apart_and_go_on_as_they_were():
    source = made("encoder_decoder", shared_stacks=True, positions="relative")
    target = made("encoder_decoder", positions="relative")
    plan, params = carried(source, target, "both")
    given = (READ, TYPED)
    equal(scores(target[1], params, *given), scores(source[1], source[2], *given))
    assert not (plan.zero or plan.fresh or plan.left)
    # The other way two stacks would have to fit into one; one of them does.
    with pytest.raises(
        ConfigError, match="fills one shared stack from the two.*encoder or decoder"
    ):
        carried(target, source, "both")
    plan, params = carried(target, source, "encoder")
    equal(encode(source[1], params), encode(target[1], target[2]))


@pytest.mark.parametrize(("a", "b"), [("decoder", "encoder"), ("encoder", "decoder")])
def test_a_decoder_and_an_encoder_are_the_same_where_nothing_is_seen_ahead(a, b):
    source, target = made(a), made(b)
    _, params = carried(source, target, b)
    equal(scores(target[1], params, TYPED), scores(source[1], source[2], TYPED))
    biased, target = made(a, positions="relative"), made(b, positions="relative")
    plan, params = carried(biased, target, b)
    assert plan.fresh == (f"{b}/relative_bias/embedding",)
    assert plan.left == (f"{a}/relative_bias/embedding",)
    assert "relative biases of an encoder tell left from right" in plan.notes[0]


SEPARATE = {"separate_embeddings": True, "embedding_norm": True, "position_offset": 2}
ONE = {"embedding_norm": True, "position_offset": 2}


def test_each_stack_keeps_its_own_positions_and_embedding_norm():
    """Between a network where both stacks share them and one where each has its own, and apart."""
    both = made("encoder_decoder", **SEPARATE)
    for stack in ("encoder", "decoder"):
        single = made(stack, **ONE)
        plan, params = carried(single, both, "both")
        equal(encode(both[1], params, TYPED), single[1].apply({"params": single[2]}, TYPED))
        if stack == "decoder":
            equal(scores(both[1], params, READ, TYPED), scores(single[1], single[2], TYPED))
        plan, params = carried(both, single, stack)
        prefix = "decoder_" if stack == "decoder" else ""
        for leaf in ("positions/embedding", "norm/scale"):
            assert plan.names[f"embed/{leaf}"] == f"embed/{prefix}{leaf}"
    plan, params = carried(both, made("encoder", **ONE), "encoder")
    equal(encode(made("encoder", **ONE)[1], params), encode(both[1], both[2]))
    shared = made("encoder_decoder", **ONE)
    plan, params = carried(shared, both, "both")
    equal(scores(both[1], params, READ, TYPED), scores(shared[1], shared[2], READ, TYPED))
    with pytest.raises(ConfigError, match="one table of positions from the two"):
        carried(both, shared, "both")
    plan, params = carried(both, shared, "encoder")
    equal(encode(shared[1], params), encode(both[1], both[2]))
    carried(both, made("encoder_decoder", **SEPARATE), "same")


def test_what_post_norm_does_to_a_decoder_is_said():
    fields = {"norm_position": "post", "embedding_norm": True}
    source, target = made("decoder", **fields), made("encoder_decoder", **fields)
    plan, params = carried(source, target, "decoder")
    assert "cross-attention writes zeros, but its norm comes after" in plan.notes[0]
    ours, theirs = scores(target[1], params, READ, TYPED), scores(source[1], source[2], TYPED)
    assert np.abs(ours - theirs).max() > 0.1


def test_heads_of_the_objective_there_are_left_and_those_here_are_fresh():
    there, model, params = made("decoder")
    here, other, ours = made("encoder")
    params = {
        **params,
        "heads": {"pair": {"kernel": jnp.ones((16, 2))}},
        "generator": {"x": jnp.ones(2)},
    }
    ours = {**ours, "heads": {"discriminator": {"kernel": jnp.ones((16, 1))}}}
    plan, _ = carried((there, model, params), (here, other, ours), "encoder")
    assert set(plan.left) == {"heads/pair/kernel", "generator/x"}
    assert plan.fresh == ("heads/discriminator/kernel",)


def test_the_report_says_what_was_copied_what_is_new_and_what_was_left():
    source, target = made("decoder"), made("encoder_decoder")
    plan, params = carried(source, target, "both")
    lines = plan.lines(rules.paths(params))
    assert "decoder, embed, encoder from decoder" in lines[0]
    assert lines[1].startswith("new 4 tensors of zeros: decoder/layer_*/cross_attention/out/bias, ")
    assert "decoder/layer_*/cross_attention/query/kernel" in lines[1]
    assert lines[2] == "left 0 tensors: none"


@pytest.mark.parametrize(
    ("there", "here", "init_as", "words"),
    [
        ({}, {"architecture": "encoder"}, "same",
         "of architecture 'decoder', this run of 'encoder'; set config.init_as .*: encoder$"),
        ({}, {"architecture": "encoder_decoder"}, "same", "fill: encoder or decoder or both"),
        ({}, {"architecture": "encoder"}, "decoder", "init_as='decoder' carries no stack"),
        ({}, {"heads": 4}, "same", "model.heads is 2 there and 4 here"),
        ({}, {"layers": 3}, "same", "model.layers is 2 there and 3 here"),
        ({}, {"architecture": "encoder", "layers": 3}, "encoder",
         "the decoder has 2 layers there, the encoder 3 here .config.model.layers."),
        ({}, {"architecture": "encoder_decoder", "decoder_layers": 3}, "decoder",
         "the decoder 3 here .config.model.decoder_layers."),
        ({}, {"architecture": "encoder", "width": 32}, "encoder", "model.width is 16 there and 32 here"),
        ({}, {"architecture": "encoder", "positions": "rotary"}, "encoder", "model.positions is 'learned'"),
        ({}, {"architecture": "encoder", "max_length": 9}, "encoder",
         "embed/positions/embedding is float32.8, 16. there and float32.9, 16. here"),
    ],
)  # fmt: skip
def test_law_6_what_does_not_fit_is_refused_in_one_line(there, here, init_as, words):
    common = {"architecture": "decoder"}
    with pytest.raises(ConfigError, match=words) as caught:
        carried(made(**common, **there), made(**{**common, **here}), init_as)
    assert "\n" not in str(caught.value)


def test_equal_networks_written_differently_are_the_same():
    config, model, params = made("decoder")
    spelled = dataclasses.replace(config, kv_heads=2, head_size=8, embedding_size=16, dropout=0.3)
    plan, result = carried(
        (config, model, params), (spelled, models.build(spelled), params), "same"
    )
    assert plan.names == {path: path for path in rules.paths(params)}
    jax.tree.map(np.testing.assert_array_equal, result, params)
