"""Files of word vectors: every format is read as it was written, and each bad file gives one line."""

import bz2
import gzip
import sys

import numpy as np
import pytest

from data import vectors
from data.tokenizer import SPECIALS, of_words

WORDS = ["the", "of", "café", "日本", "new_york", ",", "0.5"]
TABLE = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
TABLE[0] = [1e-30, -1e30, 0.0, 0.1, 3.0]
NAMES = ["a.txt", "a.vec.gz", "a.txt.xz", "a.txt.zst", "a.bin", "a.bin.gz", "a.bin.bz2"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("header", [True, False])
def test_vectors_round_trip_bit_for_bit(tmp_path, name, header, capfd):
    path = str(tmp_path / name)
    vectors.write(path, WORDS, TABLE, header=header)
    read = vectors.read(path)
    assert read.words == WORDS and read.table.dtype == np.float32
    np.testing.assert_array_equal(read.table, TABLE)
    some = vectors.read(path, 3)
    assert some.words == WORDS[:3] and np.array_equal(some.table, TABLE[:3])
    assert [p.name for p in tmp_path.iterdir()] == [name]  # no temporary file is left
    assert capfd.readouterr() == ("", "")


def test_files_of_other_programs_are_read(tmp_path):
    (tmp_path / "fasttext.vec").write_text("2 3 \nthe 1 2 3 \nof -1e-2 .5 6 \n")
    (tmp_path / "windows.txt").write_bytes(b"the 1 2 3\r\nof -1e-2 .5 6\r\n")
    (tmp_path / "no_newline.txt").write_text("2 3\nthe 1 2 3\nof -1e-2 .5 6")
    (tmp_path / "marked.txt").write_text("the 1 2 3\nof -1e-2 .5 6\n", encoding="utf-8-sig")
    rows = np.array([[1, 2, 3], [-0.01, 0.5, 6]], "<f4")
    for name, end in (("google.bin", b""), ("word2vec.bin", b"\n")):
        (tmp_path / name).write_bytes(
            b"2 3\n" + b"the " + rows[0].tobytes() + end + b"of " + rows[1].tobytes() + end
        )
    for file in tmp_path.iterdir():
        read = vectors.read(str(file))
        assert read.words == ["the", "of"], file
        np.testing.assert_array_equal(read.table, rows.astype(np.float32))


def test_a_large_file_is_read_in_blocks(tmp_path):
    table = np.arange(900_000, dtype=np.float32).reshape(3000, 300)
    words = [f"w{i}" for i in range(3000)]
    for name in ("a.bin", "a.txt.gz"):
        path = str(tmp_path / name)
        vectors.write(path, words, table)
        read = vectors.read(path)
        assert read.words == words and np.array_equal(read.table, table)


ROW = b"the " + np.ones(3, "<f4").tobytes() + b"\n"
DAMAGED = bytearray(gzip.compress(b"the 1 2\nof 1 2\n"))
DAMAGED[-6] ^= 1  # the checksum
BAD = {
    "ragged.txt": (b"the 1 2 3\nof 1 2\n", "'of' has 2 numbers, expected 3"),
    "single.txt": (b"the 1 2 3\nof 1\n", "'of' has 1 numbers, expected 3"),
    "more.txt": (b"the 1 2 3\nof 1 2 3 4\n", "'of' has 4 numbers, expected 3"),
    "empty_line.txt": (b"the 1 2 3\n\nof 1 2 3\n", "'' has 0 numbers"),
    "word.txt": (b"the 1 2 3\nof 1 x 3\n", "'x'"),
    "spaces.txt": (b"the 1 2 3\n. . . 4 5 6\n", "'.'.*without spaces"),
    "tabs.txt": (b"the\t1\t2\t3\nof\t1\t2\t3", "no numbers separated by single spaces"),
    "nan.txt": (b"the 1 2 nan\n", "not finite"),
    "huge.txt": (b"the 1 2 1e39\n", "not finite"),
    "twice.txt": (b"the 1 2\nof 1 2\nthe 3 4\n", "'the' is repeated"),
    "fewer.txt": (b"3 2\nthe 1 2\nof 1 2\n", "promises 3 vectors, it has 2"),
    "longer.txt": (b"1 2\nthe 1 2\nof 1 2\n", "promises 1 vectors, it has 2"),
    "marked.vec": (b"\xef\xbb\xbf2 3\nthe 1 2 3\nof 1 2 3\n", "'the' has 3 numbers, expected 1"),
    "latin.txt": (b"caf\xe9 1 2\n", "can't decode"),
    "empty.txt": (b"", "is empty"),
    "zero.vec": (b"0 300\n", "promises 0 vectors"),
    "wide.vec": (b"1 99999999999999999999999\nthe 1\n", "promises 1 vectors of 9999"),
    "many.bin": (b"99999999999 300\n" + ROW, "promises 99999999999 vectors"),
    "text.bin": (b"the 1 2 3\n", "cannot be read as word vectors"),
    "short.bin": (b"2 3\n" + ROW + b"of \0\0", "promises 2 vectors, it ends before"),
    "cut.bin": (b"2 3\n" + ROW + b"of " + ROW[4:-2], "unexpected end of input"),
    "twice.bin": (b"2 3\n" + ROW * 2, "'the' is repeated"),
    "longer.bin": (b"1 3\n" + ROW * 2, "continues after the 1 vectors"),
    "narrow.bin": (b"2 2\n" + ROW * 2, "cannot be read as word vectors"),
    "inf.bin": (b"1 1\nthe \0\0\x80\x7f", "not finite"),
    "latin.bin": (b"1 1\ncaf\xe9 \0\0\0\0", "can't decode"),
    "pickle.npy": (b"\x93NUMPY", "is not named as word vectors"),
    "torn.txt.gz": (
        gzip.compress(b"the 1 2\n")[:-6],
        "cannot be read as word vectors|complete .gz",
    ),
    "damaged.txt.gz": (bytes(DAMAGED), "not a complete .gz"),
    "torn.bin.bz2": (bz2.compress(b"1 3\n" + ROW)[:-6], "cannot be read|complete .bz2"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gives_one_line_that_names_it(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        vectors.read(str(tmp_path / name))
    error = str(caught.value)
    assert name in error and "\n" not in error and len(error) < 400


def test_a_missing_file_package_or_an_unwritable_word_gives_one_line(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        vectors.read(str(tmp_path / "nowhere.txt"))
    with pytest.raises(ValueError, match="max_vectors=-2: expected a number of words"):
        vectors.read(str(tmp_path / "nowhere.txt"), -2)
    for word in ("new york", "", "a\u00a0b"):
        with pytest.raises(ValueError, match="which is empty or has a space"):
            vectors.write(str(tmp_path / "a.txt"), [word], TABLE[:1])
    with pytest.raises(ValueError, match="a.txt cannot hold the word 'the' twice"):
        vectors.write(str(tmp_path / "a.txt"), ["the", "the"], TABLE[:2])
    with pytest.raises(ValueError, match="a.npy is not named as word vectors: expected .txt"):
        vectors.write(str(tmp_path / "a.npy"), [], TABLE[:0])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.txt").write_text("the 1 2\n")
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e \.\[vectors\]"):
        vectors.read(str(tmp_path / "a.txt"))


def test_the_vocabulary_of_a_file_is_a_word_level_tokenizer():
    read = vectors.Vectors(["[UNK]", "the", "river", ","], TABLE[:4])
    tokenizer = read.tokenizer()
    first = len(SPECIALS)
    ids, rows = read.rows(tokenizer)
    assert ids.tolist() == [1, first, first + 1, first + 2] and rows is read.table
    assert tokenizer.encode("The River, [UNK]").tolist()[:3] == [first, first + 1, first + 2]
    assert tokenizer.is_word_level and tokenizer.size == first + 3
    cased = of_words(["The", "the"])
    assert cased.encode("The the THE").tolist() == [first, first + 1, 1]
    with pytest.raises(ValueError, match="repeats the word 'a'"):
        of_words(["a", "b", "a"])


def test_coverage_counts_tokens_and_types():
    tokenizer = of_words(["the", "river"])
    found = vectors.coverage(tokenizer, ["The river, the RIVER", "the [MASK] sea"])
    # the river , the river | the [ mask ] sea: , [ mask ] sea are unknown
    assert found == vectors.Coverage(
        num_tokens=10, num_known_tokens=5, num_types=7, num_known_types=2
    )
    assert "5 of 10 tokens known (50.0%), 2 of 7 types (28.6%)" in str(found)
