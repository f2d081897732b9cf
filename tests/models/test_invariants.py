"""Invariants 3 (packing isolates) and 8 (causality) of the models; padding and bfloat16 stay finite.
Small random models with enlarged parameters, so that a leak of attention is visible.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import chunked_attention

SIZE = {"num_layers": 2, "emb_dim": 32, "num_heads": 4, "mlp_dim": 48, "vocab_size": 100,
        "max_length": 16}  # fmt: skip
KINDS = {
    "learned": {"positions": "learned", "norm_position": "post", "embedding_norm": True},
    "sinusoidal": {"positions": "sinusoidal"},
    "rope": {
        "positions": "rope",
        "norm": "rmsnorm",
        "gated_mlp": True,
        "num_kv_heads": 2,
        "qk_norm": True,
    },
    "relative": {"positions": "relative", "scale_attention": False, "use_bias": False},
    "none": {"positions": "none", "sliding_window": 3},
    "alternating": {
        "positions": "rope",
        "sliding_window": 3,
        "global_attn_every_n_layers": 2,
        "local_rope_theta": 100.0,
        "embedding_norm": True,
        "skip_first_prenorm": True,
    },
    "factorized": {"embedding_size": 8, "embedding_norm": True},
}
ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")
SHARED = {"positions": "relative", "share_encoder_decoder": True, "qk_norm": True}
PACKED = [(a, a + "-" + k, KINDS[k]) for a in ARCHITECTURES for k in KINDS]
PACKED.append(("encoder_decoder", "encoder_decoder-shared", SHARED))
DECODERS = {
    "gpt_neox": {"positions": "rope", "partial_rotary_factor": 0.5, "parallel_residual": True},
    "olmo2": {"positions": "rope", "norm": "rmsnorm", "norm_position": "output", "qk_norm": True,
              "qk_norm_over_heads": True},
    "gemma": {"positions": "rope", "norm": "rmsnorm", "norm_position": "both", "sliding_window": 3,
              "global_attn_every_n_layers": 2, "first_global_layer": 1, "norm_scale_offset": True,
              "scale_embeddings": True, "attention_scale_dim": 16},
    "capped": {"positions": "rope", "attention_logit_softcap": 1.5, "final_logit_softcap": 2.5},
    "dynamic": {"positions": "rope", "rope_scaling": "dynamic", "rope_factor": 3.0,
                "rope_original_length": 4},
}  # fmt: skip
PACKED += [("decoder", f"decoder-{name}", fields) for name, fields in DECODERS.items()]
SEPARATE = {**KINDS["learned"], "separate_decoder_embeddings": True, "position_offset": 2}
PACKED.append(("encoder_decoder", "encoder_decoder-separate", SEPARATE))
CHUNKED = {"attention_kernel": "chunked"}
PACKED += [
    (architecture, f"{architecture}-{kind}-chunked", KINDS[kind] | CHUNKED)
    for architecture, kind in (
        ("encoder", "alternating"), ("decoder", "none"), ("decoder", "rope"),
        ("encoder_decoder", "relative"),
    )
]  # fmt: skip
RANDOM = np.random.default_rng(0)
ROW = RANDOM.integers(0, 100, 12).astype(np.int32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks in a short row."""
    monkeypatch.setattr(chunked_attention, "BLOCK", 4)


def logits_of(architecture, **fields):
    """A function (inputs, decoder_inputs or None) -> logits, with ten times the initial parameters."""
    model = models.build(models.ModelConfig(architecture=architecture, **SIZE, **fields))
    inputs = row([(0, 3)], architecture)
    decoder_inputs = row([(0, 3)], "decoder") if architecture == "encoder_decoder" else None
    with jax.numpy_dtype_promotion("strict"):
        variables = model.init(jax.random.key(0), inputs, decoder_inputs, method="init_all")
    variables = jax.tree.map(lambda x: 10 * x if x.ndim == 2 else x, variables)

    @jax.jit
    def logits(inputs, decoder_inputs=None):
        with jax.numpy_dtype_promotion("strict"):
            hidden = model.apply(variables, inputs, decoder_inputs)
            features = model.apply(variables, hidden, method="lm_features")
            embedding, _ = model.apply(variables, method="output_embedding")
            return jnp.einsum("BTE,VE->BTV", features.astype(jnp.float32), embedding)

    return logits


def row(spans, architecture, length=None, attention=None, tokens=ROW):
    """The spans (start, length) of the tokens as documents of one row, padded to length."""
    ids = np.concatenate([tokens[start : start + n] for start, n in spans])
    segment_ids = np.concatenate([np.full(n, i + 1) for i, (_, n) in enumerate(spans)])
    padding = (0, (length or len(ids)) - len(ids))
    attention = attention or ("causal" if architecture == "decoder" else "bidirectional")
    segment_ids, ids = jnp.asarray(np.pad(segment_ids, padding)), jnp.asarray(np.pad(ids, padding))
    prefix = segment_ids > 0 if attention == "prefix" else None
    return models.make_inputs(ids[None], segment_ids[None], attention, prefix)


@pytest.mark.parametrize(
    ("architecture", "fields"), [pytest.param(a, f, id=i) for a, i, f in PACKED]
)
def test_invariant_03_packed_logits_equal_those_of_each_document_alone(architecture, fields):
    logits = logits_of(architecture, **fields)
    both = architecture == "encoder_decoder"
    spans, targets = [(0, 5), (5, 4)], [(6, 2), (8, 3)]
    # A document alone is padded to the row's length: one compilation.
    packed = row(spans, architecture, 12)
    out = logits(packed, row(targets, "decoder", 8) if both else None)
    start = 0
    for span, target in zip(spans, targets, strict=True):
        alone = row([span], architecture, 12), row([target], "decoder", 8) if both else None
        n = target[1] if both else span[1]
        np.testing.assert_allclose(
            out[0, start : start + n], logits(*alone)[0, :n], rtol=2e-4, atol=2e-4
        )
        start += n
    # Another token in the first document changes its logits, and no other document's.
    changed = np.where(np.arange(12) == 1, 99, ROW)
    other = logits(
        row(spans, architecture, 12, tokens=changed), row(targets, "decoder", 8) if both else None
    )
    reads_it = 1 if architecture == "decoder" else 0  # the first position that sees the token
    assert np.abs(other[0, reads_it] - out[0, reads_it]).max() > 1e-3
    np.testing.assert_array_equal(other[0, :reads_it], out[0, :reads_it])
    first = targets[0][1] if both else spans[0][1]
    last = first + (targets if both else spans)[1][1]
    np.testing.assert_array_equal(other[0, first:last], out[0, first:last])


CAUSAL = [*KINDS.values(), KINDS["relative"] | CHUNKED, KINDS["none"] | CHUNKED]


@pytest.mark.parametrize("fields", CAUSAL, ids=[*KINDS, "relative-chunked", "none-chunked"])
def test_invariant_08_a_token_never_changes_earlier_logits(fields):
    logits = logits_of("decoder", **fields)
    before = logits(row([(0, 12)], "decoder"))
    for j in (1, 6, 11):
        changed = np.where(np.arange(12) == j, (ROW + 1) % 100, ROW)
        after = logits(row([(0, 12)], "decoder", tokens=changed))
        np.testing.assert_array_equal(after[0, :j], before[0, :j])
        assert np.abs(after[0, j] - before[0, j]).max() > 1e-3


@pytest.mark.parametrize("fields", [KINDS["relative"], SHARED], ids=["separate", "shared"])
def test_invariant_08_the_decoder_of_an_encoder_decoder_is_causal(fields):
    logits = logits_of("encoder_decoder", **fields)
    inputs = row([(0, 12)], "encoder")
    before = logits(inputs, row([(2, 8)], "decoder"))
    changed = np.where(np.arange(12) == 6, (ROW + 1) % 100, ROW)
    after = logits(inputs, row([(2, 8)], "decoder", tokens=changed))
    np.testing.assert_array_equal(after[0, :4], before[0, :4])
    assert np.abs(after[0, 4] - before[0, 4]).max() > 1e-3


@pytest.mark.parametrize("kernel", ["dense", "chunked"])
@pytest.mark.parametrize("kind", ["learned", "relative"])
def test_invariant_08_a_prefix_token_changes_earlier_logits_and_a_later_token_does_not(
    kind, kernel
):
    logits = logits_of("decoder", **KINDS[kind], attention_kernel=kernel)

    def inputs(tokens):
        prefix = jnp.arange(12)[None] < 6
        ones = jnp.ones((1, 12), jnp.int32)
        return models.make_inputs(jnp.asarray(tokens)[None], ones, "prefix", prefix)

    before = logits(inputs(ROW))
    for j, in_prefix in ((4, True), (8, False)):
        after = logits(inputs(np.where(np.arange(12) == j, (ROW + 1) % 100, ROW)))
        difference = np.abs(after[0, :j] - before[0, :j]).max(-1)
        assert (difference > 1e-4).all() if in_prefix else not difference.any()


@pytest.mark.parametrize("kernel", ["dense", "chunked"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_and_bfloat16_give_finite_values_and_gradients_under_strict_promotion(
    architecture, kernel
):
    config = models.ModelConfig(
        attention_kernel=kernel,
        architecture=architecture,
        positions="relative" if architecture == "encoder_decoder" else "rope",
        lm_head_transform=True,
        lm_head_bias=True,
        num_token_types=2,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        dtype="bfloat16",
        **SIZE,
    )
    model = models.build(config)
    inputs = row([(0, 5)], architecture, 12)
    inputs = jax.tree.map(lambda x: jnp.concatenate([x, 0 * x]), inputs)  # a row of padding alone
    decoder_inputs = None
    if architecture == "encoder_decoder":
        decoder_inputs = row([(5, 4)], "decoder", 6)
        decoder_inputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), decoder_inputs)

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        hidden = model.apply(params, inputs, decoder_inputs, deterministic=False, rngs=rngs)
        features = model.apply(params, hidden, method="lm_features")
        embedding, bias = model.apply(params, method="output_embedding")
        assert hidden.dtype == features.dtype == jnp.bfloat16
        assert embedding.dtype == bias.dtype == jnp.float32
        return jnp.square(features.astype(jnp.float32)).sum() + bias.sum()

    with jax.numpy_dtype_promotion("strict"):
        params = model.init(jax.random.key(1), inputs, decoder_inputs, method="init_all")
        value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() and x.dtype == jnp.float32 for x in jax.tree.leaves(gradients))


def test_dropout_is_off_when_deterministic_and_a_function_of_its_rng():
    rates = {"dropout_rate": 0.3, "attention_dropout_rate": 0.3}
    model = models.build(models.ModelConfig(**SIZE, **rates))
    inputs = row([(0, 12)], "encoder")
    params = model.init(jax.random.key(0), inputs, method="init_all")

    def hidden(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(params, inputs, deterministic=False, rngs=rngs)

    np.testing.assert_array_equal(hidden(1), hidden(1))
    assert np.abs(hidden(1) - hidden(2)).max() > 0.01
    without = models.build(models.ModelConfig(**SIZE)).apply(params, inputs)
    np.testing.assert_array_equal(model.apply(params, inputs), without)


def test_rope_reaches_cross_attention_and_only_distances_count():
    logits = logits_of("encoder_decoder", positions="rope")
    inputs, decoder_inputs = row([(0, 6)], "encoder_decoder"), row([(6, 5)], "decoder")

    def shifted(inputs):
        return inputs.replace(positions=inputs.positions + 3)

    before = np.asarray(logits(inputs, decoder_inputs))
    both = logits(shifted(inputs), shifted(decoder_inputs))
    np.testing.assert_allclose(both, before, rtol=1e-3, atol=1e-3)
    assert np.abs(np.asarray(logits(shifted(inputs), decoder_inputs)) - before).max() > 1e-2
