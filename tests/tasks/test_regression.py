"""Regression: targets in units of the training values, predictions in values, and learning."""

import functools

import jax
import jax.numpy as jnp
import labeled_tasks
import numpy as np
import pytest

from tasks import evaluate

NAME = "regression"


def rows(count, seed, scale=20.0, shift=1000.0):
    """The value of a text is a number of its first word."""
    texts = labeled_tasks.random_texts(count, seed)
    return [{"text": text, "label": shift + scale * int(text.split()[0][1:])} for text in texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("values")


@functools.cache
def made(folder, architecture):
    """(task, model, params, jitted (params, batch) -> (losses, values))."""
    splits = {"train": rows(64, 0), "validation": rows(11, 1)}
    task = labeled_tasks.load(folder, NAME, architecture, splits, batch=(16, 4))
    model, params = labeled_tasks.start(task)
    return task, model, params, labeled_tasks.computing(task, model)


@pytest.mark.parametrize("architecture", labeled_tasks.ARCHITECTURES)
def test_the_loss_is_in_standard_deviations_and_predictions_are_values(folder, architecture):
    task, _, params, compute = made(folder, architecture)
    values = np.array([row["label"] for row in rows(64, 0)])
    units = params["heads"][NAME]["units"]
    np.testing.assert_allclose(units["mean"], values.mean(), rtol=1e-6)
    np.testing.assert_allclose(units["std"], values.std(), rtol=1e-6)
    sums = []

    def predict(batch):
        losses, found = compute(params, batch)
        error = np.asarray(found) - batch.targets[:, 0]
        expected = ((error / values.std()) ** 2 * batch.loss_weights[:, 0]).sum()
        np.testing.assert_allclose(losses[NAME][0], expected, rtol=1e-3)
        assert losses[NAME][1] == task.loss_denominators(batch)[NAME]
        sums.append(losses[NAME])
        return found

    with jax.numpy_dtype_promotion("strict"):
        found, scores = evaluate(task, "validation", predict)
    known = np.array([row["label"] for row in rows(11, 1)])
    assert found.shape == (11,) and sum(float(weight) for _, weight in sums) == 11
    assert scores["mse"] == pytest.approx(((found - known) ** 2).mean(), rel=1e-5)
    assert scores["pearson"] == pytest.approx(np.corrcoef(found, known)[0, 1], abs=1e-5)
    assert scores["r2"] == pytest.approx(1 - scores["mse"] / known.var(), abs=1e-5)
    (first, *_) = task.prediction_rows("validation", found)
    assert first["label"] == known[0] and first["prediction"] == pytest.approx(float(found[0]))


def test_units_are_not_trained_and_the_head_learns_values(folder):
    task, model, params, _ = made(folder, "encoder")
    init, step = labeled_tasks.adam(task, model)
    units, state, losses = params["heads"][NAME]["units"], init(params), []
    for number in range(100):
        batch = task.train_inputs(number)
        loss, params, state, grads = step(params, state, batch, jax.random.key(number))
        losses.append(float(loss))
        of_units = jax.tree.leaves(grads["heads"][NAME]["units"])
        assert not any(jnp.any(leaf) for leaf in of_units)
    assert np.mean(losses[-5:]) < 0.3 < np.mean(losses[:5])
    jax.tree.map(np.testing.assert_array_equal, params["heads"][NAME]["units"], units)


def test_units_are_those_of_train_whatever_the_label_budget_and_absent_if_asked(folder):
    splits = {"train": rows(64, 0), "validation": rows(11, 1)}
    whole = made(folder, "encoder")[0]
    part = labeled_tasks.load(folder, NAME, "encoder", splits, (16, 4), num_train_examples=20)
    assert part == whole and len(part.examples) == 20  # one compiled program
    plain = labeled_tasks.load(folder, NAME, "encoder", splits, (16, 4), standardize=False)
    model = made(folder, "encoder")[1]
    rngs = {"init": jax.random.key(0), "head": jax.random.key(1)}
    params = jax.eval_shape(functools.partial(plain.init, model=model), rngs)
    assert set(params["heads"][NAME]) == {"output"}


def test_a_test_split_without_values_has_no_score_and_predictions_without_labels(folder):
    splits = {"train": rows(20, 0), "validation": rows(5, 1),
              "test": [{"text": text} for text in labeled_tasks.random_texts(3)]}  # fmt: skip
    task = labeled_tasks.load(folder, NAME, "encoder", splits, batch=(4, 4), metric="mse")
    assert task.best_metric == "-mse" and task.score("test", np.zeros(3)) == {}
    (batch,) = task.eval_inputs("test")
    assert not batch.loss_weights.any()
    assert [row["label"] for row in task.prediction_rows("test", np.zeros(3))] == [""] * 3


def test_huber_is_linear_for_errors_over_one_standard_deviation(folder):
    splits = {"train": rows(64, 0), "validation": rows(11, 1)}
    task = labeled_tasks.load(folder, NAME, "encoder", splits, (16, 4), loss="huber")
    _, model, params, _ = made(folder, "encoder")
    (batch, *_) = task.eval_inputs("validation")
    values = np.asarray(task.outputs(model, params, batch))
    far = batch.replace(targets=(values[:, None] + 3 * task.std).astype(np.float32))
    total, weight = task.losses(model, params, far, None)[NAME]
    assert float(total / weight) == pytest.approx(3 - 0.5, rel=1e-3)
