"""The shapes that batches are padded to: minimal, few, equal for every seed, and announced."""

import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import batch_shapes, example_order, packing
from training import logs
from training.compilation import announced_jit


@pytest.mark.parametrize("seed", range(4))
def test_four_widths_have_the_least_padding_of_all_sets_of_four(seed):
    random = np.random.default_rng(seed)
    longest = random.choice([5, 8, 14, 20, 30, 39, 44, 50, 63, 80, 97], (40, 1))
    found = [shape[0] for shape in batch_shapes.cover(longest, [97], (104,))]

    def positions(widths):
        return sum(min(w for w in widths if w >= length) for length in longest[:, 0])

    candidates = itertools.combinations(range(8, 104, 8), 3)
    assert len(found) <= 4 and found[-1] == 104 and all(width % 8 == 0 for width in found)
    assert positions(found) == min(positions((*each, 104)) for each in candidates)


def test_halved_shapes_are_at_most_four_multiples_of_eight_up_to_the_longest():
    assert batch_shapes.halved_shapes((128,)) == ((16,), (32,), (64,), (128,))
    assert batch_shapes.halved_shapes((24,)) == ((8,), (16,), (24,))
    assert batch_shapes.halved_shapes((100, 4)) == ((16, 4), (32, 4), (56, 4), (100, 4))


def test_the_shapes_of_pairs_hold_every_batch_and_save_most_of_the_padding():
    random = np.random.default_rng(0)
    lengths = np.clip(
        random.lognormal(3, 0.5, (5000, 1)) * random.lognormal(0, 0.2, (5000, 2)), 2, 120
    )
    lengths = lengths.astype(int)
    shapes = batch_shapes.choose_shapes(lengths, (128, 128), 16, 50)
    assert len(shapes) == 4 and all(width % 8 == 0 for width in np.ravel(shapes))
    keys, padded, least = batch_shapes.length_keys(lengths), 0, 0
    for step in range(200):
        batch = lengths[example_order.grouped_at(step, 16, keys, 50, 7)]
        shape = batch_shapes.smallest_shape(shapes, batch.max(0))
        assert (batch <= shape).all()
        padded, least = padded + 16 * sum(shape), least + batch.sum()
    assert padded < 0.5 * 200 * 16 * 256 and padded < 2 * least


def test_shapes_of_few_or_equal_or_long_examples():
    ones = np.ones((3, 1), int)
    assert batch_shapes.choose_shapes(ones, (128,), 16, 50) == ((8,),)
    assert batch_shapes.choose_shapes(np.array([[128]]), (100,), 2, 3000) == ((100,),)
    many = np.arange(1, 4001)[:, None]  # more lengths than are compared: a coarser grid
    shapes = batch_shapes.choose_shapes(many, (4096,), 1, 10)
    assert len(shapes) == 4 and shapes[-1] == (4000,)
    assert batch_shapes.smallest_shape(shapes, [4001]) == (4000,)


class TwoShapes:
    num_shapes = 2

    def describe_shape(self, inputs):
        return f"width {inputs.shape[-1]}"


def test_each_compilation_is_said_before_it_happens_and_only_then(caplog):
    @announced_jit("a double", static_argnums=(0,))
    def double(task, inputs):
        logging.getLogger("triptych").info("traced")
        return 2 * inputs

    before, task = logs.seconds_compiling, TwoShapes()
    with caplog.at_level("INFO", "triptych"):
        for width in (3, 3, 5, 3):
            np.testing.assert_array_equal(double(task, np.ones((2, width))), 2)
        jax.eval_shape(lambda x: double(task, x), jnp.ones((2, 7)))  # compiles nothing
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if not line.startswith("compiled in")] == [
        "compiling a double for width 3 (1 of at most 2)", "traced",
        "compiling a double for width 5 (2 of at most 2)", "traced",
        "traced",
    ]  # fmt: skip
    assert sum(line.startswith("compiled in") for line in lines) == 2
    assert logs.seconds_compiling > before


def test_first_fit_puts_the_longest_first_where_all_sequences_fit():
    lengths = np.array([[3, 1], [5, 2], [2, 4], [4, 1]])
    rows, offsets, count = packing.first_fit(lengths, [8, 5])
    # In the order 1, 2, 3, 0: 1 and 3 share a row (9 > 8: no), 2 joins neither (2 + 4 > 5).
    assert rows.tolist() == [0, 0, 1, 1] and count == 2
    assert offsets.tolist() == [[5, 2], [0, 0], [0, 0], [2, 4]]
