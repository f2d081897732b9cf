"""The scores of word vectors are gensim's; coverage counts by hand; wrong flags of tools.convert."""

import itertools
import json

import numpy as np
import pytest
from gensim.models import KeyedVectors

from data import tokenizer as tokenizers
from data import vectors
from tools import convert, evaluate, word_suites
from training.config import ConfigError

COUNTRIES, CASES, SIZE = 12, 4, 16


@pytest.fixture(scope="module")
def names():
    """COUNTRIES x CASES words, lower case."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmn", "aeiou")]
    words = ["".join(pair) for pair in itertools.product(syllables, syllables)]
    chosen = np.random.default_rng(0).permutation(words)[: COUNTRIES * CASES + 200]
    return chosen.tolist()


@pytest.fixture(scope="module")
def file(names, tmp_path_factory):
    """A file of vectors with analogies between the first words: country + case + noise."""
    random = np.random.default_rng(1)
    table = random.standard_normal((len(names), SIZE))
    countries = random.standard_normal((COUNTRIES, 1, SIZE))
    cases = 1.5 * random.standard_normal((1, CASES, SIZE))
    related = (countries + cases).reshape(-1, SIZE)
    table[: len(related)] = related + 0.4 * table[: len(related)]
    path = str(tmp_path_factory.mktemp("vectors") / "words.vec")
    vectors.write(path, names, table.astype(np.float32))
    return path


def test_similarity_is_that_of_gensim(names, file, tmp_path):
    random = np.random.default_rng(2)
    pairs = random.permutation(len(names))[:160].reshape(-1, 2)
    lines = [f"{names[a]}\t{names[b]}\t{random.normal():.2f}\n" for a, b in pairs]
    lines += [f"{names[0].capitalize()}\t{names[1]}\t2\n", f"unknown\t{names[1]}\t2\n"]
    (tmp_path / "pairs.tsv").write_text("".join(lines))
    (line,), items = word_suites.SUITES["similarity"](
        word_suites.Subject(file=file).words, str(tmp_path / "pairs.tsv")
    )
    reference = KeyedVectors.load_word2vec_format(file)
    _, spearman, unknown = reference.evaluate_word_pairs(str(tmp_path / "pairs.tsv"))
    assert line["spearman"] == pytest.approx(spearman.statistic, abs=1e-12)
    assert len(items) == line["pairs"] and items[-1]["cosine"] is None
    first = items[0]
    assert first["cosine"] == pytest.approx(reference.similarity(*first["words"]), abs=1e-6)
    assert line["out_of_vocabulary"] == 1 == pytest.approx(unknown / 100 * line["pairs"])


def test_finished_scores_are_not_replaced_by_those_of_another_command(names, file, tmp_path):
    (tmp_path / "pairs.tsv").write_text(f"{names[0]}\t{names[1]}\t2\n{names[2]}\t{names[3]}\t1\n")
    words = [f"--vectors={file}", "--suite=similarity", f"--data={tmp_path}/pairs.tsv",
             f"--output={tmp_path}/out.json"]  # fmt: skip
    evaluate.main(words)
    before = (tmp_path / "out.json").read_bytes()
    (found,) = [value for value in json.loads(before).values() if "items" in value]
    assert [item["score"] for item in found["items"]] == [2.0, 1.0]
    assert (tmp_path / "out.png").stat().st_size > 5_000
    evaluate.main(words)  # the same command
    (tmp_path / "other.tsv").write_text((tmp_path / "pairs.tsv").read_text().replace("1\n", "3\n"))
    (tmp_path / "pairs.tsv").rename(tmp_path / "kept.tsv")
    (tmp_path / "other.tsv").rename(tmp_path / "pairs.tsv")
    with pytest.raises(ConfigError, match="another data"):
        evaluate.main(words)  # with other content
    (tmp_path / "kept.tsv").rename(tmp_path / "pairs.tsv")
    with pytest.raises(ConfigError, match=r"another max_vectors \(0, now 9\): remove it, or name"):
        evaluate.main([*words, "--max_vectors=9"])
    assert (tmp_path / "out.json").read_bytes() == before


def test_analogies_are_those_of_gensim(names, file, tmp_path):
    random = np.random.default_rng(3)
    text = ""
    for case in range(1, CASES):
        text += f": case-{case}\n"
        for _ in range(60):
            a, c = CASES * random.choice(COUNTRIES, 2, replace=False)
            four = [names[n] for n in (a, a + case, c, c + case)]
            text += " ".join(four if random.random() < 0.8 else map(str.upper, four)) + "\n"
        text += f"{names[0]} unknown {names[1]} {names[2]}\n"
    (tmp_path / "questions.txt").write_text(text)
    words = word_suites.Subject(file=file).words
    lines, items = word_suites.SUITES["analogy"](words, str(tmp_path / "questions.txt"))
    reference = KeyedVectors.load_word2vec_format(file)
    accuracy, sections = reference.evaluate_word_analogies(str(tmp_path / "questions.txt"))
    assert [line["right"] for line in lines] == [len(each["correct"]) for each in sections]
    right = [item["correct"] for item in items]
    assert (right.count(True), right.count(None)) == (lines[-1]["right"], CASES - 1)
    assert [line["asked"] - line["right"] for line in lines] == [
        len(each["incorrect"]) for each in sections
    ]
    assert lines[-1]["accuracy"] == accuracy and 0.1 < accuracy < 0.99
    assert lines[-1]["out_of_vocabulary"] == CASES - 1 and lines[-1]["candidates"] == len(names)


def test_coverage_counts_words_of_corpora_and_of_labeled_files(names, file, tmp_path, capsys):
    a, b = names[:2]
    (tmp_path / "corpus.txt").write_text(f"{a} {b.upper()}\n\n{a} unknown\n")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_text(f"first\tsecond\n{a} unknown\t{b} {b}\n")
    arguments = [f"--vectors={file}", "--suite=coverage"]
    evaluate.main([*arguments, f"--data=text:{tmp_path}/corpus.txt"])
    printed = capsys.readouterr().out
    assert "num_tokens 4  num_known_tokens 3  num_types 3  num_known_types 2" in printed
    assert "known_tokens 75.0%  known_types 66.7%" in printed
    labeled = f"--data=files:{tmp_path}/{{train,validation}}.tsv"
    evaluate.main([*arguments, labeled, "--text_column", "first", "second"])
    assert "num_tokens 8  num_known_tokens 6" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no column 'text'"):
        evaluate.main([*arguments, labeled])


def test_coverage_of_subword_tokens_is_refused(names):
    subwords = tokenizers.train([" ".join(names)] * 3, type="bpe", vocab_size=400)
    words = word_suites.word_vectors.Words(subwords, np.ones((512, 2), np.float32))
    with pytest.raises(ConfigError, match="subword tokens"):
        word_suites.coverage(words, "text:corpus.txt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to_hf", "run", "hf", "--seed=1"], "--seed belong to from_vectors; omit it with to_hf"),
        (["to_vectors", "run", "a.txt", "--max_vectors=1"], "--max_vectors belong to from_vectors"),
        (["from_vectors", "a.txt", "run", "--no_header"], "--no_header belong to to_vectors"),
        (["from_vectors", "a.txt"], "from_vectors needs two names, SOURCE and TARGET"),
        (["from_vector", "a.txt", "run"], "invalid choice: 'from_vector'"),
        (["from_vectors", "a.txt", "run", "--sed=1"], "did you mean --seed?"),
    ],
)
def test_a_wrong_command_line_of_convert_is_an_error_of_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as caught:
        convert.main(words)
    assert "\n" not in str(caught.value)
