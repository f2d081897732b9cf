"""Multiple choice: the rows of a batch, choices that a question lacks, microbatches, and learning."""

import functools

import jax
import jax.numpy as jnp
import labeled_tasks
import numpy as np
import pytest
from labeled_tasks import CLS, SEP, ids

from tasks import evaluate
from training.train_step import split_microbatches

NAME = "multiple_choice"
QUESTIONS = [
    {"question": "w1 w2", "choices": ["w3", "w4 w5", "w6"], "label": 2},
    {"question": "w7", "choices": ["w8", "w9"], "label": 0},
]


def rows(count, seed, most=4):
    """The answer is the choice that begins with the highest number."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        choices = [f"w{n}" for n in random.choice(30, random.integers(2, most + 1), replace=False)]
        answer = int(np.argmax([int(choice[1:]) for choice in choices]))
        found.append({"question": "w0", "choices": choices, "label": answer})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("choices")


@functools.cache
def made(folder, architecture):
    splits = {"train": rows(64, 0), "validation": rows(11, 1)}
    task = labeled_tasks.load(folder, NAME, architecture, splits, batch=(16, 4))
    model, params = labeled_tasks.start(task)
    return task, model, params, labeled_tasks.computing(task, model)


def test_each_choice_is_a_row_with_the_question(folder):
    splits = {"train": QUESTIONS, "validation": QUESTIONS}
    task = labeled_tasks.load(folder, NAME, "encoder", splits, batch=(2, 3))
    (batch,) = task.eval_inputs("validation")
    assert batch.inputs.tokens.shape == (3, 3, 8)
    row = [CLS, *ids("w1 w2"), SEP, *ids("w4 w5"), SEP]
    np.testing.assert_array_equal(batch.inputs.tokens[0, 1], [*row, 0])
    there = batch.inputs.segment_ids[:, :, 0]
    np.testing.assert_array_equal(there, [[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch.targets, [[2], [0], [0]])
    np.testing.assert_array_equal(batch.loss_weights, [[1], [1], [0]])
    assert task.describe()[0].startswith("2 to 3 choices") and task.tokens_per_step == 2 * 3 * 8
    parts = split_microbatches(batch.replace(), 3)
    np.testing.assert_array_equal(parts.inputs.tokens[0], batch.inputs.tokens[:1])


@pytest.mark.parametrize(
    ("options", "row", "expected"),
    [
        ({"context_column": "c"}, {"c": "w11"}, [CLS, *ids("w11"), SEP, *ids("w1 w2 w3"), SEP]),
        ({"choice_first": True}, {}, [CLS, *ids("w3"), SEP, *ids("w1 w2"), SEP]),
    ],
)
def test_a_passage_precedes_the_question_and_a_choice_may_precede_its_text(
    folder, options, row, expected
):
    data = [question | row for question in QUESTIONS]
    splits = {"train": data, "validation": data}
    task = labeled_tasks.load(folder, NAME, "encoder", splits, batch=(2, 2), **options)
    (batch,) = task.eval_inputs("validation")
    assert batch.inputs.tokens[0, 0][: len(expected)].tolist() == expected


@pytest.mark.parametrize("architecture", labeled_tasks.ARCHITECTURES)
def test_the_softmax_is_over_the_choices_that_a_question_has(folder, architecture):
    task, _, params, compute = made(folder, architecture)
    weights = []

    def predict(batch):
        losses, logits = compute(params, batch)
        there = batch.inputs.segment_ids[:, :, 0] > 0
        expected = 0.0
        for row in np.flatnonzero(batch.loss_weights[:, 0]):
            own = np.asarray(logits, np.float64)[row][there[row]]
            expected -= own[batch.targets[row, 0]] - np.log(np.exp(own).sum())
        np.testing.assert_allclose(losses[NAME][0], expected, rtol=1e-4)
        weights.append(float(losses[NAME][1]))
        assert weights[-1] == task.loss_denominators(batch)[NAME] == losses["accuracy"][1]
        return logits

    with jax.numpy_dtype_promotion("strict"):
        logits, scores = evaluate(task, "validation", predict)
    assert sum(weights) == 11
    data = rows(11, 1)
    hits = [
        np.argmax(logits[i][: len(row["choices"])]) == row["label"] for i, row in enumerate(data)
    ]
    assert scores["accuracy"] == pytest.approx(np.mean(hits))
    for row, question in zip(task.prediction_rows("validation", logits), data, strict=True):
        assert len(row["probabilities"]) == len(question["choices"])
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert row["choice"] == question["choices"][row["prediction"]]


def test_the_head_learns_which_choice_is_right(folder):
    task, model, params, compute = made(folder, "encoder")
    init, step = labeled_tasks.adam(task, model)
    state = init(params)
    for number in range(80):
        _, params, state, _ = step(params, state, task.train_inputs(number), jax.random.key(number))
    _, scores = evaluate(task, "train", lambda batch: jnp.asarray(compute(params, batch)[1]))
    assert scores["accuracy"] > 0.8


def test_batches_of_similar_length_hold_the_same_choices(folder):
    rows = [{"question": " ".join(["w1"] * n), "choices": ["w2", "w3 w4"], "label": n % 2}
            for n in (1, 2, 3, 20, 21, 22)]  # fmt: skip
    splits = {"train": rows, "validation": rows}
    task = labeled_tasks.load(
        folder, NAME, "encoder", splits, (2, 2), max_seq_len=32, length_group_steps=3
    )
    batches = list(task.eval_inputs("validation"))
    assert [batch.inputs.tokens.shape[-1] for batch in batches] == [8, 32, 32]
    assert task.tokens_read((8,)) == 2 * 8
