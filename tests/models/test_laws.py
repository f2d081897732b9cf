"""Laws 3 and 8 on the models: packing isolates, causality; and padding and bfloat16 stay finite.
Small random networks; parameters are enlarged so that a leak of attention would show.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models

SIZE = {"layers": 2, "width": 32, "heads": 4, "mlp_size": 48, "vocab_size": 100, "max_length": 16}
KINDS = {
    "learned": {"positions": "learned", "norm_position": "post", "embedding_norm": True},
    "sinusoidal": {"positions": "sinusoidal"},
    "rotary": {
        "positions": "rotary",
        "norm": "rmsnorm",
        "gated": True,
        "kv_heads": 2,
        "qk_norm": True,
    },
    "relative": {"positions": "relative", "attention_scale": False, "biases": False},
    "none": {"positions": "none", "window": 3},
    "alternating": {
        "positions": "rotary",
        "window": 3,
        "global_every": 2,
        "local_rotary_base": 100.0,
        "embedding_norm": True,
        "first_norm": False,
    },
    "factorised": {"embedding_size": 8, "embedding_norm": True},
}
ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")
SHARED = {"positions": "relative", "shared_stacks": True, "qk_norm": True}
PACKED = [(a, a + "-" + k, KINDS[k]) for a in ARCHITECTURES for k in KINDS]
PACKED.append(("encoder_decoder", "encoder_decoder-shared", SHARED))
OWN = {**KINDS["learned"], "separate_embeddings": True, "position_offset": 2}
PACKED.append(("encoder_decoder", "encoder_decoder-separate", OWN))
RANDOM = np.random.default_rng(0)
ROW = RANDOM.integers(0, 100, 12).astype(np.int32)
LENGTHS = (5, 4)  # two documents, then three positions of padding


def network(architecture, **fields):
    """(logits(sequence, decoder or None), params); initial parameters times ten."""
    model = models.build(models.ModelConfig(architecture=architecture, **SIZE, **fields))
    inputs = row([(0, 3)], architecture)
    decoder = row([(0, 3)], "decoder") if architecture == "encoder_decoder" else None
    with jax.numpy_dtype_promotion("strict"):
        variables = model.init(jax.random.key(0), inputs, decoder, method="initialise")
    variables = jax.tree.map(lambda x: 10 * x if x.ndim == 2 else x, variables)

    @jax.jit
    def logits(inputs, decoder=None):
        with jax.numpy_dtype_promotion("strict"):
            hidden = model.apply(variables, inputs, decoder)
            features = model.apply(variables, hidden, method="readout")
            table, _ = model.apply(variables, method="unembedding")
            return jnp.einsum("BTE,VE->BTV", features.astype(jnp.float32), table)

    return logits


def row(spans, architecture, length=None, visibility=None, tokens=ROW):
    """The spans (start, length) of the tokens as documents of one row, padded to length."""
    pieces = np.concatenate([tokens[start : start + n] for start, n in spans])
    segments = np.concatenate([np.full(n, i + 1) for i, (_, n) in enumerate(spans)])
    fill = (0, (length or len(pieces)) - len(pieces))
    visibility = visibility or ("causal" if architecture == "decoder" else "all")
    segments, pieces = jnp.asarray(np.pad(segments, fill)), jnp.asarray(np.pad(pieces, fill))
    prefix = segments > 0 if visibility == "prefix" else None
    return models.sequence_of(pieces[None], segments[None], visibility, prefix)


@pytest.mark.parametrize(
    ("architecture", "fields"), [pytest.param(a, f, id=i) for a, i, f in PACKED]
)
def test_law_3_packed_logits_equal_those_of_each_alone(architecture, fields):
    logits = network(architecture, **fields)
    both = architecture == "encoder_decoder"
    spans, replies = [(0, 5), (5, 4)], [(6, 2), (8, 3)]
    # Alone, documents are padded to the row's length as well: one compilation.
    packed = row(spans, architecture, 12)
    out = logits(packed, row(replies, "decoder", 8) if both else None)
    start = 0
    for span, reply in zip(spans, replies, strict=True):
        alone = logits(row([span], architecture, 12), row([reply], "decoder", 8) if both else None)
        n = reply[1] if both else span[1]
        np.testing.assert_allclose(out[0, start : start + n], alone[0, :n], rtol=2e-4, atol=2e-4)
        start += n
    # And it is the text that decides, not the padding.
    changed = np.where(np.arange(12) == 1, 99, ROW)
    other = logits(
        row(spans, architecture, 12, tokens=changed), row(replies, "decoder", 8) if both else None
    )
    assert np.abs(other[0, 0] - out[0, 0]).max() > 1e-3 or architecture == "decoder"
    first = replies[0][1] if both else spans[0][1]
    last = first + (replies if both else spans)[1][1]
    np.testing.assert_array_equal(other[0, first:last], out[0, first:last])


@pytest.mark.parametrize("kind", KINDS)
def test_law_8_a_token_never_changes_logits_before_it(kind):
    logits = network("decoder", **KINDS[kind])
    before = logits(row([(0, 12)], "decoder"))
    for j in (1, 6, 11):
        changed = np.where(np.arange(12) == j, (ROW + 1) % 100, ROW)
        after = logits(row([(0, 12)], "decoder", tokens=changed))
        np.testing.assert_array_equal(after[0, :j], before[0, :j])
        assert np.abs(after[0, j] - before[0, j]).max() > 1e-3


@pytest.mark.parametrize("fields", [KINDS["relative"], SHARED], ids=["separate", "shared"])
def test_law_8_an_encoder_decoder_is_causal_in_what_it_writes(fields):
    logits = network("encoder_decoder", **fields)
    source = row([(0, 12)], "encoder")
    before = logits(source, row([(2, 8)], "decoder"))
    changed = np.where(np.arange(12) == 6, (ROW + 1) % 100, ROW)
    after = logits(source, row([(2, 8)], "decoder", tokens=changed))
    np.testing.assert_array_equal(after[0, :4], before[0, :4])
    assert np.abs(after[0, 4] - before[0, 4]).max() > 1e-3


@pytest.mark.parametrize("kind", ["learned", "relative"])
def test_law_8_a_prefix_token_changes_logits_before_it_and_a_suffix_token_does_not(kind):
    logits = network("decoder", **KINDS[kind])

    def sequence(tokens):
        prefix = jnp.arange(12)[None] < 6
        ones = jnp.ones((1, 12), jnp.int32)
        return models.sequence_of(jnp.asarray(tokens)[None], ones, "prefix", prefix)

    before = logits(sequence(ROW))
    for j, within in ((4, True), (8, False)):
        after = logits(sequence(np.where(np.arange(12) == j, (ROW + 1) % 100, ROW)))
        moved = np.abs(after[0, :j] - before[0, :j]).max(-1)
        assert (moved > 1e-4).all() if within else not moved.any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_gives_no_nan_forwards_or_backwards_in_bfloat16_under_strict_promotion(
    architecture,
):
    config = models.ModelConfig(
        architecture=architecture,
        positions="relative" if architecture == "encoder_decoder" else "rotary",
        readout_transform=True,
        output_bias=True,
        token_types=2,
        dropout=0.1,
        attention_dropout=0.1,
        dtype="bfloat16",
        **SIZE,
    )
    model = models.build(config)
    inputs = row([(0, 5)], architecture, 12)
    inputs = jax.tree.map(lambda x: jnp.concatenate([x, 0 * x]), inputs)  # a row of padding alone
    decoder = None
    if architecture == "encoder_decoder":
        decoder = jax.tree.map(lambda x: jnp.concatenate([x, x]), row([(5, 4)], "decoder", 6))

    def loss(params):
        hidden = model.apply(
            params, inputs, decoder, deterministic=False, rngs={"dropout": jax.random.key(2)}
        )
        features = model.apply(params, hidden, method="readout")
        table, bias = model.apply(params, method="unembedding")
        assert hidden.dtype == features.dtype == jnp.bfloat16
        assert table.dtype == bias.dtype == jnp.float32
        return jnp.square(features.astype(jnp.float32)).sum() + bias.sum()

    with jax.numpy_dtype_promotion("strict"):
        params = model.init(jax.random.key(1), inputs, decoder, method="initialise")
        value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() and x.dtype == jnp.float32 for x in jax.tree.leaves(gradients))


def test_dropout_is_off_when_deterministic_and_follows_its_key():
    model = models.build(models.ModelConfig(**SIZE, dropout=0.3, attention_dropout=0.3))
    sequence = row([(0, 12)], "encoder")
    params = model.init(jax.random.key(0), sequence, method="initialise")

    def hidden(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(params, sequence, deterministic=False, rngs=rngs)

    np.testing.assert_array_equal(hidden(1), hidden(1))
    assert np.abs(hidden(1) - hidden(2)).max() > 0.01
    still = models.build(models.ModelConfig(**SIZE)).apply(params, sequence)
    np.testing.assert_array_equal(model.apply(params, sequence), still)


def test_rotary_positions_reach_cross_attention_and_only_distances_count():
    logits = network("encoder_decoder", positions="rotary")
    read, typed = row([(0, 6)], "encoder_decoder"), row([(6, 5)], "decoder")

    def later(sequence):
        return sequence.replace(positions=sequence.positions + 3)

    before = np.asarray(logits(read, typed))
    np.testing.assert_allclose(logits(later(read), later(typed)), before, rtol=1e-3, atol=1e-3)
    assert np.abs(np.asarray(logits(later(read), typed)) - before).max() > 1e-2
