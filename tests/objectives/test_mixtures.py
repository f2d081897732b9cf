"""Mixtures draw their members by weight and give the batch that the member alone would give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from framed import ORDINARY, VOCABULARY, make_row

import objectives
from objectives.base import Setting
from training import config as configs
from training.step import Corruption

LENGTH, MANY = 24, 256
MEMBERS = ((3, "causal_lm"), (1, "span_corruption:noise_density=0.3"))
keys = jax.random.split(jax.random.key(0), MANY)


@functools.cache
def drawn(draw):
    objective = objectives.build("mixture", {"members": MEMBERS, "draw": draw})
    setting = Setting("decoder", VOCABULARY, LENGTH)
    row = make_row("decoder", objective.shapes(setting).raw, [9, 30], 0, 0)
    rows = jnp.asarray(np.stack([row] * MANY))
    corrupt = jax.jit(Corruption(objective, setting))
    return objective, setting, rows, corrupt


def test_a_member_is_drawn_for_each_row_with_its_share_of_the_weights():
    objective, setting, rows, corrupt = drawn("row")
    assert [part.share for part in objective.parts] == [0.75, 0.25]
    batch = jax.tree.map(np.asarray, corrupt(keys, rows))
    assert batch.inputs.visibility == "prefix"
    causal = ~batch.inputs.prefix.any(1)
    assert abs(causal.mean() - 0.75) < 5 * (0.75 * 0.25 / MANY) ** 0.5
    raw = objectives.build("causal_lm").shapes(setting).raw
    row = np.asarray(rows[0])
    for number in np.flatnonzero(causal)[:5]:
        np.testing.assert_array_equal(batch.inputs.tokens[number], row[: raw - 1])
        np.testing.assert_array_equal(batch.targets[number], row[1:raw])
        np.testing.assert_array_equal(batch.indices[number], np.arange(LENGTH))
    spans = objectives.parse(MEMBERS[1][1])
    number = int(np.flatnonzero(~causal)[0])
    alone = jax.jit(functools.partial(spans.corrupt, setting))(
        jax.random.split(keys[number])[1], rows[0, : spans.shapes(setting).raw]
    )
    told = alone.targets.shape[0]
    np.testing.assert_array_equal(batch.targets[number][:told], alone.targets)
    np.testing.assert_array_equal(batch.indices[number][:told], alone.indices)
    np.testing.assert_array_equal(batch.inputs.prefix[number], alone.inputs.prefix)
    assert not batch.weights[number][told:].any()
    assert "useful: " in objective.describe(setting)


@pytest.mark.slow
def test_a_batch_is_of_one_member_drawn_by_its_first_row_and_the_same_sharded():
    _, _, rows, corrupt = drawn("batch")
    kinds = []
    for step in range(24):
        batch = corrupt(jax.random.split(jax.random.key(step), MANY), rows)
        given = np.asarray(batch.inputs.prefix.any(1))
        assert given.all() or not given.any()
        kinds.append(bool(given[0]))
    assert 0 < sum(kinds) < 18
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.set_mesh(mesh):
        sharded = corrupt(jax.device_put(keys, split), jax.device_put(rows, split))
    jax.tree.map(np.testing.assert_array_equal, sharded, corrupt(keys, rows))


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_what_differs_in_density_and_spans_alone_is_one_program(architecture):
    texts = [text for _, text, mode in objectives.build("ul2").members if mode != "S"]
    members = tuple(objectives.parse(text) for text in texts)
    setting = Setting(architecture, VOCABULARY, 48)
    assert len({member.program for member in members}) == 1
    geometric = [f"geometric_0.15_sentinel_spans:mean_span_length={n}" for n in (3, 4)]
    assert len({objectives.parse(text).program for text in (*geometric, texts[0])}) == 3

    lengths = [member.shapes(setting).raw for member in members]
    row = np.random.default_rng(0).choice(ORDINARY, max(lengths)).astype(np.int32)

    @jax.jit
    def corrupt(which, row):
        alone = jax.vmap(lambda key: members[0].corrupt_one_of(members, which, setting, key, row))
        return alone(keys[:8])

    for which, (member, raw) in enumerate(zip(members, lengths, strict=True)):
        own = np.where(np.arange(len(row)) < raw, row, VOCABULARY.pad)
        batch = jax.tree.map(np.asarray, corrupt(which, own))
        noise = round(member.noise_density * raw)
        spans = max(1, round(noise / member.mean))
        assert (batch.weights.sum(1) == noise + spans + 1).all()  # and the [EOS] behind them
        announced = np.isin(batch.targets, VOCABULARY.sentinels) & (batch.weights > 0)
        assert (announced.sum(1) == spans).all()
        for number in range(8):
            restored = member.inverse(setting, jax.tree.map(lambda x, n=number: x[n], batch))
            np.testing.assert_array_equal(restored[:raw], own[:raw])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_ul2_announces_its_seven_denoisers_before_each_document(architecture):
    objective, setting = objectives.build("ul2"), Setting(architecture, VOCABULARY, 48)
    assert [part.mode for part in objective.parts] == list("RRSXXXX")
    rows = np.random.default_rng(0).choice(ORDINARY, (MANY, objective.shapes(setting).raw))
    rows[:, 20] = VOCABULARY.eos
    corrupt = jax.jit(functools.partial(objective.corrupt_batch, setting))
    batch = jax.tree.map(np.asarray, corrupt(keys, jnp.asarray(rows, jnp.int32)))
    tokens, segments = batch.inputs.tokens, batch.inputs.segments
    modes = tokens[:, 0]
    for mode, share in zip(VOCABULARY.modes, (2 / 7, 1 / 7, 4 / 7), strict=True):
        assert abs((modes == mode).mean() - share) < 5 * (share / MANY) ** 0.5
    second = (segments == 2).argmax(1)
    there = (segments == 2).any(1)
    np.testing.assert_array_equal(tokens[there, second[there]], modes[there])
    assert not np.isin(batch.targets, VOCABULARY.modes).any()


def test_a_mixture_comes_from_the_command_line_and_from_a_config_file():
    import train

    text = "((0.5,'span_corruption'),(0.5,'prefix_lm'))"
    config = configs.override({}, [("objective.name", "mixture"), ("objective.members", text)])
    resolved = configs.resolve(train.Config, config).objective
    assert resolved == objectives.build("mixture")
    as_json = {"name": "mixture", "members": [[0.5, "span_corruption"], [0.5, "prefix_lm"]]}
    assert configs.resolve(train.Config, {"objective": as_json}).objective == resolved


@pytest.mark.parametrize(
    "members, words",
    [
        ((), "is empty"),
        (("prefix_lm", "causal_lm"), "expected .weight, 'objective'."),
        (((0, "prefix_lm"),), "above 0"),
        (((1, "prefix_lm", "Q"),), "mode of R, S, X"),
        (((1, "prefix_ml"),), "did you mean 'prefix_lm'"),
        (((float("inf"), "prefix_lm"),), "above 0"),
        (((1, "prefix_lm:z_loss=0.5"),), "set it on the mixture"),
        (((1, "ul2:draw=batch"),), "list its members here"),
        (((1, "ul2", "R"),), "list its members here"),
        (((1, "iid_1.5_mask_full"),), "out of range"),
        (((1, "iid_-0.5_mask_full"),), "out of range"),
        (((1, "iid_inf_mask_full"),), "expected float"),
        (((1, "span_corruption:max_spans=2.7"),), "expected int"),
        (((1, "prefix_lm:noise_density=True"),), "expected float"),
    ],
)
def test_members_that_are_none_are_refused(members, words):
    with pytest.raises(ValueError, match=words):
        objectives.build("mixture", {"members": members})


def test_a_mixture_fits_where_all_its_members_do():
    both = objectives.build("mixture", {"members": ((1, "masked_lm"), (1, "causal_lm"))})
    assert both.architectures == () and "its member" in both.unfit["decoder"]
    wide = "masked_lm:noise_density=0.4"
    encoders = objectives.build("mixture", {"members": ((1, "masked_lm"), (1, wide))})
    assert encoders.architectures == ("encoder",)
