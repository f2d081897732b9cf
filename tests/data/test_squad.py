"""SQuAD's files and other forms of questions and answers, and the places of answers."""

import json
import re

import numpy as np
import pytest

from data import squad
from tasks.question_answering import QuestionAnswering

CONTEXT = "The tower is in Paris. Paris is in France."


def article(*questions, context=CONTEXT):
    return {"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}


def question(answers=(("Paris", 16),), name="q", **fields):
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "where?", "answers": answers, **fields}


def row(answers="Paris", starts=16, **fields):
    fields = {"question": "where?", "context": CONTEXT, "answers": answers, **fields}
    return fields if starts is None else {**fields, "answer_starts": starts}


def lines(*rows):
    return "".join(json.dumps(each) + "\n" for each in rows)


def data(*articles):
    return json.dumps({"version": "1.1", "data": list(articles)})


def read(folder, files, log=None, **options):
    """{split: Examples} of {file: content}, which needs a validation file."""
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return QuestionAnswering(source=f"files:{folder}/*", **options).read(log or (lambda line: None))


DEV = {"dev.jsonl": lines(row())}


def test_a_squad_file_has_a_question_per_row(tmp_path):
    first = article(
        question(name="a"), question((("France", 35), ("in France", 32)), "b"), context=CONTEXT
    )
    no_answer = {"id": "c", "question": "who?", "answers": [], "is_impossible": True}
    second = article(no_answer, context="Tom\u00e9 e\u0301t\u00e9 \U0001f600 x")
    found = read(tmp_path, {"train-v2.0.json": data(first, second), **DEV}, no_answer=True)["train"]
    assert found.get("id") == ["a", "b", "c"]
    assert found.get("answers") == [[("Paris", 16)], [("France", 35), ("in France", 32)], []]
    assert found.get("context")[1:] == [CONTEXT, "Tom\u00e9 e\u0301t\u00e9 \U0001f600 x"]
    assert str(found.places[2]).endswith("train-v2.0.json at question 3")


TWO = [("Paris", 16), ("France", 35)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (row("France", 35), TWO[1:]),
        (row("France", None), TWO[1:]),  # the first place where it occurs
        (row(["Paris", "France"], [16, 35]), TWO),
        (row(["Paris", "France"], ["16", 35.0]), TWO),
        (row(["Paris"], [23]), [("Paris", 23)]),
        (row({"text": ["Paris", "France"], "answer_start": [16, 35]}, None), TWO),
        (row({"text": "Paris", "answer_start": 16}, None), TWO[:1]),
        (row([{"text": "Paris", "answer_start": 16}], None), TWO[:1]),
        (row("France", 36), TWO[1:]),  # it occurs once
        (row("France", -1), TWO[1:]),
    ],
)
def test_answers_in_each_of_their_forms(tmp_path, fields, expected):
    found = read(tmp_path, {"train.jsonl": lines(fields), **DEV})["train"]
    assert found.get("answers") == [expected]


def test_answers_are_read_from_tables_and_by_the_names_of_columns(tmp_path):
    text = f'Q,C,A,S\n"where, now?","{CONTEXT}",Paris,16\n'
    names = {"question_column": "Q", "context_column": "C", "answers_column": "A",
             "answer_starts_column": "S"}  # fmt: skip
    found = read(tmp_path, {"train.csv": text, "dev.csv": text}, **names)["train"]
    assert found.get("answers") == [[("Paris", 16)]] and found.get("question") == ["where, now?"]
    assert found.get("id") == ["0"]


def test_moved_and_guessed_answers_are_counted_in_a_warning(tmp_path):
    log = []
    train = lines(row("France", 3), row("Paris", None), row("Paris", 23))
    read(tmp_path, {"train.jsonl": train, **DEV}, log.append)
    assert any(re.search("1 of 3 train answers are not at their start", line) for line in log)
    assert any(re.search("1 of 3 train answers have no start", line) for line in log)


def test_starts_count_characters_and_not_utf_16_units(tmp_path):
    context, log = "\U0001f600 a\u0301 Paris", []
    files = {"train.jsonl": lines(row("Paris", 6, context=context)), **DEV}  # 5 in characters
    found = read(tmp_path, files, log.append)["train"]
    assert found.get("answers") == [[("Paris", 5)]]
    assert any("not bytes or UTF-16 units" in line for line in log)


def test_a_test_split_without_answers_is_unlabeled(tmp_path):
    for empty in ({"text": [], "answer_start": []}, [], None):
        files = {"train.jsonl": lines(row()), **DEV, "test.jsonl": lines(row(empty, None))}
        assert read(tmp_path, files)["test"].get("answers") is None


def test_validation_questions_are_taken_with_all_of_their_context(tmp_path):
    rows = [row("x", 0, context=f"x {n // 3}", question=f"q{n}") for n in range(90)]
    splits = read(tmp_path, {"train.jsonl": lines(*rows)})
    contexts = {name: set(splits[name].get("context")) for name in ("train", "validation")}
    assert not contexts["train"] & contexts["validation"] and len(splits["validation"]) == 9


def test_tfds_questions_have_their_answers_and_starts(tmp_path):
    import tensorflow_datasets as tfds

    class SmallSquad(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}

        def _info(self):
            text, number = tfds.features.Text(), tfds.features.Scalar(np.int32)
            answers = tfds.features.Sequence({"text": text, "answer_start": number})
            features = {"id": text, "context": text, "question": text, "answers": answers}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(s) for s in ("train", "validation")}

        def _generate_examples(self, split):
            yield 0, {"id": "a", "context": CONTEXT, "question": "where?",
                      "answers": {"text": ["Paris", "France"], "answer_start": [16, 35]}}  # fmt: skip
            yield 1, {"id": "b", "context": CONTEXT, "question": "who?",
                      "answers": {"text": [], "answer_start": []}}  # fmt: skip

    builder = SmallSquad(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_dir=tmp_path / "downloads")
    source = f"tfds:{builder.data_path}"
    found = QuestionAnswering(source=source, no_answer=True).read()
    assert found["train"].get("answers") == [TWO, []]
    with pytest.raises(ValueError, match=r"record 1, column 'answers': it has no answer"):
        QuestionAnswering(source=source).read()


PARIS = data(article(question()))
BAD = {  # files, options of the task, the message
    "an answer that is not in its context": (
        {"train.json": data(article(question((("London", 3),))))}, {},
        "train.json at question 1: the answer 'London' does not occur in its context: correct the",
    ),
    "a start that is wrong, and several places": (
        {"train.json": data(article(question((("Paris", 17),))))}, {},
        "'Paris' is not at its start, 17, and occurs in its context more than once: correct the start",
    ),
    "a negative start, and several places": (
        {"train.jsonl": lines(row("Paris", -1))}, {}, "line 1: the answer 'Paris' is not at its start, -1"
    ),
    "a start that is a word": (
        {"train.jsonl": lines(row("Paris", "sixteen"))}, {},
        "line 1, column 'answer_starts': the start 'sixteen' of an answer is not a whole number",
    ),
    "a start that is a fraction": ({"train.jsonl": lines(row("Paris", 1.5))}, {}, "'1.5' of an answer is"),
    "a start that is a word, in SQuAD's form": (
        {"train.json": data(article(question((("Paris", "x"),))))}, {}, "the start 'x' of an answer is not"
    ),
    "fewer starts than answers": (
        {"train.jsonl": lines(row(["Paris", "France"], [16]))}, {},
        "line 1: there are 2 answers and 1 starts: expected one start per answer",
    ),
    "no answer in version 1.1": (
        {"train.json": data(article(question()), article(question(())))}, {},
        "train.json at question 2, column 'answers': it has no answer: .*task.no_answer=True",
    ),
    "an answer of white space": (
        {"train.jsonl": lines(row([" "], [3]))}, {}, "the answer ' ' is no text: correct it"
    ),
    "an answer that is null": (
        {"train.jsonl": lines(row(), row(None, None))}, {}, "line 2 has no value in column 'answers'"
    ),
    "an answer that is a list": ({"train.jsonl": lines(row([["Paris"]], None))}, {}, "is no text"),
    "a context without text": (
        {"train.json": data(article(question(), context=" "))}, {}, "no value in column 'context'"
    ),
    "a context that is an object": (
        {"train.jsonl": lines(row(context={"a": 1}))}, {}, "column 'context': it is an object"
    ),
    "half a surrogate pair in an answer": (
        {"train.jsonl": lines(row({"text": ["\ud83d"], "answer_start": [0]}, None))}, {},
        "half of a surrogate pair",
    ),
    "the same id twice": (
        {"train.json": PARIS, "dev.json": data(article(question(), question()))}, {},
        r"dev.json at question 2 has the id 'q' of .*dev.json at question 1: .*task.id_column=''",
    ),
    "an id that is missing": (
        {"train.json": PARIS, "dev.json": data(article(question(), question(name=None)))}, {},
        "dev.json at question 2 has no id: add it, or set task.id_column=''",
    ),
    "no column of answers": (
        {"train.jsonl": lines({"question": "a", "context": "b"})}, {}, "no column 'answers'.*answers_column"
    ),
    "another column of a SQuAD file": (
        {"train.json": PARIS}, {"context_column": "passage"}, "no column 'passage'.*task.context_column"
    ),
    "a column without a name": ({"train.json": PARIS}, {"answers_column": ""}, "must name columns, not ''"),
    "an article without paragraphs": (
        {"train.json": data(article(question()), {"title": "x"})}, {},
        r"train.json: article 2 has no 'paragraphs': expected \{'paragraphs'",
    ),
    "an article of another form": (
        {"train.json": data(article(question()), article("x"))}, {}, "article 2 has another form"
    ),
    "no article": ({"train.json": json.dumps({"data": []})}, {}, "is none of .tsv"),
    "a truncated file": ({"train.json": PARIS[:-9]}, {}, "train.json is not JSON at line 1"),
    "options of tables": ({"train.json": PARIS}, {"delimiter": ";"}, "delimiter is of TSV and CSV files"),
    "one row": ({"train.json": PARIS}, {}, "train has one distinct text, which cannot be split"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_question_is_an_error_of_one_line(name, tmp_path):
    files, options, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, files, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400 + len(str(tmp_path)) * 2


def test_rows_without_an_answer_are_dropped_if_asked(tmp_path):
    files = {"train.jsonl": lines(row(), row([], []), row(None, None)), **DEV}
    assert len(read(tmp_path, files, missing="drop")["train"]) == 1


def test_ids_can_be_numbers_of_the_rows(tmp_path):
    twice = data(article(question(), question()))
    splits = read(tmp_path, {"train.json": PARIS, "dev.json": twice}, id_column="")
    assert splits["validation"].get("id") == ["0", "1"]


def test_a_json_file_of_another_kind_is_none_of_ours(tmp_path):
    assert not squad.is_squad([]) and not squad.is_squad({"data": [{"x": 1}]})
    with pytest.raises(ValueError, match="write one object per line"):
        read(tmp_path, {"train.json": json.dumps([row()])})
    with pytest.raises(ValueError, match="write one object per line"):
        read(tmp_path, {"train.json": lines(row(), row())})
