"""EM and F1 of SQuAD's scripts, by hand."""

import numpy as np
import pytest

from tasks.squad_metrics import exact_match, f1, normalize, scores, scores_with_no_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat.", "cat"),
        ("an Apple, a day", "apple day"),
        ("theater", "theater"),  # an article is a word
        ("U.S.", "us"),
        ("\u00a0x\u2003y\n", "x y"),  # white space of Unicode
        ("“quoted” — dash", "“quoted” — dash"),  # punctuation is ASCII's
        ("A", ""),
        ("the-end", "theend"),  # punctuation goes first
    ],
)
def test_answers_are_normalized(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "expected", "exact"),
    [
        ("Denver Broncos", "the Denver Broncos", 1.0, 1),
        ("Denver", "Denver Broncos", 2 * 1.0 * 0.5 / 1.5, 0),
        ("a b c", "b c d", 2 * (2 / 2) * (2 / 3) / (2 / 2 + 2 / 3), 0),  # "a" is an article
        ("x x y", "x y y", 2 / 3, 0),  # words are counted: x and y are common, once each
        ("", "x", 0.0, 0),
    ],
)
def test_f1_of_words_by_hand(prediction, answer, expected, exact):
    assert f1(prediction, answer) == pytest.approx(expected)
    assert f1(prediction, answer, no_answer=True) == pytest.approx(expected)
    assert exact_match(prediction, answer) == exact


def test_the_versions_differ_for_answers_without_words():
    assert exact_match("The", "a") == 1 and f1("The", "a") == 0 and f1("The", "a", True) == 1


def test_version_1_1_takes_the_best_of_the_answers():
    found = scores(["Denver", "blue", "x"], [["Denver Broncos", "Denver"], ["dark blue"], ["y"]])
    assert found == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 / 3 + 0) / 3)}


# Question: prediction, answers, odds of no answer.
ANSWERS = [["blue"], ["dark red"], [], [], ["the"]]
PREDICTIONS, ODDS = ["blue", "red", "x", "y", "z"], [-2.0, 0.5, -1.0, 3.0, 0.7]


def test_version_2_0_by_hand():
    """Threshold 0: questions 1, 3 and 4 are predicted to have no answer, which is right for 3 alone: 4 has
    an answer, though one without words."""
    found = scores_with_no_answer(PREDICTIONS, ANSWERS, ODDS, 0.0)
    assert found["exact_match"] == pytest.approx((1 + 0 + 0 + 1 + 0) / 5)
    assert found["f1"] == pytest.approx((1 + 0 + 0 + 1 + 0) / 5)
    assert found["HasAns_exact"] == pytest.approx(1 / 3) and found["NoAns_exact"] == 0.5
    # In the order of the odds: 0 (+1), 2 (-1), 1 (+2/3 of F1), 4 (0), 3 (-1); 2 without an answer at first.
    assert found["best_exact"] == pytest.approx(3 / 5) and found["best_exact_thresh"] == -2.0
    assert found["best_f1"] == pytest.approx(3 / 5) and found["best_f1_thresh"] == -2.0
    higher = scores_with_no_answer(PREDICTIONS, ANSWERS, ODDS, 0.6)
    assert higher["f1"] == pytest.approx((1 + 2 / 3 + 0 + 1 + 0) / 5)


def test_the_best_threshold_is_that_of_trying_them_all():
    random = np.random.default_rng(0)
    for _ in range(20):
        n = 12
        answers = [["w"] if random.random() < 0.5 else [] for _ in range(n)]
        predictions = [random.choice(["w", "v w", "v"]) for _ in range(n)]
        odds = random.permutation(n) - 5.0
        found = scores_with_no_answer(predictions, answers, odds, 0.0)
        for name, key in (("best_exact", "exact_match"), ("best_f1", "f1")):
            tried = {
                t: scores_with_no_answer(predictions, answers, odds, t)[key] for t in [-9.0, *odds]
            }
            assert found[name] == pytest.approx(max(tried.values()))
            if found[f"{name}_thresh"] in tried:
                assert tried[found[f"{name}_thresh"]] == pytest.approx(found[name])


def test_splits_with_or_without_answers_alone_have_no_score_of_the_other_group():
    assert "NoAns_f1" not in scores_with_no_answer(["x"], [["x"]], [0.0], 0.0)
    assert "HasAns_f1" not in scores_with_no_answer(["x"], [[]], [0.0], 0.0)
