"""The metrics of a split against numbers by hand, and the file of its predictions."""

import dataclasses
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


@pytest.mark.parametrize("task", [t for t in FINETUNE_TASKS.values() if hasattr(t, "metric")])
def test_the_default_metric_of_a_task_exists(task):
    field = next(each for each in dataclasses.fields(task) if each.name == "metric")
    assert field.default in field.metadata["choices"]


def test_values_are_scored_by_hand():
    assert metrics.score("mse", [1.0, 2.0, 4.0], [1.0, 3.0, 2.0]) == pytest.approx(5 / 3)
    # The labels deviate from their mean 2 by 1, 0, 1; the predictions from the labels by 0, 1, 0.
    assert metrics.score("r2", [1.0, 2.0, 3.0], [1.0, 3.0, 3.0]) == pytest.approx(1 - 1 / 2)
    assert metrics.score("r2", [3.0], [2.0]) == 0


def test_f1_of_the_positive_class_by_hand():
    logits = np.eye(2)[[1, 1, 0, 1, 0]]  # of labels 1, 0, 1, 1, 0: 2 hits, 3 predicted, 3 present
    found = metrics.classification_scores([1, 0, 1, 1, 0], logits, positive=1)
    assert found["f1"] == pytest.approx(2 / 3)
    # Class 0: 1 hit, 2 predicted, 2 present.
    found = metrics.classification_scores([1, 0, 1, 1, 0], logits, positive=0)
    assert found["f1"] == pytest.approx(1 / 2)


def test_several_labels_are_scored_by_hand():
    labels = [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    p = np.array([[0.9, 0.6, 0.1], [0.4, 0.8, 0.2], [0.7, 0.1, 0.3]])
    found = metrics.multi_label_scores(labels, np.log(p / (1 - p)), 0.5)
    # Predicted: (0, 1), (1), (0). Hits 2, predicted 4, present 3.
    assert found["micro_f1"] == pytest.approx(2 * 2 / 7)
    # Label 0: 1 hit of 2 and 2; label 1: 1 hit, 2 predicted, 1 present; label 2 never occurs.
    assert found["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert found["exact_match"] == 0
    # Label 0 is at ranks 1 and 3, label 1 at rank 1; label 2 has none.
    assert found["mean_average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    each = np.where(np.array(labels) > 0, p, 1 - p)
    assert found["loss"] == pytest.approx(-np.log(each).mean())
    assert metrics.multi_label_scores([[0, 0]], [[1.0, -1.0]], 0.5)["mean_average_precision"] == 0


def test_choices_are_scored_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.4, 0.6, 1e-30]])
    found = metrics.choice_scores([0, 0], logits)
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(-np.log([0.5, 0.4]).mean())
