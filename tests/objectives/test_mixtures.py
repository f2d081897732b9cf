"""A mixture draws its components by weight, and its batch is the batch of that component alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documents import REGULAR_TOKENS, VOCABULARY, make_row

import objectives
from objectives.base import ObjectiveSpec
from training import config as config_lib

LENGTH, MANY = 24, 256
COMPONENTS = ((3, "causal_lm"), (1, "span_corruption:noise_density=0.3"))
rngs = jax.random.split(jax.random.key(0), MANY)


@functools.cache
def make_mixture(sample_per):
    """(objective, spec, rows, jitted corruption of a batch)."""
    objective = objectives.build("mixture", {"components": COMPONENTS, "sample_per": sample_per})
    spec = ObjectiveSpec("decoder", VOCABULARY, LENGTH)
    row = make_row("decoder", objective.lengths(spec).raw, [9, 30], 0, 0)
    rows = jnp.asarray(np.stack([row] * MANY))
    return objective, spec, rows, jax.jit(functools.partial(objective.corrupt_batch, spec))


def test_each_row_draws_a_component_with_its_share_of_the_weights():
    objective, spec, rows, corrupt = make_mixture("row")
    assert [component.share for component in objective.parsed] == [0.75, 0.25]
    batch = jax.tree.map(np.asarray, corrupt(rngs, rows))
    assert batch.inputs.attention == "prefix"
    causal = ~batch.inputs.prefix.any(1)
    assert abs(causal.mean() - 0.75) < 5 * (0.75 * 0.25 / MANY) ** 0.5
    raw = objectives.build("causal_lm").lengths(spec).raw
    row = np.asarray(rows[0])
    for number in np.flatnonzero(causal)[:5]:
        np.testing.assert_array_equal(batch.inputs.tokens[number], row[: raw - 1])
        np.testing.assert_array_equal(batch.targets[number], row[1:raw])
        np.testing.assert_array_equal(batch.target_positions[number], np.arange(LENGTH))
    spans = objectives.parse(COMPONENTS[1][1])
    number = int(np.flatnonzero(~causal)[0])
    alone = jax.jit(functools.partial(spans.corrupt, spec))(
        jax.random.split(rngs[number])[1], rows[0, : spans.lengths(spec).raw]
    )
    size = alone.targets.shape[0]
    np.testing.assert_array_equal(batch.targets[number][:size], alone.targets)
    np.testing.assert_array_equal(batch.target_positions[number][:size], alone.target_positions)
    np.testing.assert_array_equal(batch.inputs.prefix[number], alone.inputs.prefix)
    assert not batch.loss_weights[number][size:].any()
    assert "used: " in objective.describe(spec)


@pytest.mark.slow
def test_sample_per_batch_draws_with_the_first_row_and_is_the_same_sharded():
    _, _, rows, corrupt = make_mixture("batch")
    is_prefix = []
    for step in range(24):
        batch = corrupt(jax.random.split(jax.random.key(step), MANY), rows)
        has_prefix = np.asarray(batch.inputs.prefix.any(1))
        assert has_prefix.all() or not has_prefix.any()
        is_prefix.append(bool(has_prefix[0]))
    assert 0 < sum(is_prefix) < 18
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.set_mesh(mesh):
        sharded = corrupt(jax.device_put(rngs, split), jax.device_put(rows, split))
    jax.tree.map(np.testing.assert_array_equal, sharded, corrupt(rngs, rows))


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_components_that_differ_only_in_density_and_spans_are_one_program(architecture):
    texts = [text for _, text, mode in objectives.build("ul2").components if mode != "S"]
    components = tuple(objectives.parse(text) for text in texts)
    spec = ObjectiveSpec(architecture, VOCABULARY, 48)
    assert len({component.branch_key for component in components}) == 1
    geometric = [f"geometric_0.15_sentinel_spans:mean_noise_span_length={n}" for n in (3, 4)]
    assert len({objectives.parse(text).branch_key for text in (*geometric, texts[0])}) == 3

    lengths = [component.lengths(spec).raw for component in components]
    row = np.random.default_rng(0).choice(REGULAR_TOKENS, max(lengths)).astype(np.int32)

    @jax.jit
    def corrupt(which, row):
        corrupt_component = functools.partial(
            components[0].corrupt_component, components, which, spec
        )
        return jax.vmap(corrupt_component, (0, None))(rngs[:8], row)

    for which, (component, raw) in enumerate(zip(components, lengths, strict=True)):
        own = np.where(np.arange(len(row)) < raw, row, VOCABULARY.pad)
        batch = jax.tree.map(np.asarray, corrupt(which, own))
        noise = round(component.noise_density * raw)
        spans = max(1, round(noise / component.mean_length))
        assert (batch.loss_weights.sum(1) == noise + spans + 1).all()  # with the final [EOS]
        is_sentinel = np.isin(batch.targets, VOCABULARY.sentinels) & (batch.loss_weights > 0)
        assert (is_sentinel.sum(1) == spans).all()
        for number in range(8):
            restored = component.reconstruct(spec, jax.tree.map(lambda x, n=number: x[n], batch))
            np.testing.assert_array_equal(restored[:raw], own[:raw])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_ul2_inserts_the_mode_of_its_denoiser_before_each_document(architecture):
    objective, spec = objectives.build("ul2"), ObjectiveSpec(architecture, VOCABULARY, 48)
    assert [component.mode for component in objective.parsed] == list("RRSXXXX")
    rows = np.random.default_rng(0).choice(REGULAR_TOKENS, (MANY, objective.lengths(spec).raw))
    rows[:, 20] = VOCABULARY.eos
    corrupt = jax.jit(functools.partial(objective.corrupt_batch, spec))
    batch = jax.tree.map(np.asarray, corrupt(rngs, jnp.asarray(rows, jnp.int32)))
    tokens, segment_ids = batch.inputs.tokens, batch.inputs.segment_ids
    modes = tokens[:, 0]
    for mode, share in zip(VOCABULARY.modes, (2 / 7, 1 / 7, 4 / 7), strict=True):
        assert abs((modes == mode).mean() - share) < 5 * (share / MANY) ** 0.5
    second = (segment_ids == 2).argmax(1)
    has_second = (segment_ids == 2).any(1)
    np.testing.assert_array_equal(tokens[has_second, second[has_second]], modes[has_second])
    assert not np.isin(batch.targets, VOCABULARY.modes).any()


def test_a_mixture_can_be_set_on_the_command_line_and_in_a_config_file():
    from training.schema import PretrainConfig

    text = "((0.5,'span_corruption'),(0.5,'prefix_lm'))"
    config = config_lib.override(
        {}, [("objective.name", "mixture"), ("objective.components", text)]
    )
    resolved = config_lib.resolve(PretrainConfig, config).objective
    assert resolved == objectives.build("mixture")
    as_json = {"name": "mixture", "components": [[0.5, "span_corruption"], [0.5, "prefix_lm"]]}
    assert config_lib.resolve(PretrainConfig, {"objective": as_json}).objective == resolved


@pytest.mark.parametrize(
    "components, message",
    [
        ((), "is empty"),
        (("prefix_lm", "causal_lm"), "expected .weight, 'objective'."),
        (((0, "prefix_lm"),), "above 0"),
        (((1, "prefix_lm", "Q"),), "mode of R, S, X"),
        (((1, "prefix_ml"),), "did you mean 'prefix_lm'"),
        (((float("inf"), "prefix_lm"),), "above 0"),
        (((1, "prefix_lm:z_loss=0.5"),), "set z_loss on the mixture"),
        (((1, "next_sentence"),), "has its own loss"),
        (((1, "ul2:sample_per=batch"),), "list its components here"),
        (((1, "ul2", "R"),), "list its components here"),
        (((1e308, "prefix_lm"), (1e308, "span_corruption")), "overflow"),
        (((1, "prefix_lm"), (2, "prefix_lm")), "'prefix_lm' twice: add the weights"),
        (((1, "iid_1.5_mask_full"),), "out of range"),
        (((1, "iid_-0.5_mask_full"),), "out of range"),
        (((1, "iid_inf_mask_full"),), "expected float"),
        (((1, "span_corruption:max_sentinels=2.7"),), "expected int"),
        (((1, "prefix_lm:noise_density=True"),), "expected float"),
    ],
)
def test_invalid_components_are_an_error(components, message):
    with pytest.raises(ValueError, match=message):
        objectives.build("mixture", {"components": components})


def test_a_mixture_supports_the_architectures_of_all_its_components():
    both = objectives.build("mixture", {"components": ((1, "masked_lm"), (1, "causal_lm"))})
    assert both.architectures == () and "its component" in both.unsupported["decoder"]
    wide = "masked_lm:noise_density=0.4"
    encoders = objectives.build("mixture", {"components": ((1, "masked_lm"), (1, wide))})
    assert encoders.architectures == ("encoder",)
