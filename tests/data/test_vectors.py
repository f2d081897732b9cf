"""Files of word vectors: every form is read as it was written, and what is wrong is one line."""

import gzip

import numpy as np
import pytest

from data import vectors
from data.tokenizer import SPECIALS, of_words

WORDS = ["the", "of", "café", "日本", "new_york", ",", "0.5"]
TABLE = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
TABLE[0] = [1e-30, -1e30, 0.0, 0.1, 3.0]


def written(path, **keywords):
    vectors.write(str(path), 7, 5, zip(WORDS, TABLE, strict=True), **keywords)
    return str(path)


@pytest.mark.parametrize("name", ["a.txt", "a.vec.gz", "a.txt.xz", "a.bin", "a.bin.gz", "a.bin.xz"])
@pytest.mark.parametrize("header", [True, False])
def test_what_is_written_is_read_bit_for_bit(tmp_path, name, header):
    path = written(tmp_path / name, header=header)
    read = vectors.read(path)
    assert read.words == WORDS and read.table.dtype == np.float32
    np.testing.assert_array_equal(read.table, TABLE)
    some = vectors.read(path, 3)
    assert some.words == WORDS[:3] and np.array_equal(some.table, TABLE[:3])
    assert [p.name for p in tmp_path.iterdir()] == [name]  # no temporary file is left


def test_the_forms_of_other_programs_are_read(tmp_path):
    (tmp_path / "fasttext.vec").write_text("2 3 \nthe 1 2 3 \nof -1e-2 .5 6 \n")
    (tmp_path / "windows.txt").write_bytes(b"the 1 2 3\r\nof -1e-2 .5 6\r\n")
    (tmp_path / "tabs.txt").write_text("the\t1\t2\t3\nof\t-1e-2\t.5\t6")
    (tmp_path / "marked.txt").write_text("the 1 2 3\nof -1e-2 .5 6\n", encoding="utf-8-sig")
    (tmp_path / "marked.vec").write_text("2 3\nthe 1 2 3\nof -1e-2 .5 6\n", encoding="utf-8-sig")
    rows = np.array([[1, 2, 3], [-0.01, 0.5, 6]], "<f4")
    bare = b"2 3\n" + b"".join(
        w + b" " + r.tobytes() for w, r in zip((b"the", b"of"), rows, strict=True)
    )
    (tmp_path / "google.bin").write_bytes(bare)  # no end of line after a vector
    for file in tmp_path.iterdir():
        read = vectors.read(str(file))
        assert read.words == ["the", "of"], file
        np.testing.assert_array_equal(read.table, rows.astype(np.float32))
    (tmp_path / "blanks.txt").write_text("the 1 2 3\n. . . 4 5 6\n")  # as GloVe 840B has
    assert vectors.read(str(tmp_path / "blanks.txt")).words == ["the", ". . ."]


def test_a_large_file_is_read_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK", 7)
    table = np.arange(90_000, dtype=np.float32).reshape(300, 300)
    words = [f"w{i}" for i in range(300)]
    for name in ("a.bin", "a.txt.gz"):
        path = str(tmp_path / name)
        vectors.write(path, 300, 300, zip(words, table, strict=True))
        read = vectors.read(path)
        assert read.words == words and np.array_equal(read.table, table)


ROW = b"the " + np.ones(3, "<f4").tobytes() + b"\n"
HOSTILE = {
    "ragged.txt": (b"the 1 2 3\nof 1 2\n", "ragged.txt:2 has 2 numbers where 3 belong"),
    "more.txt": (b"the 1 2 3\nof 1 2 3 4\n", "more.txt:2 has 4 numbers where 3 belong"),
    "empty_line.txt": (b"the 1 2 3\n\nof 1 2 3\n", "empty_line.txt:2 has 0 numbers"),
    "word.txt": (b"the 1 2 3\nof 1 x 3\n", "word.txt:2: b'x' is not a number"),
    "underscore.txt": (b"the 1 2 3\nof 1 2_0 3\n", "b'2_0' is not a number"),
    "nan.txt": (b"the 1 2 nan\n", "not finite"),
    "huge.txt": (b"the 1 2 1e39\n", "not finite"),
    "twice.txt": (b"the 1 2\nof 1 2\nthe 3 4\n", "'the' twice, as its 1. and its 3. vector"),
    "count.txt": (b"3 2\nthe 1 2\nof 1 2\n", "has 2 vectors, its first line promises 3"),
    "latin.txt": (b"caf\xe9 1 2\n", "is not UTF-8"),
    "empty.txt": (b"", "holds no vector"),
    "zero.vec": (b"0 300\n", "expected at least one"),
    "wide.vec": (b"1 99999999999999999999999\nthe 1\n", "expected at least one"),
    "one_line.txt": (b"x" * (1 << 22), "this is not a text of vectors"),
    "text.bin": (b"the 1 2 3\n", "does not begin with the line"),
    "short.bin": (b"2 3\n" + ROW + b"of \0\0", "vector 2 of 2: the file ends here"),
    "fewer.bin": (b"2 3\n" + ROW, "vector 2 of 2: the file ends here"),
    "longer.bin": (b"1 3\n" + ROW * 2, "goes on behind the 1 vectors"),
    "width.bin": (b"2 2\n" + ROW * 2, "wide|twice|word|UTF-8|behind"),
    "inf.bin": (b"1 1\nthe \0\0\x80\x7f", "not finite"),
    "latin.bin": (b"1 1\ncaf\xe9 \0\0\0\0", "is not UTF-8"),
    "no_word.bin": (b"9 1\n" + b"a \0\0\0\0" + b"\x01" * 9000, "no word where one belongs"),
    "pickle.npy": (b"\x93NUMPY", "does not look like vectors"),
    "torn.txt.gz": (gzip.compress(b"the 1 2\n")[:-6], "not a whole compressed file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_that_names_it(tmp_path, name):
    content, words = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        vectors.read(str(tmp_path / name))
    message = str(caught.value)
    assert name in message and "\n" not in message and len(message) < 400


def test_a_missing_file_and_an_unwritable_word_are_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        vectors.read(str(tmp_path / "nowhere.txt"))
    with pytest.raises(ValueError, match="limit=-2: expected how many"):
        vectors.read(str(tmp_path / "nowhere.txt"), -2)
    with pytest.raises(ValueError, match="'new york' is empty or has a blank"):
        vectors.write(str(tmp_path / "a.txt"), 1, 1, [("new york", TABLE[0, :1])])
    with pytest.raises(ValueError, match="a.npy: expected a name with"):
        vectors.write(str(tmp_path / "a.npy"), 1, 1, [])
    assert list(tmp_path.iterdir()) == []


def test_the_vocabulary_of_a_file_is_a_word_level_tokenizer():
    read = vectors.Vectors(["[UNK]", "the", "river", ","], TABLE[:4])
    tokenizer = read.tokenizer()
    first = len(SPECIALS)
    ids, rows = read.rows(tokenizer)
    assert ids.tolist() == [1, first, first + 1, first + 2] and rows is read.table
    assert tokenizer.encode("The River, [UNK]").tolist()[:3] == [first, first + 1, first + 2]
    assert tokenizer.whole_words and tokenizer.size == first + 3
    cased = of_words(["The", "the"])
    assert cased.encode("The the THE").tolist() == [first, first + 1, 1]
    with pytest.raises(ValueError, match="'a' stands twice"):
        of_words(["a", "b", "a"])


def test_coverage_counts_tokens_and_types():
    tokenizer = of_words(["the", "river"])
    found = vectors.coverage(tokenizer, ["The river, the RIVER", "the [MASK] sea"])
    # the river , the river | the [ mask ] sea: , [ mask ] sea are unknown
    assert found == vectors.Coverage(tokens=10, tokens_known=5, types=7, types_known=2)
    assert "5 of 10 tokens known (50.0%), 2 of 7 types (28.6%)" in str(found)
