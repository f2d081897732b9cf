"""What word vectors are scored on: similarity and analogy files; a word is the mean of its pieces.

Two suites of tools/evaluate.py; NumPy and SciPy, from a table and its tokenizer alone.
"""

import re
import warnings
from collections import defaultdict

import numpy as np
import scipy.stats

from data.files import reading

_BLOCK = 512  # questions whose answers are looked for at once


class Words:
    """Words to unit vectors, by a tokenizer and the table float32[V, E] of its pieces."""

    def __init__(self, tokenizer, table: np.ndarray):
        self.tokenizer = tokenizer
        self.table = table
        self.special = tokenizer.special_ids()

    def pieces(self, words: list[str]) -> list[np.ndarray]:
        """The pieces of each word, as it stands within a text; none if one of them is unknown."""
        encoded = self.tokenizer.encode_batch([f" {word}" for word in words])
        unknown = self.special["unk"]
        return [
            p[:0] if (p == unknown).any() or (p >= len(self.table)).any() else p for p in encoded
        ]

    def vectors(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(float32[n, E], bool[n]): the mean of each word's pieces, scaled to length 1; 0 and False
        for a word that is out of vocabulary, or whose vector is 0."""
        out = np.zeros((len(words), self.table.shape[1]), np.float32)
        for row, pieces in zip(out, self.pieces(words), strict=True):
            if len(pieces):
                row += self.table[pieces].mean(0)
        return _unit(out)

    def candidates(self, words: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
        """(unit vectors [C, E], the row of each word or -1, C) to search answers of analogies in: the
        whole vocabulary where pieces are words; else the file's own words, of which pieces can make
        without end."""
        if not self.tokenizer.whole_words:
            unit, known = self.vectors(words)
            return unit, np.where(known, np.arange(len(words)), -1), len(words)
        real = np.zeros(len(self.table), bool)
        for low, high in self.special["ordinary"]:
            real[low:high] = True
        unit, known = _unit(np.where(real[:, None], self.table, np.float32(0)))
        found = [int(p[0]) if len(p) == 1 and known[p[0]] else -1 for p in self.pieces(words)]
        return unit, np.array(found, np.int64), int(known.sum())


def _unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = np.linalg.norm(vectors, axis=1)
    known = length > 0
    return vectors / np.where(known, length, 1)[:, None].astype(np.float32), known


def similarity(words: Words, path: str) -> list[dict]:
    """Spearman's correlation of cosines with people's judgements (WordSim-353, SimLex-999, ...).

    A pair out of vocabulary is left out and counted.
    """
    pairs = read_pairs(path)
    first, known = words.vectors([a for a, _, _ in pairs])
    second, known_too = words.vectors([b for _, b, _ in pairs])
    both = known & known_too
    judged = np.array([score for _, _, score in pairs])[both]
    cosines = (first * second).sum(1)[both]
    if min(len(np.unique(judged)), len(np.unique(cosines))) < 2:
        raise ValueError(
            f"{path}: {both.sum()} of {len(pairs)} pairs are in the vocabulary, too few, or too much "
            "alike, to correlate: expected words that the vectors were trained on"
        )
    with warnings.catch_warnings():  # of a p-value that few pairs make imprecise; it is not used
        warnings.simplefilter("ignore")
        spearman = float(scipy.stats.spearmanr(cosines, judged).statistic)
    return [{"pairs": len(pairs), "out_of_vocabulary": int((~both).sum()), "spearman": spearman}]


def analogy(words: Words, path: str) -> list[dict]:
    """a is to b as c is to d: the share of d that 3CosAdd finds, cos(x, b - a + c) without a, b, c
    (Mikolov et al. 2013, NAACL; Levy & Goldberg 2014), by section, and of all.

    A question with a word out of vocabulary is left out and counted.
    """
    sections = read_questions(path)
    names = sorted({word for questions in sections.values() for four in questions for word in four})
    unit, rows, size = words.candidates(names)
    row_of = dict(zip(names, rows.tolist(), strict=True))
    report = []
    for section, questions in sections.items():
        numbers = np.array([[row_of[word] for word in four] for four in questions], np.int64)
        asked = numbers[(numbers >= 0).all(1)]
        right = sum(_right(unit, asked[i : i + _BLOCK]) for i in range(0, len(asked), _BLOCK))
        report.append(_section(section, len(questions), len(asked), right))
    total = {key: sum(line[key] for line in report) for key in ("questions", "asked", "right")}
    return [*report, _section("all", *total.values()) | {"candidates": size}]


def _section(name, questions, asked, right):
    return {
        "section": name, "questions": questions, "out_of_vocabulary": questions - asked,
        "asked": asked, "right": int(right), "accuracy": right / asked if asked else 0.0,
    }  # fmt: skip


def _right(unit, asked):
    a, b, c, d = asked.T
    scores = (unit[b] - unit[a] + unit[c]) @ unit.T
    place = np.arange(len(asked))
    for excluded in (a, b, c):
        scores[place, excluded] = -np.inf
    return int((scores.argmax(1) == d).sum())


def read_pairs(path: str) -> list[tuple[str, str, float]]:
    """(word, word, score) of each line; tabs, commas or blanks between, a first line of names or not."""
    pairs = []
    for number, line in _lines(path):
        separator = next((s for s in ("\t", ",") if s in line), None)
        fields = [field.strip() for field in line.split(separator)]
        if len(fields) != 3 or not fields[0] or not fields[1]:
            raise ValueError(
                f"{path}:{number} has {len(fields)} fields ({line[:60]!r}): expected word1, word2, "
                "score, with tabs, commas or blanks between them"
            )
        try:
            score = float(fields[2])
        except ValueError:
            if not pairs and number == 1:
                continue
            raise ValueError(
                f"{path}:{number}: {fields[2]!r} is not a score: expected a number behind two words"
            ) from None
        if not np.isfinite(score):
            raise ValueError(
                f"{path}:{number}: the score {fields[2]!r} is not finite: leave it out"
            )
        pairs.append((fields[0], fields[1], score))
    if not pairs:
        raise ValueError(f"{path} holds no pair: expected lines of word1, word2, score")
    return pairs


def read_questions(path: str) -> dict[str, list[tuple[str, ...]]]:
    """{section: its questions, four words each} of a file like word2vec's questions-words.txt."""
    sections, name = defaultdict(list), "questions"
    for number, line in _lines(path):
        if line.startswith(":"):
            name = line[1:].strip() or name
            continue
        four = tuple(re.split(r"\s+", line))
        if len(four) != 4:
            raise ValueError(
                f"{path}:{number} has {len(four)} words ({line[:60]!r}): expected four, or ': ' and "
                "the name of a section"
            )
        sections[name].append(four)
    if not sections:
        raise ValueError(f"{path} holds no question: expected lines of four words")
    return dict(sections)


def _lines(path):
    with reading(path) as (stream, _):
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number} is not UTF-8 ({error.reason}): convert the file"
                ) from error
            if text:
                yield number, text
