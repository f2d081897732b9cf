"""Scores of generated texts, worked by hand."""

import math

import pytest

from tasks import generation_metrics
from tasks.generation_metrics import score


def test_bleu_is_the_geometric_mean_of_clipped_precisions():
    text = ["the cat sat on the mat"]
    scores, signatures = score(("bleu",), text, [["the cat sat on a mat"]])
    # 1-grams: 'the' occurs once in the reference, so 5 of 6; 2-grams 3 of 5; 3-grams 2 of 4; 4-grams 1 of 3.
    assert scores["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    # With a second reference: no more 1-grams, as neither has 'the' twice; all 2-grams, 'on the mat'.
    scores, signatures = score(("bleu",), text, [["the cat sat on a mat", "on the mat"]])
    assert scores["bleu"] == pytest.approx(100 * (5 / 6 * 1 * 3 / 4 * 1 / 3) ** 0.25)
    assert signatures["bleu"].startswith("nrefs:2|")


def test_bleu_adds_up_the_corpus_and_punishes_short_texts():
    texts, references = ["a b c d", "e f g h"], [["a b c d e f"], ["e f g h i j"]]
    # All n-grams are right, 8 tokens for 12: exp(1 - 12 / 8). The mean of two sentences is the same here,
    # so the second text is made whole: 10 tokens for 12.
    assert score(("bleu",), texts, references)[0]["bleu"] == pytest.approx(100 * math.exp(-0.5))
    texts[1] = "e f g h i j"
    assert score(("bleu",), texts, references)[0]["bleu"] == pytest.approx(100 * math.exp(-0.2))


def test_texts_may_have_different_numbers_of_references():
    texts, references = ["a b c d", "x y z w"], [["q", "a b c d"], ["x y z w"]]
    scores, signatures = score(("bleu", "exact_match"), texts, references)
    assert scores == pytest.approx({"bleu": 100.0, "exact_match": 100.0})
    assert signatures["bleu"].startswith("nrefs:var|")


def test_chrf_is_of_character_ngrams_with_recall_twice_as_important():
    # Of 'abcd' and 'abc': 3 of 4 and 3 of 3 characters, 2 of 3 and 2 of 2 pairs, 1 of 2 and 1 of 1 triples;
    # orders that one of them does not have do not count.
    precision, recall = (3 / 4 + 2 / 3 + 1 / 2) / 3, 1.0
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    scores, signatures = score(("chrf",), ["abcd"], [["abc"]])
    assert scores["chrf"] == pytest.approx(expected)
    assert "nc:6|nw:0" in signatures["chrf"]


def test_rouge_is_the_mean_f1_of_the_best_references():
    texts = ["the cat sat", "a dog"]
    references = [["the cat lay down"], ["no", "a dog"]]
    scores, signatures = score(("rouge",), texts, references)
    # First text: 2 of 3 words and 2 of 4; 1 of 2 pairs and 1 of 3; longest common subsequence 'the cat'.
    one, two = 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)
    expected = {"rouge1": 50 * (one + 1), "rouge2": 50 * (two + 1), "rougeL": 50 * (one + 1)}
    assert scores == pytest.approx(expected)
    assert "rouge-score" in signatures["rouge"]


def test_exact_match_is_of_any_reference_without_outer_blanks():
    scores, _ = score(("exact_match",), [" a b", "c", ""], [["a b "], ["C", "d"], ["e"]])
    assert scores == {"exact_match": pytest.approx(100 / 3)}


def test_empty_texts_have_scores():
    scores, _ = score(tuple(generation_metrics.METRICS), [""], [["a b"]])
    assert scores == dict.fromkeys(generation_metrics.METRIC_OF, 0.0)


def test_an_unknown_metric_and_a_missing_package_are_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"has 'meteor': expected some of bleu, chrf, rouge"):
        generation_metrics.check(("bleu", "meteor"))
    generation_metrics.check(tuple(generation_metrics.METRICS))
    monkeypatch.setattr(generation_metrics.importlib.util, "find_spec", lambda name: None)
    for metric, package in (("bleu", "sacrebleu"), ("rouge", "rouge-score")):
        message = rf"needs the package {package}: run `pip install -e .\[metrics\]`"
        with pytest.raises(ValueError, match=message):
            generation_metrics.check((metric,))
    generation_metrics.check(("exact_match",))
