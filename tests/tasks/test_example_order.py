"""Which labeled examples a step reads: every epoch reads each one once, and a seed decides the rest."""

import numpy as np
import pytest

from tasks import example_order


def test_invariant_01_each_epoch_is_a_permutation_and_a_function_of_the_seed():
    def epoch(number, seed):
        steps = range(number * 7, number * 7 + 7)
        batches = [example_order.shuffled_at(step, 3, 21, seed) for step in steps]
        return np.concatenate(batches).tolist()

    first, second = epoch(0, 5), epoch(1, 5)
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second != epoch(1, 6) and first == epoch(0, 5)
    # Another batch size cuts the same order elsewhere, across the ends of epochs too.
    longer = np.concatenate([example_order.shuffled_at(step, 5, 21, 5) for step in range(8)])
    np.testing.assert_array_equal(longer, (first + second)[:40])
    assert len(example_order.shuffled_at(2**31, 4, 3, 2**40)) == 4


def test_invariant_01_batches_of_similar_length_read_the_same_examples_as_shuffled_ones():
    lengths = np.random.default_rng(0).integers(3, 60, 48)

    def window(number, seed, size=6):
        steps = range(number * size, (number + 1) * size)
        return [example_order.grouped_at(step, 4, lengths, size, seed).tolist() for step in steps]

    for number in range(4):
        steps = range(number * 6, (number + 1) * 6)
        plain = [example_order.shuffled_at(step, 4, 48, 5).tolist() for step in steps]
        assert sorted(sum(window(number, 5), [])) == sorted(sum(plain, []))
    spread = [np.ptp(lengths[batch]) for batch in window(0, 5)]
    assert max(spread) < 25 and sorted(window(0, 5)) != window(0, 5)
    assert window(1, 5) == window(1, 5) != window(1, 6)
    order = [np.mean(lengths[batch]) for batch in window(0, 5)]
    assert order != sorted(order)  # not from short to long


def test_a_budget_is_stratified_nested_and_decided_by_the_seed():
    labels = np.repeat([0, 1, 2, 3], [400, 300, 290, 10])
    small, large = (example_order.stratified_subset(labels, size, 1) for size in (50, 200))
    np.testing.assert_array_equal(small, np.unique(small))
    assert len(small) == 50 and set(small) < set(large)
    np.testing.assert_array_equal(np.bincount(labels[large]), [80, 60, 58, 2])
    assert np.abs(np.bincount(labels[small]) - [20, 15, 14.5, 0.5]).max() <= 1
    for seed in range(20):
        assert set(labels[example_order.stratified_subset(labels, 4, seed)]) == {0, 1, 2, 3}
    assert set(small) != set(example_order.stratified_subset(labels, 50, 2))
    np.testing.assert_array_equal(small, example_order.stratified_subset(labels, 50, 1))
    everything = example_order.stratified_subset(labels, 0, 1)
    np.testing.assert_array_equal(everything, np.arange(1000))


def test_over_many_seeds_a_budget_takes_each_example_equally_often():
    labels = np.repeat([0, 1], [10, 30])
    taken = np.zeros(40)
    for seed in range(600):
        taken[example_order.stratified_subset(labels, 20, seed)] += 1
    assert np.abs(taken / 600 - 0.5).max() < 5 * 0.5 / 600**0.5


def test_a_budget_beyond_the_labels_is_an_error():
    message = "task.num_train_examples=5, but there are 3 labeled examples"
    with pytest.raises(ValueError, match=message):
        example_order.stratified_subset(np.zeros(3), 5, 0)


def test_evaluation_reads_every_example_once_and_pads_the_last_batch():
    found = list(example_order.sequential(5, 3))
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, example_order.PADDING]])
    assert [x.tolist() for x in example_order.sequential(4, 2)] == [[0, 1], [2, 3]]
    assert list(example_order.sequential(0, 2)) == []
