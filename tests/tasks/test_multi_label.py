"""Several labels: loss, weights and scores of a batch by hand, in all three architectures."""

import jax
import labeled_tasks
import numpy as np
import pytest

from tasks import evaluate

NAME, LABELS = "multi_label", ("w1", "w2", "w3")


def rows(count, seed):
    """The labels of a text are the words among the first ones that it has."""
    texts = labeled_tasks.random_texts(count, seed)
    texts = [" ".join(f"w{int(word[1:]) % 6}" for word in text.split()) for text in texts]
    return [
        {"text": text, "label": [label for label in LABELS if label in text.split()]}
        for text in texts
    ]


SPLITS = {"train": rows(40, 0), "validation": rows(11, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("several")


@pytest.mark.parametrize("architecture", labeled_tasks.ARCHITECTURES)
def test_the_loss_and_the_scores_are_those_by_hand(folder, architecture):
    weights = (1.0, 2.0, 0.5)
    task = labeled_tasks.load(
        folder, NAME, architecture, SPLITS, (16, 4), positive_weights=weights, threshold=0.4
    )
    assert task.label_names == LABELS
    model, params = labeled_tasks.start(task)
    compute = labeled_tasks.computing(task, model)
    total = []

    def predict(batch):
        losses, logits = compute(params, batch)
        p, has = 1 / (1 + np.exp(-np.asarray(logits, np.float64))), batch.targets
        each = -(has * np.log(p) * np.array(weights) + (1 - has) * np.log(1 - p)).mean(1)
        expected = (each * batch.loss_weights[:, 0]).sum()
        np.testing.assert_allclose(losses[NAME][0], expected, rtol=1e-4)
        assert losses[NAME][1] == task.loss_denominators(batch)[NAME]
        total.append(float(losses[NAME][1]))
        return logits

    with jax.numpy_dtype_promotion("strict"):
        logits, scores = evaluate(task, "validation", predict)
    assert sum(total) == 11 and logits.shape == (11, 3)
    known = np.array([[label in row["label"] for label in LABELS] for row in SPLITS["validation"]])
    found = 1 / (1 + np.exp(-logits)) >= 0.4
    hits = (found & known).sum()
    assert scores["micro_f1"] == pytest.approx(2 * hits / (found.sum() + known.sum()))
    assert scores["exact_match"] == pytest.approx((found == known).all(1).mean())
    for row, labels, guesses in zip(
        task.prediction_rows("validation", logits), known, found, strict=True
    ):
        assert row["label"] == [name for name, x in zip(LABELS, labels, strict=True) if x]
        assert row["prediction"] == [name for name, x in zip(LABELS, guesses, strict=True) if x]
        assert set(row["probabilities"]) == set(LABELS)


def test_balanced_weights_are_absent_over_present_and_another_number_is_an_error(folder):
    train = [
        {"text": "w1", "label": ["a"]},
        *[{"text": "w2 w3", "label": ["b"]}] * 3,
        {"text": "w4", "label": []},
    ]
    splits = {"train": train, "validation": train}
    task = labeled_tasks.load(folder, NAME, "encoder", splits, positive_weights="balanced")
    assert task.positive_weights == pytest.approx((4 / 1, 2 / 3))
    with pytest.raises(ValueError, match="has 3 numbers, but there are 2 labels.*: a, b; give one"):
        labeled_tasks.load(folder, NAME, "encoder", splits, positive_weights=(1.0, 1.0, 1.0))


def test_a_test_split_without_labels_has_no_score(folder):
    splits = SPLITS | {"test": [{"text": "w1", "label": None}, {"text": "w2", "label": None}]}
    task = labeled_tasks.load(folder, NAME, "encoder", splits, batch=(4, 4))
    assert task.score("test", np.zeros((2, 3))) == {}
    (batch,) = task.eval_inputs("test")
    assert not batch.loss_weights.any() and not batch.targets.any()
    assert [row["label"] for row in task.prediction_rows("test", np.zeros((2, 3)))] == ["", ""]
