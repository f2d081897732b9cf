"""Which examples in which order, how a split is scored, and the file of predictions."""

import dataclasses
import json

import numpy as np
import pytest

from tasks import batches, metrics, predictions
from tasks.classification import Encoded
from tasks.config import TaskConfig
from tasks.examples import Examples


def test_law_01_each_epoch_is_a_permutation_and_a_function_of_the_seed():
    def epoch(number, seed):
        steps = range(number * 7, number * 7 + 7)
        return np.concatenate([batches.indices_at(step, 3, 21, seed) for step in steps]).tolist()

    first, second = epoch(0, 5), epoch(1, 5)
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second != epoch(1, 6) and first == epoch(0, 5)
    # Another batch size cuts the same order elsewhere, across the ends of epochs too.
    longer = np.concatenate([batches.indices_at(step, 5, 21, 5) for step in range(8)])
    np.testing.assert_array_equal(longer, (first + second)[:40])
    assert len(batches.indices_at(2**31, 4, 3, 2**40)) == 4


def test_law_01_batches_of_like_length_read_the_same_examples_and_are_a_function_of_the_seed():
    lengths = np.random.default_rng(0).integers(3, 60, 48)

    def window(number, seed, size=6):
        steps = range(number * size, (number + 1) * size)
        return [batches.alike_at(step, 4, lengths, size, seed).tolist() for step in steps]

    for number in range(4):
        steps = range(number * 6, (number + 1) * 6)
        plain = [batches.indices_at(step, 4, 48, 5).tolist() for step in steps]
        assert sorted(sum(window(number, 5), [])) == sorted(sum(plain, []))
    spread = [np.ptp(lengths[batch]) for batch in window(0, 5)]
    assert max(spread) < 25 and sorted(window(0, 5)) != window(0, 5)
    assert window(1, 5) == window(1, 5) != window(1, 6)
    order = [np.mean(lengths[batch]) for batch in window(0, 5)]
    assert order != sorted(order)  # not from the short to the long


def test_a_batch_is_as_wide_as_its_longest_example_needs_where_lengths_are_alike():
    lengths = np.repeat([3, 9, 20], [20, 20, 8])
    tokens = np.zeros((48, 20), np.int32)
    train = Encoded(tokens, lengths, tokens, np.zeros(48, np.int32), 0)
    alike = Examples((), {"train": train}, np.arange(48), "", None, window=12)
    widths = [alike.width(alike.at(step, 4, 0)) for step in range(12)]
    assert sorted(widths) == [8] * 5 + [16] * 5 + [20] * 2
    assert alike.share(4, 0) == np.mean(widths) / 20
    plain = dataclasses.replace(alike, window=0)
    assert plain.width(plain.at(3, 4, 0)) == 20 and plain.share(4, 0) == 1.0


def test_a_budget_is_stratified_nested_and_decided_by_the_seed():
    labels = np.repeat([0, 1, 2, 3], [400, 300, 290, 10])
    small, large = batches.subset(labels, 50, 1), batches.subset(labels, 200, 1)
    np.testing.assert_array_equal(small, np.unique(small))
    assert len(small) == 50 and set(small) < set(large)
    np.testing.assert_array_equal(np.bincount(labels[large]), [80, 60, 58, 2])
    assert np.abs(np.bincount(labels[small]) - [20, 15, 14.5, 0.5]).max() <= 1
    for seed in range(20):
        assert set(labels[batches.subset(labels, 4, seed)]) == {0, 1, 2, 3}
    assert set(small) != set(batches.subset(labels, 50, 2))
    np.testing.assert_array_equal(small, batches.subset(labels, 50, 1))
    np.testing.assert_array_equal(batches.subset(labels, 0, 1), np.arange(1000))


def test_a_budget_takes_each_example_as_often():
    labels = np.repeat([0, 1], [10, 30])
    taken = np.zeros(40)
    for seed in range(600):
        taken[batches.subset(labels, 20, seed)] += 1
    assert np.abs(taken / 600 - 0.5).max() < 5 * 0.5 / 600**0.5


def test_a_budget_beyond_the_labels_is_refused():
    with pytest.raises(ValueError, match="task.examples=5 with 3 labelled examples"):
        batches.subset(np.zeros(3), 5, 0)


def test_evaluation_takes_every_example_once_and_pads_the_last_batch():
    found = list(batches.evaluation_indices(5, 3))
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, -1]])
    assert [x.tolist() for x in batches.evaluation_indices(4, 2)] == [[0, 1], [2, 3]]
    assert list(batches.evaluation_indices(0, 2)) == []


def test_metrics_by_hand():
    labels, guesses = [1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1]
    assert metrics.score("accuracy", labels, guesses) == pytest.approx(4 / 6)
    # Class 1: 2 found of 3, 3 guessed; class 0: the same.
    assert metrics.score("macro_f1", labels, guesses) == pytest.approx(2 / 3)
    assert metrics.score("matthews", labels, guesses) == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert metrics.score("spearman", [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 100.0]) == pytest.approx(
        1
    )
    assert metrics.score("pearson", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1)
    assert metrics.score("pearson", [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == 0
    assert metrics.score("macro_f1", [0, 0], [1, 1]) == 0


def test_metrics_of_logits():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.2, 0.5, 0.3]]) + 3
    found = metrics.evaluate([0, 1, 0], logits)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.5, 0.2]).mean())
    assert set(found) == {"accuracy", "macro_f1", "matthews", "loss"}


def test_metrics_of_nothing_or_of_an_unknown_name_are_refused():
    for arguments, word in [
        (("accuracy", [], []), "at least one"),
        (("accuracy", [1], [1, 0]), "one prediction for each"),
        (("acc", [1], [1]), "expected one of accuracy"),
    ]:
        with pytest.raises(ValueError, match=word) as error:
            metrics.score(*arguments)
        assert "\n" not in str(error.value)


def test_predictions_are_written_whole_in_both_formats(tmp_path):
    logits = np.log([[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]])
    arguments = (["no\tway", "yes"], np.array([0, 1, -1]), logits)
    predictions.write(tmp_path / "test.tsv", *arguments)
    lines = (tmp_path / "test.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:3] == ["id", "label", "prediction"] and len(lines) == 4
    assert lines[3] == "2\t\tyes\t0.1\t0.9"
    predictions.write(tmp_path / "test.jsonl", *arguments, ids=["a", "b", "c"])
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert rows[0] == {
        'id': 'a', 'label': 'no\tway', 'prediction': 'no\tway',
        'probabilities': {'no\tway': 0.75, 'yes': 0.25},
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.jsonl", "test.tsv"]
    with pytest.raises(ValueError, match="expected a name in .tsv or .jsonl"):
        predictions.write(tmp_path / "test.csv", *arguments)


def test_the_metric_of_a_task_is_one_that_exists():
    assert TaskConfig().metric in metrics.METRICS
