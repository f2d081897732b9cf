"""Scores of word vectors on similarity and analogy files; the vector of a word is the mean of its tokens'.

Two suites of tools/evaluate.py. gensim's scores are the same (tests/tools/test_evaluate.py), but it reads
word-level vocabularies alone and answers one question at a time.
"""

from collections import defaultdict

import numpy as np

from data.files import reading_text

_BLOCK = 512  # questions answered at once


class Words:
    """Words to unit vectors, by a tokenizer and its token embedding float32[V, E]."""

    def __init__(self, tokenizer, table: np.ndarray):
        self.tokenizer = tokenizer
        self.table = table
        self.special_ids = tokenizer.special_ids()

    def tokens(self, words: list[str]) -> list[np.ndarray]:
        """The tokens of each word, as within a text; none if the vocabulary lacks one of them."""
        encoded = self.tokenizer.encode_batch([f" {word}" for word in words])
        unknown = self.special_ids["unk"]
        return [ids[:0] if (ids == unknown).any() else ids for ids in encoded]

    def vectors(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(unit vectors float32[n, E], bool[n]); 0 and False for a word that is out of vocabulary or
        whose vector is 0."""
        means = np.zeros((len(words), self.table.shape[1]), np.float32)
        for mean, ids in zip(means, self.tokens(words), strict=True):
            if len(ids):
                mean += self.table[ids].mean(0)
        return _unit(means)

    def candidates(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(unit vectors [C, E] of the possible answers to analogies, row int[n] of each word or -1).

        A word-level vocabulary is searched whole. Subword tokens form words without limit, so the
        given words are searched.
        """
        if self.tokenizer.is_word_level:
            regular = np.zeros((len(self.table), 1), bool)
            for low, high in self.special_ids["regular_token_ranges"]:
                regular[low:high] = True
            unit, known = _unit(self.table * regular)
            places = [ids[0] if len(ids) == 1 else -1 for ids in self.tokens(words)]
        else:
            unit, known = self.vectors(words)
            places = np.arange(len(words))
        rows = np.append(np.where(known, np.cumsum(known) - 1, -1), -1)  # the last one for place -1
        return unit[known], rows[places]


def _unit(vectors):
    length = np.linalg.norm(vectors, axis=1)
    known = length > 0
    return vectors / np.where(known, length, 1)[:, None].astype(np.float32), known


def similarity(words: Words, path: str) -> tuple[list[dict], list[dict]]:
    """(lines of scores, pairs): Spearman's correlation of cosines with human judgments (WordSim-353,
    SimLex-999, ...).

    A pair with a word that is out of vocabulary has the cosine None, is skipped and counted.
    """
    from scipy.stats import spearmanr

    pairs = read_pairs(path)
    (first, known), (second, also_known) = (words.vectors([p[n] for p in pairs]) for n in (0, 1))
    both = known & also_known
    judgments = np.array([score for _, _, score in pairs])[both]
    all_cosines = (first * second).sum(1)
    cosines = all_cosines[both]
    if min(len(set(judgments)), len(set(cosines))) < 2:
        raise ValueError(
            f"{path}: {both.sum()} of {len(pairs)} pairs are in the vocabulary, and a correlation needs "
            "two that differ: use vectors that were trained on these words"
        )
    spearman = float(spearmanr(cosines, judgments).statistic)
    items = [
        {"words": [one, other], "score": score, "cosine": float(cosine) if known else None}
        for (one, other, score), cosine, known in zip(pairs, all_cosines, both, strict=True)
    ]
    line = {"pairs": len(pairs), "out_of_vocabulary": int((~both).sum()), "spearman": spearman}
    return [line], items


def analogy(words: Words, path: str) -> tuple[list[dict], list[dict]]:
    """(lines of scores, questions): a is to b as c is to d: the share of d that 3CosAdd finds,
    cos(x, b - a + c) without a, b, c (Mikolov et al. 2013, NAACL; Levy & Goldberg 2014), by section and of
    all.

    A question with a word that is out of vocabulary has `correct` None, is skipped and counted.
    """
    sections = read_questions(path)
    names = sorted({word for questions in sections.values() for four in questions for word in four})
    unit, rows = words.candidates(names)
    row_of = dict(zip(names, rows.tolist(), strict=True))
    lines, items = [], []
    for section, questions in sections.items():
        numbers = np.array([[row_of[word] for word in four] for four in questions])
        known = (numbers >= 0).all(1)
        asked = numbers[known]
        blocks = (asked[start : start + _BLOCK] for start in range(0, len(asked), _BLOCK))
        right = iter([answer for block in blocks for answer in _are_right(unit, block)])
        own = [
            {"section": section, "words": four, "correct": next(right) if is_asked else None}
            for four, is_asked in zip(questions, known, strict=True)
        ]
        items += own
        lines.append({
            "section": section, "questions": len(questions),
            "out_of_vocabulary": len(questions) - len(asked), "asked": len(asked),
            "right": sum(item["correct"] is True for item in own),
        })  # fmt: skip
    keys = ("questions", "out_of_vocabulary", "asked", "right")
    lines.append({"section": "all", **{key: sum(line[key] for line in lines) for key in keys}})
    for line in lines:
        line["accuracy"] = line["right"] / max(1, line["asked"])
    lines[-1]["candidates"] = len(unit)
    return lines, items


def _are_right(unit, asked):
    a, b, c, d = asked.T
    scores = (unit[b] - unit[a] + unit[c]) @ unit.T
    for excluded in (a, b, c):
        scores[np.arange(len(asked)), excluded] = -np.inf
    return (scores.argmax(1) == d).tolist()


def read_pairs(path: str) -> list[tuple[str, str, float]]:
    """(word, word, score) of each line, separated by tabs, commas or blanks; a header is skipped."""
    pairs = []
    for number, line in _lines(path):
        separator = next((s for s in ("\t", ",") if s in line), None)
        fields = [field.strip() for field in line.split(separator)]
        if len(fields) != 3 or not all(fields):
            raise ValueError(
                f"{path}:{number} has {len(fields)} fields ({line[:60]!r}): expected word1, word2 and a "
                "score, separated by tabs, commas or blanks"
            )
        try:
            score = float(fields[2])
        except ValueError:
            if number == 1:
                continue
            score = np.nan
        if not np.isfinite(score):
            raise ValueError(
                f"{path}:{number}: {fields[2]!r} is not a score (no number, or not finite): correct it"
            )
        pairs.append((fields[0], fields[1], score))
    if not pairs:
        raise ValueError(f"{path} holds no pair: expected lines of word1, word2 and a score")
    return pairs


def read_questions(path: str) -> dict[str, list[list[str]]]:
    """{section: its questions, four words each} of a file like word2vec's questions-words.txt."""
    sections, name = defaultdict(list), "questions"
    for number, line in _lines(path):
        if line.startswith(":"):
            name = line[1:].strip() or name
            continue
        sections[name].append(line.split())
        if len(sections[name][-1]) != 4:
            raise ValueError(
                f"{path}:{number} has {len(line.split())} words ({line[:60]!r}): expected four, or ': ' "
                "and the name of a section"
            )
    if not sections:
        raise ValueError(f"{path} holds no question: expected lines of four words")
    return dict(sections)


def _lines(path):
    """(number, text) of the lines that are not blank."""
    with reading_text(path) as (stream, _):
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number} is not UTF-8 ({error.reason}): convert the file"
                ) from error
            if text:
                yield number, text


def load_token_embedding(run, step) -> np.ndarray:
    """The token embedding float32[V, E] of a checkpoint, on the host; V may be padded."""
    import jax

    from training import checkpoint
    from training.config import ConfigError
    from training.init_from import TOKEN_EMBEDDING
    from training.param_rules import flatten_params, unflatten_params

    found = checkpoint.params_metadata(run, step)
    if TOKEN_EMBEDDING not in found:
        raise ConfigError(
            f"{run} has no {TOKEN_EMBEDDING}; expected a run of train.py or finetune.py"
        )
    leaf = found[TOKEN_EMBEDDING]
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {TOKEN_EMBEDDING: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)}
    read = checkpoint.read_params(f"{run}/checkpoints", step, unflatten_params(wanted))
    return np.asarray(flatten_params(read)[TOKEN_EMBEDDING])
