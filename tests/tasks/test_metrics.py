"""The metrics of a split against numbers by hand, and the file of its predictions."""

import json

import numpy as np
import pytest

from tasks import FINETUNE_TASKS, metrics, predictions


def test_metrics_by_hand():
    labels, guesses = [1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1]
    assert metrics.score("accuracy", labels, guesses) == pytest.approx(4 / 6)
    # Class 1: 2 of 3 found, 3 predicted; class 0: the same.
    assert metrics.score("macro_f1", labels, guesses) == pytest.approx(2 / 3)
    assert metrics.score("matthews", labels, guesses) == pytest.approx((2 * 2 - 1 * 1) / 9)
    ranked = metrics.score("spearman", [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 100.0])
    assert ranked == pytest.approx(1)
    assert metrics.score("pearson", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1)
    assert metrics.score("pearson", [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == 0
    assert metrics.score("macro_f1", [0, 0], [1, 1]) == 0


def test_scores_of_logits():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.2, 0.5, 0.3]]) + 3
    found = metrics.classification_scores([0, 1, 0], logits)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.5, 0.2]).mean())
    assert set(found) == {"accuracy", "macro_f1", "matthews", "loss"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("accuracy", [], []), "at least one"),
        (("accuracy", [1], [1, 0]), "one prediction per label"),
        (("acc", [1], [1]), "expected one of accuracy"),
    ],
)
def test_metrics_of_nothing_or_of_an_unknown_name_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        metrics.score(*arguments)
    assert "\n" not in str(error.value)


def test_predictions_are_written_whole_in_both_formats(tmp_path):
    logits = np.log([[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]])
    arguments = (["no\tway", "yes"], np.array([0, 1, -1]), logits)
    predictions.write(tmp_path / "test.tsv", predictions.class_rows(*arguments))
    lines = (tmp_path / "test.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:3] == ["id", "label", "prediction"] and len(lines) == 4
    assert lines[3] == "2\t\tyes\t0.1\t0.9"
    rows = predictions.class_rows(*arguments, ids=["a", "b", "c"])
    predictions.write(tmp_path / "test.jsonl", rows)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "id": "a", "label": "no\tway", "prediction": "no\tway",
        "probabilities": {"no\tway": 0.75, "yes": 0.25},
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.jsonl", "test.tsv"]
    with pytest.raises(ValueError, match="expected a .tsv or .jsonl file"):
        predictions.write(tmp_path / "test.csv", predictions.class_rows(*arguments))


@pytest.mark.parametrize("task", FINETUNE_TASKS.values(), ids=FINETUNE_TASKS)
def test_the_default_metric_of_a_task_exists(task):
    assert task().metric in {*metrics.CLASS_METRICS, *metrics.VALUE_METRICS, "auto"}
