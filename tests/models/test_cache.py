"""Invariant 14: cached generation equals uncached generation, token for token, for every position encoding,
architecture, window and adapter, with packed prompts and prompts of different lengths.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import ADAPTERS
from models.layers import lm_logits
from models.virtual_tokens import PromptTuning

SHAPE = {"vocab_size": 100, "max_length": 24, "num_layers": 1, "emb_dim": 32, "num_heads": 4,
         "mlp_dim": 48, "tie_word_embeddings": False}  # fmt: skip
ROPE = {"positions": "rope"}
WINDOWS = {"sliding_window": 3, "global_attn_every_n_layers": 2, "num_layers": 2}
LONG = {"rope_factor": 2.0, "rope_original_length": 20}  # no row here is longer
DECODERS = {
    "learned": {"positions": "learned", "position_offset": 2, "norm_position": "post",
                "embedding_norm": True},
    "sinusoidal": {"positions": "sinusoidal", "embedding_size": 16, "tie_word_embeddings": True},
    "relative": {"positions": "relative", "scale_attention": False, "relative_num_buckets": 8,
                 "relative_max_distance": 10},
    "none": {"positions": "none", "parallel_residual": True},
    "rope": {**ROPE, "num_kv_heads": 2, "qk_norm": True, "norm": "rmsnorm", "gated_mlp": True,
             "use_bias": False},
    "half rope": {**ROPE, "partial_rotary_factor": 0.5, "parallel_residual": True},
    "linear": {**ROPE, "rope_scaling": "linear", "rope_factor": 2.0},
    "dynamic": {**ROPE, "rope_scaling": "dynamic", **LONG},
    "yarn": {**ROPE, "rope_scaling": "yarn", "rope_factor": 2.0, "rope_original_length": 6},
    "llama3": {**ROPE, "rope_scaling": "llama3", "rope_factor": 2.0, "rope_original_length": 6},
    "longrope": {**ROPE, "rope_scaling": "longrope", **LONG, "rope_short_factors": (1.5,) * 4,
                 "rope_long_factors": (2.0,) * 4},
    "a window": {**ROPE, "sliding_window": 3},
    "window and relative": {"positions": "relative", **WINDOWS},
    "gemma": {**ROPE, **WINDOWS, "norm": "rmsnorm", "norm_position": "both", "num_kv_heads": 1,
              "norm_scale_offset": True, "scale_embeddings": True, "attention_scale_dim": 16,
              "attention_logit_softcap": 1.5, "final_logit_softcap": 2.5, "local_rope_theta": 100.0},
    "olmo2": {**ROPE, "norm": "rmsnorm", "norm_position": "output", "qk_norm": True,
              "qk_norm_over_heads": True},
}  # fmt: skip
BOTH = {
    "learned": {"positions": "learned", "position_offset": 2, "separate_decoder_embeddings": True,
                "embedding_norm": True, "norm_position": "post"},
    "relative": {"positions": "relative", "num_decoder_layers": 2, "scale_logits_by_embedding_size": True},
    "rope": {**ROPE, "num_kv_heads": 2, "sliding_window": 3},
    "shared": {**ROPE, "share_encoder_decoder": True, "qk_norm": True, **WINDOWS},
}  # fmt: skip
ADAPTED = {"lora": {"rank": 3}, "ia3": {}, "bottleneck": {"size": 5}, "prompt": {"num_virtual_tokens": 3},
           "prefix": {"num_virtual_tokens": 3}}  # fmt: skip
CASES = [
    *(("decoder", name, fields, "", "causal") for name, fields in DECODERS.items()),
    *(("decoder", f"prefix {name}", DECODERS[name], "", "prefix") for name in ("learned", "gemma")),
    *(("encoder_decoder", name, fields, "", "causal") for name, fields in BOTH.items()),
    *(("decoder", "a window", DECODERS["a window"], name, "causal") for name in ADAPTED),
    *(("encoder_decoder", "relative", BOTH["relative"], name, "causal") for name in ADAPTED),
    ("decoder", "relative", DECODERS["relative"], "prefix", "causal"),
]
# Paths that other cases take too.
SLOW = {"linear", "llama3", "prefix learned", "half rope"} | {
    f"relative-{name}" for name in ("lora", "ia3", "bottleneck")
}
STEPS, LENGTHS = 7, (6, 9, 2)  # generated tokens; tokens of the prompts
RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.integers(0, 100, (3, 9)).astype(np.int32)
SOURCE_SEGMENTS = np.array([[1] * 4 + [2] * 5, [1] * 9, [1] * 3 + [0] * 6], np.int32)


def prompt(one_segment):
    """Prompts padded on the left; without `one_segment` the first two hold two documents."""
    tokens, segments = np.zeros((2, len(LENGTHS), max(LENGTHS)), np.int32)
    for row, length in enumerate(LENGTHS):
        length = max(LENGTHS) if one_segment else length
        tokens[row, -length:] = RANDOM.integers(0, 100, length)
        segments[row, -length:] = 1
        if not one_segment and row == 0:
            segments[row, -2:] = 2
    return tokens, segments


def inputs_of(tokens, segments, attention, num_prompt):
    prefix = None
    if attention == "prefix":
        prefix = (jnp.arange(tokens.shape[1]) < num_prompt)[None] & (segments > 0)
    return models.make_inputs(jnp.asarray(tokens), jnp.asarray(segments), attention, prefix)


def logits_of(model, params, hidden):
    features = model.apply({"params": params}, hidden, method="lm_features")
    head = model.apply({"params": params}, method="output_embedding")
    return lm_logits(features, *head, model.config.final_logit_softcap)[..., :100]


@functools.partial(jax.jit, static_argnums=(0, 4))
def cached(model, params, source, inputs, capacity):
    """(greedy tokens [B,STEPS], the logits [B,STEPS,V] that they maximize)."""
    hidden, cache = models.prefill(model, params, *source, inputs, capacity=capacity)
    first = logits_of(model, params, hidden[:, -1:])

    def step(carry, _):
        logits, cache = carry
        token = logits.argmax(-1).astype(jnp.int32)
        hidden, cache = models.decode_step(model, params, token, cache)
        return (logits_of(model, params, hidden), cache), (token[:, 0], logits[:, 0])

    _, (tokens, logits) = jax.lax.scan(step, (first, cache), length=STEPS)
    return tokens.T, logits.transpose(1, 0, 2)


@functools.partial(jax.jit, static_argnums=0)
def uncached(model, params, *inputs):
    return logits_of(model, params, model.apply({"params": params}, *inputs))


@pytest.mark.parametrize(
    ("architecture", "fields", "adapter", "attention"),
    [
        pytest.param(
            *(a, f, d, t),
            id=f"{a}-{n}-{d}".strip("-"),
            marks=[pytest.mark.slow] * bool({n, f"{n}-{d}"} & SLOW),
        )
        for a, n, f, d, t in CASES
    ],
)
def test_invariant_14_cached_generation_equals_uncached(architecture, fields, adapter, attention):
    config = models.ModelConfig(architecture=architecture, **{**SHAPE, **fields})
    own = ADAPTERS[adapter](**ADAPTED[adapter]) if adapter else None
    model, both = models.build(config, own), architecture == "encoder_decoder"
    tokens, segments = prompt(isinstance(own, PromptTuning) and not both)
    source = []
    if both:
        source_segments = (
            np.minimum(SOURCE_SEGMENTS, 1) if isinstance(own, PromptTuning) else SOURCE_SEGMENTS
        )
        segments = np.minimum(segments, source_segments.max(1, keepdims=True))
        source = [models.make_inputs(jnp.asarray(SOURCE), jnp.asarray(source_segments))]
    inputs = inputs_of(tokens, segments, attention, tokens.shape[1])
    params = model.init(jax.random.key(0), *source, inputs, method="init_all")["params"]
    params = jax.tree.map(lambda x: 5 * x if x.ndim == 2 else x, params)
    if own:
        params["adapter"] = jax.tree.map(
            lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape),
            own.init(jax.random.key(1), params, model.config),
        )
    with jax.numpy_dtype_promotion("strict"):
        length = tokens.shape[1]
        found, logits = cached(model, params, source, inputs, 20)
        text = np.concatenate([tokens, found], axis=1)
        after = np.concatenate([segments, np.repeat(segments[:, -1:], STEPS, 1)], axis=1)
        inputs = inputs_of(text, after, attention, length)
        expected = np.asarray(uncached(model, params, *source, inputs))[:, length - 1 : -1]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(found, expected.argmax(-1))
    assert len(np.unique(found)) > 3
