"""Rows that people have, in every task on labels: the right batch, or one line before anything is trained."""

import labeled_tasks
import numpy as np
import pytest

LONG = " ".join(["w1"] * 100_000)
ODD = "w1\tw2 \"w3\" 'w4' \\n \r"
# task: (options, the rows of texts and of the n-th target)
TASKS = {
    "classification": ({}, lambda text, n: {"text": text, "label": "ab"[n % 2]}),
    "regression": ({}, lambda text, n: {"text": text, "label": n + 0.5}),
    "multi_label": ({}, lambda text, n: {"text": text, "label": ["a", "b"][: n % 3]}),
    "multiple_choice": (
        {},
        lambda text, n: {"question": text, "choices": ["w5", LONG, ODD], "label": n % 3},
    ),
    "text_to_text": (
        {"verbalizers": (("a", "w7"), ("b", "w8"))},
        lambda text, n: {"text": text, "label": "ab"[n % 2]},
    ),
}


def load(folder, name, splits):
    options, row = TASKS[name]
    splits = {
        split: [row(text, n) for n, text in enumerate(texts)] for split, texts in splits.items()
    }
    architecture = "encoder_decoder" if name == "text_to_text" else "encoder"
    return labeled_tasks.load(folder, name, architecture, splits, batch=(4, 4), **options)


@pytest.mark.parametrize("name", TASKS)
def test_a_long_text_is_cut_and_tabs_and_quotes_are_text(tmp_path, name):
    task = load(
        tmp_path, name, {"train": [LONG, ODD, "w2", "w3"], "validation": ["w4", "w5", "w6"]}
    )
    batch = task.train_inputs(0)
    assert batch.inputs.tokens.shape[-1] == labeled_tasks.LENGTH
    assert any("truncated to 8 tokens" in line for line in task.describe())
    for leaf in (batch.targets, batch.loss_weights):
        assert np.isfinite(leaf).all() and batch.loss_weights.any()


@pytest.mark.parametrize("name", TASKS)
def test_one_row_and_copies_of_one_text_are_one_line(tmp_path, name):
    """Without a validation split, one is made of train, which needs two texts."""
    for texts in (["w1"], ["w1"] * 6):
        with pytest.raises(ValueError) as caught:
            load(tmp_path, name, {"train": texts})
        message = str(caught.value)
        assert "\n" not in message and len(message.replace(str(tmp_path), "")) <= 400
        assert "needs two" in message or "distinct text" in message or "has no label" in message


@pytest.mark.parametrize("name", TASKS)
def test_a_validation_split_is_made_of_few_rows(tmp_path, name):
    task = load(tmp_path, name, {"train": [f"w{n}" for n in range(12)]})
    assert len(task.encoded["train"]) + len(task.encoded["validation"]) == 12
    assert len(task.encoded["validation"]) >= 1
