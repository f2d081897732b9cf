"""Scores of tags: cases of conlleval worked by hand, and random tags against its definition of a chunk."""

import numpy as np
import pytest

from data import tag_schemes
from tasks import tag_scores

# (gold, predicted, right, predicted, in gold): numbers of entities.
CASES = {
    "half of the entities": ("B-PER I-PER O B-LOC", "B-PER I-PER O O", 1, 1, 2),
    "all": ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", 2, 2, 2),
    "a wrong end": ("B-PER I-PER I-PER O", "B-PER I-PER O O", 0, 1, 1),
    "a wrong start": ("B-PER I-PER I-PER O", "O B-PER I-PER O", 0, 1, 1),
    "a wrong type": ("B-PER I-PER", "B-LOC I-LOC", 0, 1, 1),
    "I- after O begins an entity": ("O I-PER I-PER", "O B-PER I-PER", 1, 1, 1),
    "I- of another type begins one": ("B-PER I-LOC", "B-PER B-LOC", 2, 2, 2),
    "two neighbors are not one": ("B-PER B-PER", "B-PER I-PER", 0, 1, 2),
    "IOB1: B- only between neighbors": ("I-PER B-PER O I-LOC", "B-PER B-PER O B-LOC", 3, 3, 3),
    "entities in BIOES": ("B-PER E-PER O S-LOC", "B-PER E-PER O S-PER", 1, 2, 2),
    "I- where E- should be": ("B-PER E-PER S-LOC", "B-PER I-PER S-LOC", 2, 2, 2),
    "S- is an entity of one word": ("S-PER S-PER", "S-PER I-PER", 2, 2, 2),
    "B- after S-": ("S-PER B-PER E-PER", "S-PER B-PER E-PER", 2, 2, 2),
    "E- alone": ("O E-PER O", "O S-PER O", 1, 1, 1),
    "BILOU": ("B-PER L-PER U-LOC", "B-PER L-PER O", 1, 1, 2),
    "BMES": ("B-PER M-PER E-PER", "B-PER M-PER E-PER", 1, 1, 1),
    "no type": ("B I O B", "B I O O", 1, 1, 2),
    "types with a hyphen": ("B-work-of-art I-work-of-art", "B-work-of-art I-work-of-art", 1, 1, 1),
    "no prediction": ("B-PER O", "O O", 0, 0, 1),
    "no entity": ("O O", "B-PER O", 0, 1, 0),
    "nothing at all": ("O O", "O O", 0, 0, 0),
}


def numbers(right, predicted, gold):
    """(precision, recall, F1) as conlleval divides."""
    precision, recall = right / max(predicted, 1), right / max(gold, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_conlleval_by_hand(case):
    gold, predicted, *counts = case
    gold, predicted = gold.split(), predicted.split()
    found = tag_scores.score([gold], [predicted], "bioes")
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx(numbers(*counts))
    hits = sum(a == b for a, b in zip(gold, predicted, strict=True))
    assert found["accuracy"] == hits / len(gold)


def test_an_entity_ends_with_its_sentence():
    gold, predicted = [["O", "B-PER"], ["I-PER", "O"]], [["O", "B-PER"], ["O", "O"]]
    found = tag_scores.score(gold, predicted, "bio")
    assert (found["precision"], found["recall"]) == (1.0, 0.5)
    assert tag_scores.entities_of(["I-X", "I-X", "O", "B-Y"]) == [("X", 0, 1), ("Y", 3, 3)]


def chunks(tags):
    """{(type, first, last)} by the definition in conlleval: a chunk starts at B and S, after O, E and S,
    and where the type changes; it ends before the next start, or O."""
    found, start = set(), None
    tags = ["O", *tags, "O"]
    for i in range(1, len(tags)):
        (last, last_type), (letter, kind) = (tag.partition("-")[::2] for tag in tags[i - 1 : i + 1])
        begins = letter in "BS" or last in "OES" or last_type != kind
        if start is not None and (letter == "O" or begins):
            found.add((tags[start].partition("-")[2], start - 1, i - 2))
            start = None
        if letter != "O" and begins:
            start = i
    return found


@pytest.mark.parametrize("letters", ["BI", "BIES"])
def test_random_tags_are_scored_by_conllevals_definition(letters):
    random = np.random.default_rng(1)
    tags = ["O"] + [f"{letter}-{kind}" for letter in letters for kind in "XY"]
    sides = [[random.choice(tags, 6).tolist() for _ in range(300)] for _ in range(2)]
    for side in sides:
        side[0] = ["O"] * 6
    gold, predicted = ([chunks(each) for each in side] for side in sides)
    right = sum(len(a & b) for a, b in zip(gold, predicted, strict=True))
    expected = numbers(right, sum(map(len, predicted)), sum(map(len, gold)))
    found = tag_scores.score(*sides, tag_schemes.scheme_of(tags))
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx(expected)
    rows = {row["type"]: row for row in tag_scores.report(*sides, "bioes")}
    for kind in "XY":
        a, b = ([{e for e in each if e[0] == kind} for each in side] for side in (gold, predicted))
        right = sum(len(x & y) for x, y in zip(a, b, strict=True))
        expected = numbers(right, sum(map(len, b)), sum(map(len, a)))
        row = rows[kind]
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(expected)
        assert row["support"] == sum(map(len, a))


def test_plain_tags_are_scored_by_word():
    gold, predicted = [["NOUN", "VERB"], ["NOUN", "X"]], [["NOUN", "NOUN"], ["NOUN", "VERB"]]
    found = tag_scores.score(gold, predicted, "none")
    assert found == {"accuracy": 0.5, "macro_f1": pytest.approx((0.8 + 0 + 0) / 3)}
    rows = tag_scores.report(gold, predicted, "none")
    assert [row["type"] for row in rows] == ["NOUN", "VERB", "X"]
    assert (rows[0]["precision"], rows[0]["recall"], rows[0]["support"]) == (2 / 3, 1.0, 2)
    assert tag_scores.report([["O"]], [["O"]], "bio") == []


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(tag_scores.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"pip install -e \.\[metrics\].*task.scheme=none"
    ):
        tag_scores.check_installed()
