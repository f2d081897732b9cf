"""The suites: items of files, results of given scores, and summaries, counted by hand."""

import json
import lzma
import math

import numpy as np
import pytest

from evaluation import SUITES
from evaluation.items import standard_error
from evaluation.scorer import TokenScores
from tools import evaluate, score_chart

OPTIONS = {"fields": {}, "delimiter": " ", "can_be_greedy": True, "scoring": "auto",
           "separator": "blank_line", "text_field": "text"}  # fmt: skip


def write(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def items_of(suite, path, **options):
    return SUITES[suite].items(path, OPTIONS | options, print)


def scores(*values, greedy=True, start=0):
    """TokenScores of each list of log-probabilities."""
    return [
        TokenScores(np.array(each, float), np.full(len(each), greedy), start) for each in values
    ]


def result(suite, item, *values, **options):
    return SUITES[suite].result(item, scores(*values, **options))


def pairs(path, kinds):
    rows = [
        {"sentence_good": f"good {n}", "sentence_bad": f"bad {n}", "UID": uid, "linguistics_term": term}
        for n, (uid, term) in enumerate(kinds)
    ]  # fmt: skip
    return items_of("minimal_pairs", write(path, rows))


def test_pairs_are_whole_sentences_and_ties_count_half(tmp_path):
    kinds = [("a", "x"), ("a", "x"), ("b", "x"), ("c", "y"), ("c", "y"), ("c", "y")]
    items = pairs(tmp_path / "blimp.jsonl", kinds)
    assert items[1].requests == (("", "good 1"), ("", "bad 1"))
    given = [
        ((-1,), (-2,)),
        ((-2,), (-1,)),
        ((-1, -1), (-2,)),
        ((-1,), (-3,)),
        ((-1,), (-3,)),
        ((-3,), (-1,)),
    ]
    results = [
        {"file": "blimp.jsonl", **result("minimal_pairs", item, *each)}
        for item, each in zip(items, given, strict=True)
    ]
    assert [each["correct"] for each in results] == [1, 0, 0.5, 1, 1, 0]
    found = SUITES["minimal_pairs"].summarize(results)
    accuracy = {row["paradigm"]: row["accuracy"] for row in found.tables[0][1]}
    assert accuracy == {"a": 0.5, "b": 0.5, "c": pytest.approx(2 / 3)}
    assert {row["phenomenon"]: row["accuracy"] for row in found.tables[1][1]} == {
        "x": 0.5, "y": pytest.approx(2 / 3),
    }  # fmt: skip
    assert found.metrics["macro"] == pytest.approx((0.5 + 0.5 + 2 / 3) / 3)
    assert found.metrics["micro"] == pytest.approx(3.5 / 6) and found.metrics["ties"] == 1
    assert found.metrics["stderr"] == pytest.approx(np.std([1, 0, 0.5, 1, 1, 0], ddof=1) / 6**0.5)
    assert found.bars["x"]["accuracy"][0] == 0.5 and "files" not in found.metrics
    results[0]["file"] = results[1]["file"] = "other.jsonl"
    found = SUITES["minimal_pairs"].summarize(results)
    assert found.metrics["files"] == {
        "other.jsonl": 0.5,
        "blimp.jsonl": pytest.approx((0.5 + 2 / 3) / 2),
    }


def test_the_supplement_is_grouped_by_file_and_fields_have_other_names(tmp_path):
    rows = [{"sentence_good": "a b", "sentence_bad": "b a", "contrast": "order"}]
    (item,) = items_of("minimal_pairs", write(tmp_path / "turn_taking.jsonl", rows))
    assert item.record == {"row": 1, "paradigm": "turn_taking", "phenomenon": "turn_taking"}
    rows = [{"yes": "a b", "no": "b a", "kind": "order"}]
    renamed = {"good": "yes", "bad": "no", "phenomenon": "kind"}
    path = write(tmp_path / "other.jsonl", rows)
    (item,) = items_of("minimal_pairs", path, fields=renamed)
    assert item.requests[0] == ("", "a b") and item.record["phenomenon"] == "order"


def test_choices_are_compared_by_sum_per_token_and_per_byte(tmp_path):
    rows = [{"query": "the stone", "choices": ["is é", "of light water", "it"], "gold": 1}]
    (item,) = items_of("multiple_choice", write(tmp_path / "x.jsonl", rows))
    assert item.requests[0] == ("the stone", " is é") and item.record["bytes"] == [5, 14, 2]
    found = result("multiple_choice", item, [-2.0], [-1.0, -1.0, -1.0], [-4.0])
    assert [found[key] for key in ("sum", "per_token", "per_byte")] == [0, 1, 1]
    assert found["scores"] == [-2, -3, -4] and found["tokens"] == [1, 3, 1]


def test_equal_choices_share_an_item(tmp_path):
    rows = [{"query": "", "choices": ["a", "b", "c"], "gold": 0}]
    (item,) = items_of("multiple_choice", write(tmp_path / "x.jsonl", rows))
    assert item.requests[0] == ("", "a")
    assert result("multiple_choice", item, [-1.0], [-1.0], [-2.0])["sum"] == 0.5
    assert result("multiple_choice", item, [-2.0], [-1.0], [-1.0])["sum"] == 0
    assert result("multiple_choice", item, [-1.0], [-1.0], [-1.0])["sum"] == pytest.approx(1 / 3)


def test_contexts_are_choices_of_the_same_continuation(tmp_path):
    rows = [{"context_options": ["the stone", "the light"], "continuation": "is it.", "gold": 0}]
    (item,) = items_of("multiple_choice", write(tmp_path / "wsc.jsonl", rows))
    assert item.requests == (("the stone", " is it."), ("the light", " is it."))


def test_a_delimiter_is_between_context_and_continuation(tmp_path):
    rows = [{"query": "Question: x", "choices": ["a", "b"], "gold": 0}]
    path = write(tmp_path / "x.jsonl", rows)
    (item,) = items_of("multiple_choice", path, delimiter="\nAnswer: ")
    assert item.requests[1] == ("Question: x", "\nAnswer: b")


def test_lambada_is_exact_greedy_match_and_perplexity(tmp_path):
    rows = [
        {"context": "the stone of", "continuation": "light"},
        {"context": "a", "continuation": "b"},
    ]
    first, second = items_of("multiple_choice", write(tmp_path / "lambada.jsonl", rows))
    results = [
        {"file": "lambada.jsonl", **result("multiple_choice", first, [-1.0, -1.0])},
        {"file": "lambada.jsonl", **result("multiple_choice", second, [-4.0], greedy=False)},
    ]
    found = SUITES["multiple_choice"].summarize(results)
    assert found.metrics["lambada.jsonl"]["greedy"] == 0.5
    assert found.metrics["lambada.jsonl"]["perplexity"] == pytest.approx(math.exp(3))


def test_several_files_have_a_row_each_with_chance_and_standard_error(tmp_path):
    results = []
    for name, gold in (("a", (0, 0, 1)), ("b", (1, 1))):
        rows = [{"query": "x", "choices": ["a", "b"], "gold": each} for each in gold]
        for item in items_of("multiple_choice", write(tmp_path / f"{name}.jsonl", rows)):
            results.append({"file": name, **result("multiple_choice", item, [-1.0], [-2.0])})
    metrics = SUITES["multiple_choice"].summarize(results).metrics
    assert metrics["a"]["sum"] == pytest.approx(2 / 3) and metrics["b"]["sum"] == 0
    assert metrics["a"]["sum_stderr"] == pytest.approx(standard_error([1, 1, 0]))
    assert metrics["a"]["chance"] == 0.5


def test_bits_per_byte_have_nats_and_bytes_of_the_same_tokens(tmp_path):
    path = tmp_path / "x.txt.xz"
    with lzma.open(path, "wt", encoding="utf-8") as stream:
        stream.write("the café of stone\n\nlight water\n")
    items = items_of("perplexity", str(path))
    assert [item.requests[0][1] for item in items] == ["the café of stone\n", "light water\n"]
    results = [
        {"file": "x", **result("perplexity", items[0], [np.nan, -1.0, -2.0], start=3)},
        {"file": "x", **result("perplexity", items[1], [-3.0])},
    ]
    assert [(each["tokens"], each["words"], each["bytes"]) for each in results] == [
        (2, 3, 16),
        (1, 2, 12),
    ]
    found = SUITES["perplexity"].summarize(results).metrics["x"]
    assert found["bits_per_byte"] == pytest.approx(6 / math.log(2) / 28)
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert found["word_perplexity"] == pytest.approx(math.exp(6 / 5))


def test_a_document_without_a_scored_token_counts_nothing(tmp_path):
    (item,) = items_of("perplexity", write(tmp_path / "x.txt", ["a"]))
    assert result("perplexity", item, [np.nan], start=1) == {
        "row": 1, "nats": 0.0, "tokens": 0, "words": 0, "bytes": 0,
    }  # fmt: skip
    nothing = {
        "file": "x",
        "nats": 0.0,
        "log_prob": 0.0,
        "greedy": 0.0,
        "tokens": 0,
        "words": 0,
        "bytes": 0,
    }
    for suite in ("perplexity", "multiple_choice"):
        summary = SUITES[suite].summarize([nothing])
        assert summary.metrics["x"].keys().isdisjoint(("perplexity", "bits_per_byte"))
        score_chart.write(str(tmp_path / "x.svg"), summary, "x")


@pytest.mark.parametrize(
    ("separator", "count"), [("blank_line", 2), ("line", 3), ("file", 1)]
)  # fmt: skip
def test_documents_are_divided_by_the_separator(tmp_path, separator, count):
    path = write(tmp_path / "x.txt", ["one", "two", "", "three"])
    assert len(items_of("perplexity", path, separator=separator)) == count


def test_the_flags_name_every_suite():
    assert list(evaluate.TEXT) == list(SUITES)


GOOD = {"sentence_good": "a b", "sentence_bad": "b a"}
CHOICE = {"query": "x", "choices": ["a", "b"], "gold": 0}
LONG = "word " * 100_000


@pytest.mark.parametrize(
    ("suite", "rows", "options", "message"),
    [
        ("minimal_pairs", [{"good": "a"}], {}, "x.jsonl has no column 'sentence_good'.*--field good=NAME"),
        ("minimal_pairs", [GOOD, {"sentence_good": "a"}], {}, "line 2 has no value in field 'sentence_bad'"),
        ("minimal_pairs", [GOOD, {**GOOD, "sentence_bad": " "}], {}, "at line 2 has no value in field"),
        ("minimal_pairs", [{**GOOD, "sentence_good": ["a"]}], {}, "at line 1 has .*expected a text"),
        ("minimal_pairs", ["not json"], {}, "x.jsonl is not JSON at line 1"),
        ("minimal_pairs", ['"a"'], {}, "x.jsonl has no object at line 1"),
        ("minimal_pairs", [""], {}, "x.jsonl is empty"),
        ("minimal_pairs", [GOOD], {"fields": {"paradigm": "kind"}}, "no column 'kind'.*--field paradigm="),
        ("multiple_choice", [{**CHOICE, "gold": 2}], {}, "at line 1 has gold='2'.*0 to 1"),
        ("multiple_choice", [CHOICE, {**CHOICE, "gold": -1}], {}, "at line 2 has gold='-1'"),
        ("multiple_choice", [{**CHOICE, "gold": None}], {}, "at line 1 has gold=''"),
        ("multiple_choice", [{**CHOICE, "gold": 0.5}], {}, "at line 1 has gold='0.5'"),
        ("multiple_choice", [{**CHOICE, "choices": ["a"]}], {}, "1 entry in choices: expected at least two"),
        ("multiple_choice", [{**CHOICE, "choices": []}], {}, "has 0 entries in choices"),
        ("multiple_choice", [{**CHOICE, "choices": "ab"}], {}, "expected a list of texts"),
        ("multiple_choice", [{**CHOICE, "choices": ["a", None]}], {}, "has no text in entry 1 of choices"),
        ("multiple_choice", [{**CHOICE, "choices": ["a", " "]}], {}, "has no text in entry 1 of choices"),
        ("multiple_choice", [{"question": "x"}], {}, "multiple_choice .*--field ROLE=NAME"),
        ("multiple_choice", [{"context": "x", "continuation": ""}], {}, "at line 1 has no continuation"),
        ("multiple_choice", [{"context": "x", "continuation": "y"}],
         {"can_be_greedy": False, "scoring": "pll"}, "--scoring=pll does not generate: use a decoder"),
        ("perplexity", ["", " "], {}, "has no text"),
        ("perplexity", [GOOD], {}, "x.jsonl line 1 has no 'text'.*set --text_field"),
    ],
)  # fmt: skip
def test_a_bad_row_is_an_error_of_one_line_that_names_it(tmp_path, suite, rows, options, message):
    name = "x.txt" if rows == ["", " "] else "x.jsonl"
    with pytest.raises(ValueError, match=message) as caught:
        items_of(suite, write(tmp_path / name, rows), **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400


@pytest.mark.parametrize("suite", SUITES)
def test_bytes_that_are_not_utf8_are_an_error_with_their_line(tmp_path, suite):
    path = tmp_path / ("x.txt" if suite == "perplexity" else "x.jsonl")
    path.write_bytes(b'{"sentence_good": "a",\n "query": "\xe9t\xe9"}\n')
    if suite == "perplexity":
        path.write_bytes(b"first line\nsecond \xe9 line\n")
    with pytest.raises(ValueError, match="is not UTF-8 at byte|is not JSON at line 1"):
        items_of(suite, str(path))


def test_texts_of_any_length_are_read(tmp_path):
    path = write(tmp_path / "x.jsonl", [{**GOOD, "sentence_good": LONG}])
    (item,) = items_of("minimal_pairs", path)
    assert item.requests[0][1] == LONG
