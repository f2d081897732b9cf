"""Attention masks as whole 0/1 matrices, and positions that restart in each segment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.inputs import ModelInputs, make_attention_mask, make_inputs

SEGMENT_IDS = jnp.array([[1, 1, 1, 2, 2, 0]], jnp.int32)
PREFIX = jnp.array([[1, 1, 0, 1, 0, 0]], bool)


def matrix(text):
    return np.array([[[int(x) for x in line] for line in text.split()]], bool)


BIDIRECTIONAL = matrix("111000 111000 111000 000110 000110 000000")
CAUSAL = matrix("100000 110000 111000 000100 000110 000000")
WITH_PREFIX = matrix("110000 110000 111000 000100 000110 000000")
CAUSAL_WINDOW_2 = matrix("100000 110000 011000 000100 000110 000000")
BIDIRECTIONAL_WINDOW_2 = matrix("110000 111000 011000 000110 000110 000000")


@pytest.mark.parametrize(
    "attention, prefix, sliding_window, expected",
    [
        ("bidirectional", None, 0, BIDIRECTIONAL),
        ("causal", None, 0, CAUSAL),
        ("prefix", PREFIX, 0, WITH_PREFIX),
        ("causal", None, 2, CAUSAL_WINDOW_2),
        ("bidirectional", None, 2, BIDIRECTIONAL_WINDOW_2),
        ("bidirectional", None, 6, BIDIRECTIONAL),
    ],
)
def test_the_mask_is_the_matrix_of_the_docstring(attention, prefix, sliding_window, expected):
    with jax.numpy_dtype_promotion("strict"):
        mask = make_attention_mask(
            SEGMENT_IDS, SEGMENT_IDS, attention, prefix, sliding_window
        ).dense()
    np.testing.assert_array_equal(mask, expected)


def test_the_prefix_of_one_document_is_invisible_to_another():
    segment_ids = jnp.array([[1, 1, 2, 2]], jnp.int32)
    prefix = jnp.ones((1, 4), bool)
    mask = make_attention_mask(segment_ids, segment_ids, "prefix", prefix)
    np.testing.assert_array_equal(mask.dense(), matrix("1100 1100 0011 0011"))


def test_cross_attention_sees_the_same_segment_of_the_encoder_inputs():
    queries = jnp.array([[1, 2, 2, 0]], jnp.int32)
    keys = jnp.array([[1, 1, 2, 0, 0]], jnp.int32)
    mask = make_attention_mask(queries, keys)
    np.testing.assert_array_equal(mask.dense(), matrix("11000 00100 00100 00000"))


@pytest.mark.parametrize("batched", [False, True])
def test_positions_restart_in_each_segment(batched):
    segment_ids = jnp.array([1, 1, 1, 2, 2, 3, 0, 0], jnp.int32)
    expected = np.array([0, 1, 2, 0, 1, 0, 0, 0])
    tokens = jnp.arange(8, dtype=jnp.int32)
    if batched:
        segment_ids, tokens, expected = segment_ids[None], tokens[None], expected[None]
    with jax.numpy_dtype_promotion("strict"):
        inputs = make_inputs(tokens, segment_ids, "causal")
    np.testing.assert_array_equal(inputs.positions, expected)
    assert (inputs.attention, inputs.prefix) == ("causal", None)


def test_the_inputs_of_a_batch_are_the_vmap_of_those_of_a_row():
    segment_ids = jnp.array([[1, 1, 2, 0], [1, 2, 2, 2]], jnp.int32)
    one = jax.vmap(lambda s: make_inputs(s, s, "causal"))(segment_ids)
    assert isinstance(one, ModelInputs) and one.attention == "causal"
    batch = make_inputs(segment_ids, segment_ids, "causal")
    jax.tree.map(np.testing.assert_array_equal, one, batch)


@pytest.mark.parametrize(
    "attention, prefix, message",
    [
        ("sideways", None, "attention='sideways': expected one of bidirectional, causal, prefix"),
        ("prefix", None, "attention='prefix' with prefix absent"),
        ("causal", PREFIX, "attention='causal' with prefix given"),
    ],
)
def test_a_contradictory_description_is_refused(attention, prefix, message):
    with pytest.raises(ValueError, match=message):
        make_inputs(SEGMENT_IDS, SEGMENT_IDS, attention, prefix)
    with pytest.raises(ValueError, match=message):
        make_attention_mask(SEGMENT_IDS, SEGMENT_IDS, attention, prefix)
