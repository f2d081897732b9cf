"""Labeled files as people have them, each with its right value: rows, or one line that says the remedy.

Every case was once read as something else or stopped a run with a library's error.
"""

import bz2
import json
import lzma
import re

import pytest

from data.file_kinds import zstd
from data.labeled import load
from data.tables import Dialect

ROWS = [(f"the plot was {a} number {i}", b)
        for i in range(20) for a, b in (("lovely", "pos"), ("dull", "neg"))]  # fmt: skip
BOTH = ("neg", "pos")


def table(rows=ROWS, sep="\t", end="\n", header=("text", "label")):
    return end.join(sep.join(row) for row in ([header] if header else []) + list(rows)) + end


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def objects(rows=ROWS):
    return [{"text": text, "label": label} for text, label in rows]


def labeled(**changes):
    """ROWS with other labels: pos=... and neg=..."""
    return [(text, changes.get(label, label)) for text, label in ROWS]


def every(step, rows, change):
    """rows with every `step`-th one changed."""
    return [change(row) if i % step == 0 else row for i, row in enumerate(rows)]


QUOTED = table([(f'"he said ""{text}"" again"', label) for text, label in ROWS])
TRAIN = {"train.tsv": table()}
NO_HEADER = {"train.tsv": table(header=None)}
NAMED = {"dialect": Dialect(columns=("text", "label"))}
FORTY = {"train": 40, "labels": BOTH}  # rows of train and of the validation split made of it

# name: (files, arguments of load, what is right). Right is an error (a regular expression, or several),
# or a dictionary: `train` counts train and a validation split that was made of it, `text` is the first
# text, `said` is a regular expression of a line in the log.
CASES = {
    # What a file is.
    "bz2": ({"train.csv.bz2": bz2.compress(table(sep=",").encode())}, {}, FORTY),
    "compressed without the suffix": ({"train.tsv": lzma.compress(table().encode())}, {}, FORTY),
    "zst without the suffix": ({"train.tsv": zstd().compress(table().encode())}, {}, FORTY),
    "utf16": ({"train.tsv": table(end="\r\n").encode("utf-16")}, {},
              "UTF-16: convert it: iconv -f utf-16 "),
    "utf16 without mark": ({"train.tsv": table().encode("utf-16-be")}, {}, "UTF-16 without.*utf-16be"),
    "utf32": ({"train.tsv": table().encode("utf-32")}, {}, "is UTF-32: convert it"),
    "zip": ({"train.csv": b"PK\x03\x04" + b"\0" * 30}, {}, "zip archive.*unpack it, or export"),
    "parquet": ({"train.parquet": b"PAR1\0\0PAR1"}, {}, "Parquet file: convert it: .*read_parquet"),
    "git lfs": ({"train.tsv": "version https://git-lfs.github.com/spec/v1\n"}, {}, "git lfs pull"),
    "gzip twice": ({"train.tsv": bz2.compress(lzma.compress(b"x"))}, {}, "compressed twice"),
    "lz4": ({"train.csv.lz4": b"\x04\x22\x4d\x18@@"}, {}, "in another way .*compress it with gzip"),
    "latin1": ({"train.tsv": table(labeled(pos="café")).encode("latin1")}, {},
               r"not UTF-8 at byte \d+ .line 2.: .*such as windows-1252"),
    "nul": ({"train.tsv": table([*ROWS, ("a\0b", "pos")])}, {}, r"NUL byte at byte \d+ .line 42"),
    "cr": ({"train.tsv": table(end="\r")}, {}, FORTY),
    "plain and compressed": ({**TRAIN, "train.tsv.bz2": bz2.compress(table().encode())}, {},
                             "train.tsv and .*train.tsv.bz2, which look like one file"),
    "cr, then a line feed": ({"train.tsv": table(end="\r") + "\n"}, {}, FORTY),
    "crlf": ({"train.csv": table(sep=",", end="\r\n")}, {}, FORTY),
    "mixed line ends": ({"train.tsv": table(ROWS[:3], end="\r") + table(ROWS, header=None)}, {},
                        "has 2 fields at line 2.*: convert its line ends"),
    "cr in a text": ({"train.tsv": table([*ROWS, ("a\rb", "pos")])}, {}, {**FORTY, "train": 41}),
    "brackets": ({"run [2013]/train.tsv": table()}, {"pattern": "run [2013]/train.tsv"}, FORTY),
    "brackets in a folder": ({"run [2013]/train.tsv": table()}, {"pattern": "run [2013]/*.tsv"}, FORTY),
    "bak": ({**TRAIN, "train.tsv.bak": table(labeled(pos="OLD")), "train.tsv~": "x"}, {},
            {**FORTY, "said": "not read, as copies beside the data: .*train.tsv.bak"}),
    "joined files with marks": ({"train.tsv": "\ufeff" + table(ROWS[:20]) + "\ufeff" + table(ROWS[20:])}, {},
                                "repeats its header at line 22"),
    "joined json lines with marks": ({"train.jsonl": "\ufeff" + lines(objects()[:9]) + "\ufeff" + lines(
        objects()[9:])}, {}, FORTY),
    "an image": ({"train.tsv": b"\x89PNG\r\n\x1a\n" + bytes(range(99))}, {}, "image.*leave it out"),
    "bytes": ({"train.tsv": bytes(range(256)) * 9}, {}, "NUL byte at byte 0"),
    "a Spark folder": ({"train.csv/part-0000.csv": table(sep=",")}, {}, FORTY),
    "a read-me file": ({**TRAIN, "README.md": "x"}, {}, "README.md names no split.*pattern without it"),
    "json": ({"train.json": json.dumps(objects())}, {}, "is none of .*one object per line in a .jsonl"),
    # What a split is.
    "names": ({"sst2.train.tsv": table()}, {}, FORTY),
    "folders": ({"train/part-0.tsv": table(ROWS[:20]), "train/part-1.tsv": table(ROWS[20:])},
                {}, FORTY),
    "capitals": ({"Train.TSV": table(), "devData.tsv": table()}, {}, {"train": 40, "validation": 40}),
    "two splits": ({"train_dev.tsv": table()}, {}, "names the splits train and validation: call it"),
    # What a column is.
    "optional": ({"train.jsonl": lines(every(5, objects(), lambda r: {**r, "url": "x", "n": {}}))},
                 {}, FORTY),
    "blank and doubled names": ({"train.tsv": table([("0", *row, "") for row in ROWS],
                                 header=("", "text", "label", ""))}, {}, FORTY),
    "blanks around a name": ({"train.csv": table(sep=",", header=("\ufefftext", " label "))}, {}, FORTY),
    "doubled": ({"train.tsv": table([(*row, "x") for row in ROWS], header=("text", "label", "label"))},
                {}, "names the column 'label' twice"),
    "joined files": ({"train.tsv": table() + table()}, {}, "repeats its header at line 42"),
    "doubled key": ({"train.jsonl": '{"text": "a", "label": "x", "label": "y"}\n'}, {},
                    "has 'label' twice at line 1"),
    "blank lines": ({"train.csv": "\n  \n" + table(sep=",") + " \n\x1a"}, {}, FORTY),
    "white space alone": ({"train.csv": "  \n \n"}, {}, "train.csv is empty"),
    "lines before the header": ({"train.tsv": "# made in 2020\n\n" + table()}, {},
                                "no column 'text'.*remove the lines before line 3, which names them"),
    "semicolon": ({"train.csv": table(sep=";")}, {}, "no column 'text'.*task.delimiter=';'"),
    "semicolon and commas": ({"train.csv": table([("a, b", "pos"), *ROWS], sep=";")}, {},
                             "no column 'text'.*task.delimiter=';'"),
    "semicolon, said": ({"train.csv": table(sep=";")}, {"dialect": Dialect(delimiter=";")}, FORTY),
    "noheader": (NO_HEADER, {}, r"no column 'text'.*task.columns=\('text', 'label'\)"),
    "wide, without a header": ({"train.csv": table([["some words " * 9] * 30] * 3, sep=";", header=None)}, {},
                               "no column 'text'.*task.delimiter=';'.*task.columns="),
    "noheader, said": (NO_HEADER, NAMED, FORTY),
    "quoted header": ({"train.tsv": table(header=('"text"', '"label"'))}, {}, "task.quoting=minimal"),
    "header, said to be none": (TRAIN, NAMED,
                                "has a header, text, label: leave task.columns out"),
    "columns that do not fit": (NO_HEADER, {"dialect": Dialect(columns=("text",))},
                                "has 2 fields at line 1, but task.columns names 1"),
    "columns of json": ({"train.jsonl": lines(objects())}, {"dialect": Dialect(columns=("a", "b"))},
                        "task.columns is of TSV and CSV files"),
    "a word as delimiter": (TRAIN, {"dialect": Dialect(delimiter="ab")}, "task.delimiter='ab' is not"),
    "tsvquoted": ({"train.tsv": QUOTED}, {},
                  {**FORTY, "text": f'"he said ""{ROWS[0][0]}"" again"',
                   "said": "warning: 40 fields of .*set task.quoting=minimal"}),
    "tsvquoted, said": ({"train.tsv": QUOTED}, {"dialect": Dialect(quoting="minimal")},
                        {**FORTY, "text": f'he said "{ROWS[0][0]}" again'}),
    "csv with quotes as text": ({"train.csv": table([*ROWS, ('"a" b', "pos")], sep=",")}, {},
                                "not CSV at line 42.*task.quoting=none"),
    "an open quote": ({"train.csv": table([*ROWS[:3], ('"a', "pos"), *ROWS[3:]], sep=",")}, {},
                      "in the row that starts at line 5"),
    "rows between two quotes": ({"train.csv": table([('"a', "pos"), *ROWS, ('5"', "neg")], sep=",")}, {},
                                "has rows inside the quotes of the row that starts at line 2"),
    "lines in a field": ({"train.csv": table([*ROWS, ('"a, b\nc, d\n"', "pos")], sep=",")}, {},
                         {**FORTY, "train": 41}),
    "csv with quotes as text, said": ({"train.csv": table([*ROWS, ('"a" b', "pos")], sep=",")},
                                      {"dialect": Dialect(quoting="none")}, {**FORTY, "train": 41}),
    # What a value is.
    "jnull": ({"train.jsonl": lines(every(7, objects(), lambda r: {**r, "text": None}))}, {},
              "train.jsonl at line 1 has no value in column 'text'.*task.missing=drop"),
    "jnull, dropped": ({"train.jsonl": lines(every(7, objects(), lambda r: {**r, "text": None}))},
                       {"missing": "drop"}, {**FORTY, "train": 34, "said": "6 of 40 train rows"}),
    "emptylabel": ({"train.csv": table(every(4, ROWS, lambda r: (r[0], " ")), sep=",")}, {},
                   "train.csv at line 2 has no value in column 'label'"),
    "no key": ({"train.jsonl": lines([*objects(), {"text": "x"}])}, {},
               "line 41 has no value in column 'label'"),
    "nan": ({"train.jsonl": '{"text": "x", "label": NaN}\n'}, {}, "line 1 has no value in column 'label'"),
    "unlabeled test": ({**TRAIN, "test.jsonl": lines([{"text": "x", "label": None}] * 3)}, {},
                       {**FORTY, "test": 3, "unlabeled": True}),
    "glue test": ({**TRAIN, "test.tsv": table([("x", "-1")])}, {},
                  {**FORTY, "test": 1, "unlabeled": True}),
    "test of one label -1": ({"train.tsv": table(labeled(pos="-1", neg="1")),
                              "test.tsv": table([("x", "-1")])}, {},
                             {"train": 40, "test": 1, "unlabeled": False}),
    "test of None": ({"train.tsv": table(labeled(pos="None")), "test.tsv": table([("x", "None")])},
                     {}, {"train": 40, "test": 1, "unlabeled": False, "said": "'None' is a class here"}),
    "test of question marks": ({**TRAIN, "test.tsv": table([("x", "?"), ("y", "\\N")])}, {},
                               {**FORTY, "test": 2, "unlabeled": True}),
    "a text that nobody sees": ({"train.tsv": table([*ROWS, ("\u200b\x01", "pos")])}, {},
                                "line 42 has no value in column 'text'"),
    "single quotes": ({"train.csv": table([(a, f"'{b}'") for a, b in ROWS], sep=",")}, {},
                      {"train": 40, "said": "the quotes are part of the label"}),
    "words for absent": ({"train.tsv": table([*ROWS, ("NaN", "pos")])}, {},
                         {"train": 41, "said": "1 texts of train are words for an absent value, "}),
    "-1 beside numbers": ({"train.tsv": table([*labeled(pos="1", neg="0"), ("x", "-1"), ("y", "-1")])}, {},
                          {"train": 42, "said": "'-1' is a class here .2 rows"}),
    "half a test": ({**TRAIN, "test.tsv": table([("x", ""), ("y", "pos")])}, {},
                    "test.tsv at line 2 has no value"),
    "surrogate": ({"train.jsonl": lines([*objects(), {"text": "x\ud83d", "label": "pos"}])}, {},
                  r"train.jsonl at line 41, column 'text': '\\ud83d' is half of a surrogate pair"),
    "surrlabel": ({"train.jsonl": lines(objects(labeled(pos="pos\ud83d")))}, {},
                  "line 1, column 'label': .*half of a surrogate"),
    "a pair of surrogates": ({"train.jsonl": lines(objects(labeled(pos="😀")))}, {},
                             {"train": 40, "labels": ("neg", "😀")}),
    "an object": ({"train.jsonl": lines([{"text": {"en": "x"}, "label": "a"}])}, {},
                  "'text': it is an object"),
    "a list": ({"train.jsonl": lines([{"text": ["x"], "label": "a"}])}, {}, "'text': it is a list"),
    "deep": ({"train.jsonl": "[" * 100_000 + "\n"}, {}, "is not JSON at line 1"),
    "a long number": ({"train.jsonl": '{"text": ' + "1" * 5000 + "}\n"}, {}, "is not JSON at line 1"),
    # What a label is.
    "wslabel": ({"train.tsv": table(every(3, ROWS, lambda r: (r[0], r[1] + " \u200b")))}, {}, FORTY),
    "nfd": ({"train.tsv": table(labeled(pos="caf\u00e9")), "dev.tsv": table(labeled(pos="cafe\u0301"))}, {},
            {"train": 40, "validation": 40, "labels": ("caf\u00e9", "neg")}),
    "case": ({"train.tsv": table(every(3, ROWS, lambda r: (r[0], r[1].title())))}, {},
             {"train": 40, "said": "'Neg', 'neg' look alike and are different classes .7, 13 rows"}),
    "a misspelt label": ({**TRAIN, "dev.tsv": table([("x", "poss")])}, {},
                         "dev.tsv at line 2 has the label 'poss' .did you mean 'pos'"),
    "1 and 1.0": ({"train.tsv": table(labeled(pos="1", neg="0")), "dev.tsv": table([("x", "1.0")])}, {},
                  "dev.tsv at line 2 has the label '1.0' .did you mean '1'"),
    "float": ({"train.tsv": table([(text, f"{i / 7:.3f}") for i, (text, _) in enumerate(ROWS)])}, {},
              "has 40 real numbers as labels in 40 rows.*set task.name=regression to predict"),
    "half stars": ({"train.tsv": table(labeled(pos="1.5", neg="1"))}, {},
                   {"train": 40, "said": "the labels are real numbers, '1', '1.5'"}),
    "a column of ids": ({"train.tsv": table([(text, f"id{i}") for i, (text, _) in enumerate(ROWS)])}, {},
                        "has 40 labels in 40 rows.*check task.label_column"),
    "multi": ({"train.tsv": table([*ROWS, *[("both", "neg,pos")] * 3])}, {},
              {"train": 43, "said": "label 'neg,pos' is a class of its own, although its parts"}),
    "multi in another order": ({"train.tsv": table([*ROWS, ("b", "neg,pos")]),
                                "dev.tsv": table([("c", "pos,neg")])}, {},
                               "'pos,neg' .several labels in one row"),
    "multi in json": ({"train.jsonl": lines([{"text": "x", "label": ["a", "b"]}])}, {},
                      "train.jsonl at line 1, column 'label': it is a list of 2 labels"),
    "long labels": ({**TRAIN, "dev.tsv": table([("x", "word " * 99)]), "train.tsv": table(
        [(text, f"{i % 20} " * 99) for i, (text, _) in enumerate(ROWS)])}, {}, "has the label 'word word"),
    "numbers beyond all": ({"train.tsv": table(labeled(pos="1e999999999999999999999", neg="12e999999"))}, {},
                           {"train": 40}),
    "one": ({"train.tsv": table(labeled(neg="pos"))}, {}, "train.tsv has one label alone, 'pos'"),
    # What a split holds.
    "emptytest": ({**TRAIN, "test.tsv": table([])}, {}, "test.tsv: the test split is empty"),
    "emptyval": ({**TRAIN, "validation.tsv": table([])}, {}, "validation.tsv: the validation split is empty"),
    "one label in validation": ({**TRAIN, "dev.tsv": table([("x", "pos")])}, {},
                                {"train": 40, "said": "every validation example has the label 'pos'"}),
    "rare": ({"train.tsv": table([*ROWS, *((f"rare {i}", f"r{i}") for i in range(12))])}, {},
             {"train": 52, "said": "validation has 4 examples, none of them of label 'r0', 'r1'"}),
    "leak": ({**TRAIN, "dev.tsv": table(ROWS[:8]), "test.tsv": table([*ROWS[:5], ("new", "pos")])}, {},
             {"train": 40, "said": "8 of 8 validation examples are in train too, 5 of 6 test examples are in "
                                   "train too, 5 of 6 test examples are in validation too"}),
    "copies": ({"train.tsv": table([*ROWS, *ROWS[:7]])}, {},
               {"train": 47, "said": "equal texts: . of 4. train examples repeat another"}),
    "two labels of a text": ({"train.tsv": table([*ROWS, (ROWS[0][0].upper(), "neg")])}, {},
                             {"train": 41, "said": "1 texts of train have more than one label"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_read_as_its_owner_means_it_or_refused_with_the_remedy(tmp_path, name):
    files, settings, right = CASES[name]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        content = (
            content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        )
        (tmp_path / path).write_bytes(content)
    said, settings = [], dict(settings)
    source = f"files:{tmp_path}/{settings.pop('pattern', '**')}"
    if isinstance(right, str):
        with pytest.raises(ValueError, match=right) as caught:
            load(source, log=said.append, **settings)
        message = str(caught.value)
        message.encode()  # no half of a surrogate pair
        assert "\n" not in message and len(message.replace(str(tmp_path), "")) <= 400
        return
    found = load(source, log=said.append, **settings)
    sizes = {split: len(examples) for split, examples in found.items()}
    if "validation" not in right and not any("dev" in path for path in files):
        sizes["train"] += sizes.pop("validation")
        assert set(found["train"].label) == set(found.label_names)  # no label left train
    for key, value in right.items():
        if key in ("train", "validation", "test"):
            assert sizes[key] == value
        elif key == "labels":
            assert found.label_names == value
        elif key == "text":
            assert found["train"].text[0] == value
        elif key == "unlabeled":
            assert (found["test"].label == []) is value
        else:
            assert any(re.search(value, line) for line in said), said
    assert not [line for line in said if "\n" in line]
