"""Who sees whom: whole 0/1 matrices, written out, and positions that restart in each segment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.sequence import Sequence, allowed, sequence_of

SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0]], jnp.int32)
PREFIX = jnp.array([[1, 1, 0, 1, 0, 0]], bool)


def matrix(text):
    return np.array([[[int(x) for x in line] for line in text.split()]], bool)


ALL = matrix("111000 111000 111000 000110 000110 000000")
CAUSAL = matrix("100000 110000 111000 000100 000110 000000")
WITH_PREFIX = matrix("110000 110000 111000 000100 000110 000000")
CAUSAL_WINDOW_2 = matrix("100000 110000 011000 000100 000110 000000")
ALL_WINDOW_2 = matrix("110000 111000 011000 000110 000110 000000")


@pytest.mark.parametrize(
    "visibility, prefix, window, expected",
    [
        ("all", None, 0, ALL),
        ("causal", None, 0, CAUSAL),
        ("prefix", PREFIX, 0, WITH_PREFIX),
        ("causal", None, 2, CAUSAL_WINDOW_2),
        ("all", None, 2, ALL_WINDOW_2),
        ("all", None, 6, ALL),
    ],
)
def test_allowed_is_the_matrix_of_the_docstring(visibility, prefix, window, expected):
    with jax.numpy_dtype_promotion("strict"):
        mask = allowed(SEGMENTS, SEGMENTS, visibility, prefix, window)
    np.testing.assert_array_equal(mask, expected)


def test_prefix_of_one_document_is_not_seen_by_another():
    segments = jnp.array([[1, 1, 2, 2]], jnp.int32)
    prefix = jnp.ones((1, 4), bool)
    mask = allowed(segments, segments, "prefix", prefix)
    np.testing.assert_array_equal(mask, matrix("1100 1100 0011 0011"))


def test_cross_attention_sees_the_source_of_its_own_segment():
    queries = jnp.array([[1, 2, 2, 0]], jnp.int32)
    keys = jnp.array([[1, 1, 2, 0, 0]], jnp.int32)
    np.testing.assert_array_equal(allowed(queries, keys), matrix("11000 00100 00100 00000"))


@pytest.mark.parametrize("batched", [False, True])
def test_positions_restart_in_each_segment(batched):
    segments = jnp.array([1, 1, 1, 2, 2, 3, 0, 0], jnp.int32)
    expected = np.array([0, 1, 2, 0, 1, 0, 0, 0])
    tokens = jnp.arange(8, dtype=jnp.int32)
    if batched:
        segments, tokens, expected = segments[None], tokens[None], expected[None]
    with jax.numpy_dtype_promotion("strict"):
        sequence = sequence_of(tokens, segments, "causal")
    np.testing.assert_array_equal(sequence.positions, expected)
    assert (sequence.visibility, sequence.window, sequence.prefix) == ("causal", 0, None)


def test_a_sequence_of_rows_is_the_vmap_of_a_row():
    segments = jnp.array([[1, 1, 2, 0], [1, 2, 2, 2]], jnp.int32)
    one = jax.vmap(lambda s: sequence_of(s, s, "causal"))(segments)
    assert isinstance(one, Sequence) and one.visibility == "causal"
    jax.tree.map(np.testing.assert_array_equal, one, sequence_of(segments, segments, "causal"))


def test_a_description_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="visibility 'sideways'"):
        sequence_of(SEGMENTS, SEGMENTS, "sideways")
    with pytest.raises(ValueError, match="prefix absent"):
        sequence_of(SEGMENTS, SEGMENTS, "prefix")
    with pytest.raises(ValueError, match="prefix given"):
        sequence_of(SEGMENTS, SEGMENTS, "causal", prefix=PREFIX)
    with pytest.raises(ValueError, match="without a prefix"):
        allowed(SEGMENTS, SEGMENTS, "prefix")
