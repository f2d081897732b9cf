"""Labeled sets: formats, columns, splits, and one line of error for each bad input.

Users' files come from all kinds of programs; in GLUE's TSV, quotes are text.
"""

import json
import random
from collections import Counter

import pytest

from data.file_kinds import compression_of, open_compressed
from data.labeled import load
from data.splits import choose_splits
from data.tables import Dialect

ROWS = [(f'text "{i}', f"pair {i}", "ab"[i % 2]) for i in range(40)]


def put(folder, name, rows=ROWS, header=("sentence", "other", "gold")):
    """Writes rows in the format of the name."""
    form = next(k for k in ("tsv", "csv", "jsonl") if f".{k}" in name)
    if form == "jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    elif form == "tsv":
        lines = ["\t".join(row) for row in (header, *rows)]
    else:
        quote = lambda value: '"' + value.replace('"', '""') + '"'  # noqa: E731
        lines = [",".join(map(quote, row)) for row in (header, *rows)]
    with open_compressed(folder / name, compression_of(name), "wb") as stream:
        stream.write(("\n".join(lines) + "\n").encode())


def read(folder, pattern, **settings):
    settings = {"text_column": "sentence", "label_column": "gold", **settings}
    return load(f"files:{folder}/{pattern}", **settings)


@pytest.mark.parametrize(
    "form", ["tsv", "csv", "jsonl", "tsv.gz", "csv.xz", "jsonl.bz2", "tsv.zst", "jsonl.zst"]
)
def test_every_format_gives_the_same_examples(tmp_path, form):
    put(tmp_path, f"train.{form}")
    put(tmp_path, f"dev.{form}", ROWS[:6])
    put(tmp_path, f"my_test-0.{form}", ROWS[6:9])
    found = read(tmp_path, "*", text_pair_column="other")
    assert list(found) == ["train", "validation", "test"] and found.label_names == ("a", "b")
    for split, rows in (("train", ROWS), ("validation", ROWS[:6]), ("test", ROWS[6:9])):
        part = found[split]
        assert list(zip(part.text, part.text_pair, part.label, strict=True)) == rows
    assert read(tmp_path, "{train,dev}.*").get("test") is None
    assert read(tmp_path, "train.*")["train"].text_pair is None


def test_quotes_in_tsv_are_text_and_lines_may_end_with_carriage_returns(tmp_path):
    (tmp_path / "train.tsv").write_bytes(
        b'\xef\xbb\xbfsentence\tgold\r\n"open\ta\r\nshut" "\tb\r\n\r\n\'x\ta\r\n'
    )
    (tmp_path / "dev.tsv").write_bytes(b"sentence\tgold\nlast line\tb")
    found = read(tmp_path, "*.tsv")
    assert found["train"].text == ['"open', 'shut" "', "'x"]
    assert found["validation"].text == ["last line"] and found["validation"].label == ["b"]


def test_without_a_validation_split_a_share_of_train_is_used_by_hash(tmp_path):
    rows = [*ROWS, *ROWS]  # copies must stay together
    put(tmp_path, "train.tsv", rows)
    lines = []
    found = read(tmp_path, "train.tsv", log=lines.append, validation_fraction=0.2)
    train, validation = found["train"], found["validation"]
    assert len(train) + len(validation) == 80 and 2 <= len(validation) <= 40
    assert not set(train.text) & set(validation.text)
    assert "has no validation split" in lines[0] and "has no test split" in lines[1]
    put(tmp_path, "train.tsv", list(reversed(rows)))
    again = read(tmp_path, "train.tsv", validation_fraction=0.2)
    assert set(again["validation"].text) == set(validation.text)


@pytest.mark.parametrize("seed", range(8))
def test_the_validation_split_is_stratified_and_no_label_leaves_train(tmp_path, seed):
    draw = random.Random(seed)
    sizes = {f"c{n}": draw.choice([1, 2, 4, 5, 30, 200]) for n in range(4)} | {"most": 50}
    rows = [(f"text {label} {i}", "", label) for label, size in sizes.items() for i in range(size)]
    rows += draw.sample(rows, 20)  # copies
    draw.shuffle(rows)
    put(tmp_path, "train.tsv", rows)
    fraction = draw.choice([0.05, 0.2, 0.5])
    found = read(tmp_path, "train.tsv", validation_fraction=fraction)
    train, validation = found["train"], found["validation"]
    assert sorted(train.text + validation.text) == sorted(row[0] for row in rows)
    assert not set(train.text) & set(validation.text)
    for label, size in Counter(row[2] for row in rows).items():
        left, taken = train.label.count(label), validation.label.count(label)
        assert left >= 1 and left + taken == size
        assert fraction * size - 2 <= taken <= fraction * size + 0.5


def test_a_test_split_may_have_no_labels(tmp_path):
    put(tmp_path, "train.tsv")
    put(tmp_path, "test.tsv", [row[:2] for row in ROWS], ("sentence", "other"))
    assert read(tmp_path, "*.tsv")["test"].label == []


def test_the_identity_is_of_the_contents(tmp_path):
    put(tmp_path, "train.tsv")
    put(tmp_path, "train.jsonl")
    assert read(tmp_path, "train.tsv").fingerprint == read(tmp_path, "train.jsonl").fingerprint
    put(tmp_path, "train.tsv", ROWS[1:])
    assert read(tmp_path, "train.tsv").fingerprint != read(tmp_path, "train.jsonl").fingerprint


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        (
            {"train.tsv": "sentence\tgold\nx\ta\n"},
            {"text_column": "sentense"},
            r"train.tsv has no column 'sentense' .did you mean 'sentence'.*set task.text_column to one of",
        ),
        (
            {"train.tsv": "sentence\tgold\nx\ta\n"},
            {"text_pair_column": "zzz"},
            "set task.text_pair_column",
        ),
        (
            {"train.tsv": "sentence\tgold\nx\ta\ny\tb\n", "dev.tsv": "sentence\tgold\nz\tc\n"},
            {},
            "dev.tsv at line 2 has the label 'c', which train does not have .'a', 'b'",
        ),
        ({"train.tsv": "sentence\tgold\nx\n"}, {}, "train.tsv has 1 fields at line 2, but .* 2"),
        ({"train.tsv": b"sentence\tgold\nx\xff\ta\n"}, {}, "is not UTF-8 at byte 15 .line 2"),
        ({"train.tsv": ""}, {}, "train.tsv is empty"),
        (
            {"train.tsv": "sentence\tgold\n"},
            {},
            "train.tsv: the train split is empty, it has no row",
        ),
        ({"train.tsv": "sentence\tgold\tgold\n"}, {}, "names the column 'gold' twice"),
        ({"dev.tsv": "sentence\tgold\nx\ta\n"}, {}, "has no train split, but validation"),
        ({"data.tsv": "sentence\tgold\nx\ta\n"}, {}, "names no split: call it train"),
        ({"train.parquet": "x"}, {}, "is none of .tsv, .csv, .jsonl"),
        ({"train.csv": 'sentence,gold\n"x,a\n'}, {}, "is not CSV at line"),
        ({"train.jsonl": '{"sentence": "x"}\n{"sentence": \n'}, {}, "is not JSON at line 2"),
        (
            {"train.jsonl": '{"sentence": "x", "gold": "x"}\n{"gold": "x"}\n'},
            {},
            "at line 2 has no value in column 'sentence': add it, or set task.missing=drop",
        ),
        ({"train.jsonl": "[1]\n"}, {}, "has no object at line 1"),
        ({"train.tsv": "sentence\tgold\nx\ta\nX\tb\n"}, {}, "has one distinct text"),
        ({"train.tsv": "sentence\tgold\nx\ta\ny\tb\n"}, {}, "2 examples of 2 labels, too few"),
        (
            {"train.tsv": "sentence\tgold\nx\ta\n", "train-2.tsv": "other\tgold\nx\ta\n"},
            {},
            "train-2.tsv has no column 'sentence'.*'other', 'gold'",
        ),
    ],
)
def test_bad_input_gives_one_line_that_says_what_to_do(tmp_path, files, settings, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, "*", **settings)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400


def test_a_malformed_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a labeled set: choose python_docs"):
        load("train.tsv")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        read(tmp_path, "train.tsv")


def test_tfds_labels_become_their_names(tmp_path):
    import tensorflow_datasets as tfds

    class Small(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}

        def _info(self):
            features = {
                "sentence": tfds.features.Text(),
                "gold": tfds.features.ClassLabel(names=["no", "yes"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            names = ("train", "validation", "test", "validation_other")
            return {s: self._generate_examples(s) for s in names}

        def _generate_examples(self, split):
            for i in range(6):
                absent = split == "test" or (split == "validation" and i == 4)
                yield i, {"sentence": f"{split} {i} é", "gold": -1 if absent else i % 2}

    builder = Small(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_dir=tmp_path / "downloads")
    source, columns = (
        f"tfds:{builder.data_path}",
        {"text_column": "sentence", "label_column": "gold"},
    )
    with pytest.raises(
        ValueError, match="split validation, at record 4 has no value in column 'gold'"
    ):
        load(source, **columns)
    found = load(source, missing="drop", **columns)
    assert found["validation"].text == [f"validation {i} é" for i in (0, 1, 2, 3, 5)]
    assert found["train"].text == [f"train {i} é" for i in range(6)]
    assert found["train"].label == ["no", "yes"] * 3 and found.label_names == ("no", "yes")
    assert len(found["test"]) == 6 and found["test"].label == []
    other = load(
        source, missing="drop", dialect=Dialect(splits=("test=validation_other",)), **columns
    )
    assert other["validation"].text == found["validation"].text
    assert other["test"].text == [f"validation_other {i} é" for i in range(6)]
    assert other["test"].label == ["no", "yes"] * 3
    taken = found["train"].take([3, 0])
    assert taken.text == ["train 3 é", "train 0 é"] and taken.label == ["yes", "no"]


MNLI = ["train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]


@pytest.mark.parametrize(
    ("names", "chosen", "expected"),
    [
        (MNLI, (), {"train": "train", "validation": "validation_matched", "test": "test_matched"}),
        (MNLI, ("validation=validation_mismatched",),
         {"train": "train", "validation": "validation_mismatched", "test": "test_matched"}),
        (MNLI, ("test=validation_mismatched",),
         {"train": "train", "validation": "validation_matched", "test": "validation_mismatched"}),
        (["train", "test", "unsupervised"], (), {"train": "train", "test": "test"}),
        (["train", "dev", "train_extra"], (), {"train": "train", "validation": "dev"}),
        (["train_r1", "dev_r1"], (), {"train": "train_r1", "validation": "dev_r1"}),
        (["latest", "trained", "train"], (), {"train": "train"}),
    ],
)  # fmt: skip
def test_splits_of_tfds_are_found_by_their_names(names, chosen, expected):
    lines = []
    assert dict(choose_splits("tfds:x", names, chosen, lines.append)) == expected
    unused = [name for name in names if name not in expected.values()]
    assert all(name in lines[0] for name in unused) if unused else not lines


@pytest.mark.parametrize(
    ("names", "chosen", "expected"),
    [
        (["train_r1", "train_r2"], (), "several train splits, train_r1, train_r2: choose one with "
                                       r"task.splits=\('train=train_r1',\)"),
        (MNLI, ("validation=dev",), "has 'validation=dev', expected SPLIT=NAME .* validation_matched"),
        (MNLI, ("dev=validation_matched",), "has 'dev=validation_matched', expected SPLIT=NAME"),
        (MNLI, ("test=train", "test=test_matched"), "has 'test=test_matched', expected SPLIT=NAME once"),
        (MNLI, ("train",), "has 'train', expected SPLIT=NAME"),
    ],
)  # fmt: skip
def test_splits_of_tfds_that_are_ambiguous_or_not_there_are_an_error(names, chosen, expected):
    with pytest.raises(ValueError, match=expected):
        choose_splits("tfds:x", names, chosen, lambda line: None)


def test_splits_are_chosen_for_tfds_alone(tmp_path):
    (tmp_path / "train.tsv").write_text("text\tlabel\na\t0\nb\t1\n")
    with pytest.raises(ValueError, match="task.splits=.* names splits of a TFDS data set, but"):
        load(f"files:{tmp_path}/train.tsv", dialect=Dialect(splits=("test=validation",)))
