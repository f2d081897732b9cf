"""Targets as people write them: numbers, several labels, answers. Each is read as they mean it, or one line
says what to do.
"""

import re

import labeled_tasks
import pytest

TEXTS = [f"text {i}" for i in range(30)]


def rows(column, values, **more):
    return [
        {"text": text, column: value, **more} for text, value in zip(TEXTS, values, strict=False)
    ]


def tsv(values, column="label"):
    lines = [f"{text}\t{value}" for text, value in zip(TEXTS, values, strict=False)]
    return "\n".join([f"text\t{column}", *lines]) + "\n"


def read(folder, name, splits, **options):
    said = []
    source = labeled_tasks.write(folder, splits)
    found = labeled_tasks.resolve(name, source, **options).task.read(said.append)
    return found, said


def check_error(folder, name, splits, options, expected):
    with pytest.raises(ValueError) as caught:
        read(folder, name, splits, **options)
    message = str(caught.value)
    assert re.search(expected, message), message
    assert "\n" not in message and len(message.replace(str(folder), "")) <= 400


NUMBERS = [0.5, 1, 2.25, -3, 1e3, 4]
VALIDATION = rows("label", [1, 2])


@pytest.mark.parametrize(
    ("train", "values"),
    [
        (rows("label", NUMBERS), NUMBERS),
        (tsv([" .5", "+1", "2.25", "-3", "1E3", "4."]), NUMBERS),
        (rows("label", ["0.50", "1.0", 2.25, "-3", "1e3", 4.0]), NUMBERS),
    ],
)
def test_numbers_are_read_in_each_spelling(tmp_path, train, values):
    found, _ = read(tmp_path, "regression", {"train": train, "validation": VALIDATION})
    assert found["train"].get("value") == values and found.label_names == ()


@pytest.mark.parametrize(
    ("train", "options", "expected"),
    [
        (tsv(["1", "3,5"]), {}, "train.tsv at line 3, column 'label': '3,5' is not a number: write numbers "
                                "with a decimal point"),
        (tsv(["1", "nan"]), {}, "line 3.*'nan' is not a number: leave it empty and set task.missing=drop"),
        (rows("label", [1, float("nan")]), {}, "line 2 has no value in column 'label'.*missing=drop"),
        (tsv(["1", "inf"]), {}, "'inf' is not a number: correct it"),
        (tsv(["1", "1e39"]), {}, "'1e39' is not a number"),
        (tsv(["1", "good"]), {}, "'good' is not a number: correct it, or choose another column"),
        (rows("label", [1, True]), {}, "'true' is not a number"),
        (rows("label", [1, [2, 3]]), {}, "it is a list, expected one number"),
        (rows("label", [1, {"a": 2}]), {}, "it is an object"),
        (rows("label", [2, 2, "2.0"]), {}, "train.jsonl has one value alone, 2, and a regression needs two"),
        (rows("label", [2]), {}, "one value alone"),
        (rows("score", [1, 2]), {}, "no column 'label'.*set task.label_column to one of 'text', 'score'"),
        (rows("label", [1, 2]), {"label_column": ""}, "must name columns"),
        (rows("label", [1, 2]), {"text_pair_column": "txet"}, "no column 'txet' .did you mean 'text'"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_named_with_its_line(tmp_path, train, options, expected):
    splits = {"train": train, "validation": VALIDATION}
    check_error(tmp_path, "regression", splits, options, expected)


def test_a_row_without_a_value_is_dropped_if_asked_and_a_test_split_may_have_none(tmp_path):
    splits = {"train": rows("label", [1, None, 2]), "validation": VALIDATION,
              "test": rows("label", [-1, -1])}  # fmt: skip
    found, said = read(tmp_path, "regression", splits, missing="drop")
    assert found["train"].get("value") == [1, 2] and found["test"].get("value") is None
    assert any("1 of 3 train rows" in line for line in said)


def test_a_column_of_real_numbers_as_classes_points_to_regression(tmp_path):
    train = rows("label", [i / 7 for i in range(30)])
    check_error(
        tmp_path, "classification", {"train": train}, {}, "set task.name=regression to predict"
    )


# ---- Several labels --------------------------------------------------------------------------------

SETS = [["b", "a"], [], ["a"], ["c"]]


@pytest.mark.parametrize(
    ("train", "options"),
    [
        (rows("label", SETS), {}),
        (rows("label", [["b", "a", "b "], [], [" a"], ["c"]]), {}),
        (tsv(["b; a", "[]", "a;", "c"]), {"label_separator": ";"}),
        (tsv(['["b", "a"]', "[]", '["a"]', '["c"]']), {}),
        (
            [{"text": t, "a": "ab"[0] in s and 1 or 0, "b": int("b" in s), "c": "c" in s} for t, s in zip(
                TEXTS, SETS, strict=False)],
            {"label_columns": ("a", "b", "c")},
        ),
    ],
)  # fmt: skip
def test_several_labels_are_read_from_lists_texts_and_columns(tmp_path, train, options):
    splits = {"train": train, "validation": train}
    found, _ = read(tmp_path, "multi_label", splits, **options)
    assert found.label_names == ("a", "b", "c")
    assert [sorted(each) for each in found["train"].get("labels")] == [sorted(s) for s in SETS]


@pytest.mark.parametrize(
    ("train", "options", "expected"),
    [
        (rows("label", [["a"], None]), {}, "line 2 has no value in column 'label'"),
        (rows("label", [["a"], ["b", None]]), {}, "line 2, .*list of labels has null, a blank or a list"),
        (tsv(["a", "['a', 'b']"]), {}, r"line 3, .*in brackets and not JSON: write \[\"a\", \"b\"\]"),
        (rows("label", [[], []]), {}, "train.jsonl has no label in its 2 rows"),
        (rows("label", [[f"id{i}"] for i in range(30)]), {}, "has 30 labels in 30 rows.*too many"),
        (rows("a", [1, 2]), {"label_columns": ("a",)}, "line 2, column 'a': '2' is neither 0 nor 1"),
        (rows("a", [1, [0]]), {"label_columns": ("a",)}, "it is a list, expected 0 or 1"),
        (rows("a", [1, 0]), {"label_columns": ("a", "toxic")},
         "no column 'toxic'.*set task.label_columns to"),
        (rows("a", [1, 0]), {"label_columns": ("a", "a")}, "expected different names of columns"),
        (rows("label", [["a"]]), {"positive_weights": (1.0, -2.0)}, "expected numbers over 0"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_read_are_named_with_their_line(tmp_path, train, options, expected):
    splits = {"train": train, "validation": train}
    check_error(tmp_path, "multi_label", splits, options, expected)


def test_a_label_that_train_lacks_is_an_error_and_one_without_examples_is_said(tmp_path):
    splits = {
        "train": rows("label", [["pos"], ["neg", "pos"]]),
        "validation": rows("label", [["poss"]]),
    }
    check_error(
        tmp_path, "multi_label", splits, {}, "validation.jsonl at line 1.*did you mean 'pos'"
    )
    train = [{"text": "x", "a": 1, "b": 0}, {"text": "y", "a": 0, "b": 0}]
    _, said = read(
        tmp_path, "multi_label", {"train": train, "validation": train}, label_columns=("a", "b")
    )
    assert any("no train example has the label 'b'" in line for line in said)


def test_single_labels_and_joined_labels_are_said(tmp_path):
    splits = {"train": rows("label", ["a", "b", "a,b"]), "validation": rows("label", ["a"])}
    _, said = read(tmp_path, "multi_label", splits)
    assert any("label_separator=','" in line for line in said)
    assert any("every train example has one label: set task.label_separator" in s for s in said)


# ---- Choices ---------------------------------------------------------------------------------------

FRUIT = ["apple", "pear", "plum"]


def questions(labels, choices=FRUIT, **more):
    return [{"question": f"q {i}", "choices": choices, "label": label, **more}
            for i, label in enumerate(labels)]  # fmt: skip


def columns(labels):
    return [{"question": f"q {i}", **dict(zip("xyz", FRUIT, strict=True)), "label": label}
            for i, label in enumerate(labels)]  # fmt: skip


@pytest.mark.parametrize(
    ("train", "options"),
    [
        (questions([0, 2, 1]), {}),
        (questions(["0", "2.0", "1"]), {}),
        (questions([1, 3, 2]), {}),
        (questions(["A", "C", "B"]), {}),
        (questions(["(a)", "c.", "b)"]), {}),
        (questions(["apple", " plum", "pear"]), {}),
        (columns(["x", "z", "y"]), {"choice_columns": ("x", "y", "z")}),
        (columns([0, 2, 1]), {"choice_columns": ("x", "y", "z")}),
        (questions([0, 2, 1], json_list := '["apple", "pear", "plum"]'), {}),
        (questions([1, 3, 2], json_list), {"label_form": "index_from_1"}),
    ],
)
def test_an_answer_is_an_index_a_letter_a_text_or_a_column(tmp_path, train, options):
    found, _ = read(tmp_path, "multiple_choice", {"train": train, "validation": train}, **options)
    assert found["train"].get("answer") == [0, 2, 1] == found["validation"].get("answer")
    assert found["train"].get("choices") == [FRUIT] * 3


def test_rows_may_have_different_numbers_of_choices(tmp_path):
    train = [
        {"question": "q", "x": "1 a", "y": "b", "z": "c", "label": 2},
        {"question": "r", "x": "1 a", "y": "b", "z": None, "label": 0},
    ]
    splits = {"train": train, "validation": train}
    found, _ = read(tmp_path, "multiple_choice", splits, choice_columns=("x", "y", "z"))
    assert found["train"].get("choices") == [["1 a", "b", "c"], ["1 a", "b"]]


@pytest.mark.parametrize(
    ("train", "options", "expected"),
    [
        (questions([0, 3, 1]), {}, "line 2 has the label '3', which names none of its 3 choices .read as"),
        (questions(["A", "E"]), {}, "'E', which names none of its 3 choices .read as letter"),
        (questions(["apple", "kiwi"]), {}, "'kiwi', which names none .* choices .read as text"),
        (questions([1, 2, 1]), {}, "labels such as '1' can be read as index or as index_from_1.*label_form"),
        (questions([0, 1], ["1", "0"]), {}, "can be read as index or as text"),
        (questions([0], ["one"]), {}, "it has 1 choices, expected at least two"),
        (questions([0], "one, two"), {}, "it is a text, expected a list of choices; .*task.choice_columns"),
        (questions([0], ["one", None]), {}, "list of choices has null"),
        (questions([[0]]), {}, "column 'label': it is a list of 1 labels"),
        (questions([None]), {}, "line 1 has no value in column 'label'"),
        (columns([0]), {"choice_columns": ("x", "w")}, "no column 'w'.*set task.choice_columns"),
        (columns([0]), {"choice_columns": ("x",)}, "names of at least two different columns"),
        ([{"question": "q", "x": "a", "y": "b", "z": "", "w": "c", "label": 0}],
         {"choice_columns": ("x", "y", "z", "w")}, "no choice in column 'z', and one in a later column"),
        (questions([0]), {"text_column": "qustion"}, "did you mean 'question'"),
    ],
)  # fmt: skip
def test_an_answer_that_names_no_choice_is_an_error(tmp_path, train, options, expected):
    splits = {"train": train, "validation": train}
    check_error(tmp_path, "multiple_choice", splits, options, expected)


def test_questions_are_copies_if_passage_and_choices_are_too(tmp_path):
    train = questions([0, 2, 1])
    other = questions([0, 1], ["nut", "fig"])
    _, said = read(tmp_path, "multiple_choice", {"train": train, "validation": other})
    assert not any("examples are in train" in line for line in said)
    _, said = read(tmp_path, "multiple_choice", {"train": train, "validation": train[:2]})
    assert any("2 of 2 validation examples are in train" in line for line in said)
