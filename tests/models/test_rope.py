"""RoPE scaled to longer sequences, and rotated in a part of each head: against the formulas by hand.

tests/huggingface/test_parity_rope.py compares the same with transformers.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.positions import apply_rope, rotate, segment_lengths

RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.normal(size=(1, 6, 2, 8)), jnp.float32)
ONES = jnp.ones((1, 6), jnp.int32)
SHAPE = {"emb_dim": 16, "num_heads": 2, "max_length": 4, "positions": "rope", "rope_theta": 100.0}
FACTORS = {"rope_short_factors": (1.0, 2.0, 3.0, 4.0), "rope_long_factors": (5.0, 6.0, 7.0, 8.0)}


def rotated(inputs, **fields):
    config = models.ModelConfig(**SHAPE | fields)
    return np.asarray(apply_rope(config, X, inputs, 0))


def by_hand(positions, frequencies, scale=1.0):
    angles = np.asarray(positions)[:, None] * np.asarray(frequencies)
    first, second = np.split(np.asarray(X[0]), 2, axis=-1)
    cosine, sine = (np.asarray(f(angles))[:, None] * scale for f in (np.cos, np.sin))
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


def inputs_of(segment_ids):
    return models.make_inputs(jnp.ones_like(segment_ids), segment_ids)


PLAIN = 100.0 ** -(np.arange(0, 8, 2) / 8)


def test_without_scaling_nothing_changes():
    inputs = inputs_of(ONES)
    np.testing.assert_array_equal(rotated(inputs), rotate(X, inputs.positions, 100.0))


@pytest.mark.parametrize(
    ("fields", "frequencies", "scale"),
    [
        ({"rope_scaling": "linear", "rope_factor": 4.0}, PLAIN / 4, 1.0),
        # Six positions where four are original: theta * (2 * 6 / 4 - 1)^(8 / 6).
        (
            {"rope_scaling": "dynamic", "rope_factor": 2.0},
            (100 * 2 ** (8 / 6)) ** -(np.arange(0, 8, 2) / 8),
            1.0,
        ),
        # Turns over 64 positions: 10.2, 3.2, 1.02, 0.32: kept, (3.2 - 1) / 3 kept, 0.006 kept, stretched.
        (
            {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 64},
            PLAIN * [
                kept + (1 - kept) / 8
                for kept in np.clip((64 * PLAIN / 2 / np.pi - 1) / 3, 0, 1)
            ],
            1.0,
        ),
        # Of more than two turns nothing is stretched, of less than one all.
        (
            {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 64,
             "rope_beta_fast": 2.0},
            PLAIN * [1.0, 1.0, 1 - 3 / 4 / 2, 1 / 4],
            0.1 * np.log(4) + 1,
        ),
        (
            {"rope_scaling": "longrope", "rope_factor": 2.0, "rope_attention_factor": 1.5, **FACTORS},
            PLAIN / [5, 6, 7, 8],
            1.5,
        ),
        (
            {"rope_scaling": "longrope", "rope_factor": 2.0, "rope_original_length": 6, **FACTORS},
            PLAIN / [1, 2, 3, 4],
            np.sqrt(1 + np.log(2) / np.log(6)),
        ),
    ],
)  # fmt: skip
def test_scalings_turn_by_these_frequencies(fields, frequencies, scale):
    if fields["rope_scaling"] == "yarn":
        # Entry that turns n times over 64 positions: 8 ln(64 / 2 pi n) / (2 ln 100).
        low, high = (8 * np.log(64 / (2 * np.pi * n)) / (2 * np.log(100)) for n in (2, 1))
        assert (np.floor(low), np.ceil(high)) == (1, 3)
    found = rotated(inputs_of(ONES), **fields)[0]
    np.testing.assert_allclose(found, by_hand(range(6), frequencies, scale), atol=1e-5)


@pytest.mark.parametrize("scaling", ["dynamic", "longrope"])
def test_a_packed_text_is_turned_by_its_own_length(scaling):
    fields = {"rope_scaling": scaling, "rope_factor": 2.0}
    fields |= FACTORS if scaling == "longrope" else {}
    packed = jnp.array([[1, 1, 1, 1, 1, 2]])
    alone = jnp.array([[1, 1, 1, 1, 1, 0]])
    assert segment_lengths(inputs_of(packed)).tolist() == [[5, 5, 5, 5, 5, 1]]
    a, b = rotated(inputs_of(packed), **fields), rotated(inputs_of(alone), **fields)
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    long = rotated(inputs_of(ONES), **fields)
    assert np.abs(long[:, :5] - a[:, :5]).max() > 1e-3 or scaling == "longrope"


def test_only_a_part_of_a_head_is_rotated():
    found = rotated(inputs_of(ONES), partial_rotary_factor=0.5)
    np.testing.assert_array_equal(found[..., 4:], X[..., 4:])
    np.testing.assert_array_equal(found[..., :4], rotate(X[..., :4], jnp.arange(6)[None], 100.0))


def test_layers_with_a_window_are_not_stretched_where_others_have_none():
    fields = {"sliding_window": 2, "global_attn_every_n_layers": 2, "rope_scaling": "linear"}
    config = models.ModelConfig(**SHAPE, **fields, rope_factor=2.0)
    assert [config.rope_scaling_at(i) for i in range(3)] == ["linear", "none", "linear"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_scaling": "linear", "positions": "learned"}, "rope_scaling='linear'.*no effect"),
        (
            {"partial_rotary_factor": 0.5, "positions": "none"},
            "partial_rotary_factor=0.5.*no effect",
        ),
        ({"rope_factor": 2.0}, "rope_factor=2.0.*does not use it"),
        (
            {"rope_scaling": "llama3", "rope_low_freq_factor": 9.0},
            "rope_low_freq_factor=9.0.*< rope_high_freq_factor",
        ),
        (
            {"rope_scaling": "yarn", "rope_beta_slow": 99.0},
            "rope_beta_slow=99.0.*<= rope_beta_fast",
        ),
        ({"rope_scaling": "yarn", "rope_theta": 1.0}, "rope_theta=1.0.*above 1"),
        (
            {"rope_scaling": "dynamic", "partial_rotary_factor": 0.25},
            "partial_rotary_factor=0.25.*at least 4",
        ),
        ({"rope_scaling": "longrope", "rope_short_factors": (1.0,)}, "expected 4 numbers"),
        (
            {"rope_scaling": "longrope", "rope_original_length": 1, **FACTORS},
            "rope_original_length=1.*above 1",
        ),
        ({"partial_rotary_factor": 0.1}, "an even share"),
    ],
)
def test_contradictory_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        models.ModelConfig(**SHAPE | fields)
