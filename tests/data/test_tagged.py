"""Sentences with tags from every format, and the one line that names a mistake in them."""

import json

import numpy as np
import pytest

from data import tag_schemes, tagged

BIO = ["B-PER", "I-PER", "O", "B-LOC"]
WORDS = ["Ada", "Lovelace", "visits", "Rome"]


def write(folder, splits):
    """Writes {split: rows or the text of a CoNLL file}; returns the source."""
    for split, rows in splits.items():
        is_text = isinstance(rows, str)
        text = rows if is_text else "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.{'conll' if is_text else 'jsonl'}").write_text(text, encoding="utf-8")
    return f"files:{folder}/*"


def load(folder, splits, scheme="auto", spans="", log=None, **options):
    source = write(folder, splits)
    columns = tagged.columns("tokens", "tags", "text", spans)
    return tagged.load(source, columns, scheme, log=log or (lambda line: None), **options)


def rows(*sentences):
    return [{"tokens": words, "tags": tags} for words, tags in sentences]


TRAIN = rows((WORDS, BIO), (["We", "eat"], ["O", "O"])) * 2


def test_lists_of_words_and_tags(tmp_path):
    lines = []
    splits = load(
        tmp_path, {"train": TRAIN, "dev": TRAIN[:1], "test": TRAIN[1:2]}, log=lines.append
    )
    assert splits["train"].columns == {
        "words": [WORDS, ["We", "eat"]] * 2,
        "tags": [BIO, ["O", "O"]] * 2,
    }
    assert list(splits) == ["train", "validation", "test"]
    assert splits.label_names == ("B-LOC", "B-PER", "I-PER", "O")
    assert "entities in BIO" in lines
    assert str(splits["train"].places[1]).endswith("train.jsonl at line 2")


def test_words_keep_what_is_in_them(tmp_path):
    words = ["a b", "tab\there", "", " ", "\ufe0f", "👨‍👩‍👧", "\u00a0", 'quo"te', 7, True]
    train = rows((words, ["O"] * 10), (WORDS, BIO))
    splits = load(tmp_path, {"train": train, "validation": train})
    assert splits["train"].get("words")[0] == [*words[:8], "7", "true"]


def test_spans_become_bio_over_words():
    text = "Ada Lovelace-Byron (b. 1815) visits the U.S."
    spans = tagged.as_spans(
        [{"start": "0", "end": "18", "label": "PER", "other": None}, ["40", "44", "LOC"]]
    )
    found = dict(zip([w for w, _ in tagged.split_words(text)], tagged.tags_of_spans(text, spans),
                     strict=False))  # fmt: skip
    assert found["Ada"] == "B-PER" and found["Lovelace"] == found["Byron"] == "I-PER"
    assert found["("] == found["visits"] == "O" and found["U"] == "B-LOC"
    tags = tagged.tags_of_spans("a bb c", [(0, 2, "X"), (2, 4, "X"), (5, 6, "Y")])
    assert tags == ["B-X", "B-X", "B-Y"]  # white space at an end is no part of a span
    assert tagged.as_spans({"start": ["0"], "end": ["2"], "label": ["X"]}) == [(0, 2, "X")]
    entities = [("PER", 0, 3), ("LOC", 11, 14)]
    assert tagged.spans_of_tags(text, entities) == [
        {"start": 0, "end": 18, "label": "PER"},
        {"start": 40, "end": 44, "label": "LOC"},
    ]


def test_words_of_a_text_in_many_scripts():
    def words(text):
        found = tagged.split_words(text)
        assert all(text[a:b] == word for word, (a, b) in found)
        return [word for word, _ in found]

    assert words("don't, 5€!") == ["don", "'", "t", ",", "5", "€", "!"]
    assert words("東京は ภา हिन्दी") == ["東", "京", "は", "ภ", "า", "हिन्दी"]
    assert words("e\u0301t\u0301 ❤️😀x") == ["e\u0301t\u0301", "❤️", "😀", "x"]
    assert words("") == words(" \n\t") == []


def test_texts_with_spans(tmp_path):
    text = "Ada visits Rome"
    train = [
        {"text": text, "entities": [[0, 3, "PER"], [11, 15, "LOC"]]},
        {"text": "Nothing", "entities": []},
    ]
    splits = load(tmp_path, {"train": train * 2, "dev": train}, spans="entities")
    assert splits["train"].columns == {
        "text": [text, "Nothing"] * 2,
        "tags": [["B-PER", "O", "B-LOC"], ["O"]] * 2,
    }
    assert tagged.words_of(splits["train"])[:2] == [["Ada", "visits", "Rome"], ["Nothing"]]


def test_a_test_split_without_tags_is_read(tmp_path):
    words = [{"tokens": ["x", "y"]}]
    splits = load(tmp_path, {"train": TRAIN, "validation": TRAIN, "test": words})
    assert splits["test"].columns == {"words": [["x", "y"]]}
    blind = "x _\ny _\n"
    (tmp_path / "blind").mkdir()
    splits = load(
        tmp_path / "blind", {"train": "a B-X\nb O\n\nc O\n", "validation": "a B-X\n", "test": blind}
    )
    assert splits["test"].get("tags") is None and splits["test"].get("words") == [["x", "y"]]


@pytest.mark.parametrize(
    ("tags", "scheme", "described"),
    [
        ([["B-X", "I-X", "O"]], "bio", "entities in BIO"),
        ([["I-X", "B-X", "O", "I-X"]], "bio", "entities in IOB1"),
        (
            [["B-X", "O", "I-Y"]],
            "bio",
            "entities in BIO (1 start with I-, as conlleval reads them)",
        ),
        ([["B", "I", "O"]], "bio", "entities in BIO"),
        ([["B-X", "E-X", "O", "S-Y"]], "bioes", "entities in BIOES"),
        ([["B-X", "L-X", "O", "U-Y"]], "bioes", "entities in BIOES"),
        ([["B-X", "M-X", "E-X", "O"]], "bioes", "entities in BIOES"),
        ([["NOUN", "VERB", "X"]], "none", "plain tags"),
        ([["B-X", "NN", "O"]], "none", "plain tags"),
        ([["O", "O"]], "none", "plain tags"),
    ],
)
def test_the_scheme_is_seen_from_the_tags(tags, scheme, described):
    found = tag_schemes.scheme_of({tag for each in tags for tag in each})
    assert (found, tag_schemes.describe(tags, found)) == (scheme, described)
    assert tag_schemes.scheme_of({"B-X", "O"}, "none") == "none"
    assert tag_schemes.scheme_of({"B-X", "O"}, "bioes") == "bioes"
    with pytest.raises(ValueError, match="task.scheme='bio', but there is the tag 'S-X'"):
        tag_schemes.scheme_of({"S-X", "O"}, "bio")


def test_other_forms_of_bioes_are_read_as_it():
    assert tag_schemes.canonical(["B-X", "M-X", "L-X", "U-Y", "O"]) == [
        "B-X",
        "I-X",
        "E-X",
        "S-Y",
        "O",
    ]
    assert tag_schemes.canonical(["LOC", "UH", "M"]) == ["LOC", "UH", "I"]
    assert [tag_schemes.inside(tag) for tag in ("B-X", "B", "I-X", "O")] == ["I-X", "I", "I-X", "O"]


LONG = "x" * 100_000
SPANS = {"text": "Ada Lovelace", "entities": [[0, 3, "PER"]]}


def spans(*found):
    return [{"text": "Ada Lovelace", "entities": list(found)}]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            rows((WORDS, BIO[:3])),
            "train.jsonl at line 1 has 4 words and 3 tags: write a tag for each word",
        ),
        (rows((WORDS, [*BIO[:3], None])), "line 1, column 'tags': its element 4 is no tag"),
        (rows((WORDS, [*BIO[:3], " "])), "its element 4 is no tag: write one, such as O"),
        (rows(([*WORDS[:3], None], BIO)), "column 'tokens': its element 4 is no word"),
        (rows(([[w] for w in WORDS], BIO)), "its element 1 is no word"),
        (
            rows(("Ada Lovelace", BIO)),
            "it is a text, expected a list of words; .* task.spans_column",
        ),
        (rows((WORDS, "O")), "it is a text, expected a list with a tag for each word"),
        (rows(([], [])), "has no value in column 'tokens'"),
        (
            [{"words": WORDS, "tags": BIO}],
            "has no column 'tokens': set task.token_column to one of 'words'",
        ),
        ([{"tokens": WORDS, "ner_tags": BIO}], r"no column 'tags' \(did you mean 'ner_tags'\?\)"),
        (rows((WORDS, ["O"] * 4)), "has one tag alone, 'O', and a tagger needs two"),
        (rows((WORDS * 6, [str(n) for n in range(24)])), "has 24 tags in 24 words"),
        (rows((["\ud83d"], ["O"])), "half of a surrogate pair"),
        (
            "1 EU B-ORG\n2 said O\n\n1 A O\n2 b O\n",
            "the words are 1, 2, ...: set task.token_column",
        ),
        (rows((WORDS, BIO)), "train has one distinct text"),
    ],
)
def test_a_mistake_in_lists_is_one_line(tmp_path, train, message):
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, {"train": train})
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (spans([0, 2, "PER"]), r"line 1: span \[0, 2, 'PER'\], 'Ad', ends inside the word 'Ada'"),
        (spans([1, 3, "PER"]), "starts inside the word 'Ada'"),
        (spans([0, 3, "A"], [0, 12, "B"]), r"span \[0, 12, 'B'\] overlaps span \[0, 3, 'A'\]"),
        (spans([4, 13, "PER"]), "covers no text: the text has 12 characters"),
        (spans([3, 4, "PER"]), "covers no text"),
        (spans([4, 3, "PER"]), "covers no text"),
        (spans([-1, 3, "PER"]), "span 1 is from -1 to 3, expected numbers of characters"),
        (spans([0.5, 3, "PER"]), "span 1 is from 0.5 to 3"),
        (spans([0, 3]), r"span 1 is not \[start, end, label\]"),
        (spans([0, 3, ""]), "span 1 has no label"),
        (
            spans({"start": 0, "end": 3, "type": "PER"}),
            "span 1 has no 'label', but start, end, type",
        ),
        (spans("PER"), r"span 1 is not \[start, end, label\]"),
        ([{"text": "Ada", "entities": "PER"}], "it is no list of spans"),
        ([{"text": ["Ada"], "entities": []}], "column 'text': it is a list, expected a text"),
        ([{"text": "Ada", "spans": []}], "has no column 'entities'"),
        ([{"text": "Ada", "entities": []}], "has one tag alone, 'O'"),
        ([SPANS | {"text": LONG}], "'Xxx|ends inside the word"),
    ],
)
def test_a_mistake_in_spans_is_one_line(tmp_path, train, message):
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, {"train": train, "validation": train}, spans="entities")
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400


def test_tags_that_train_does_not_have_are_named(tmp_path):
    lines = []
    rare = rows((WORDS, ["B-PRE", "I-PER", "O", "B-LOC"]))
    load(tmp_path, {"train": TRAIN, "validation": TRAIN, "test": rare * 2}, log=lines.append)
    (line,) = [line for line in lines if "B-PRE" in line]
    assert line == (
        "warning: 2 words of test have tags that train does not have, such as 'B-PRE' (did you mean "
        "'B-PER'?): no prediction of them is right"
    )
    other = rows((WORDS, ["B-GPE", "I-GPE", "O", "O"]))
    with pytest.raises(ValueError, match="train has 'B-LOC', .*: use files of one set"):
        load(tmp_path, {"train": TRAIN, "validation": TRAIN, "test": other})
    plain = rows((WORDS, ["NOUN", *BIO[1:]]))
    with pytest.raises(ValueError, match="there is the tag 'NOUN'"):
        load(tmp_path, {"train": TRAIN, "validation": TRAIN, "test": plain})


def test_what_may_be_a_mistake_is_a_warning(tmp_path):
    lines = []
    train = rows((WORDS, ["b-per", *BIO[1:]]), (WORDS[:2], BIO[:2]))
    load(tmp_path, {"train": train, "validation": train}, log=lines.append)
    text = "\n".join(lines)
    assert "warning: tags 'B-PER', 'b-per' differ in case alone" in text
    assert "warning: validation has 2 sentences: its scores say little" in text
    lines.clear()
    numbers = rows((WORDS, [0, 1, 2, 0]), (WORDS, [0, 0, 0, 0]))
    splits = load(tmp_path, {"train": numbers, "validation": numbers}, log=lines.append)
    assert splits.label_names == ("0", "1", "2")
    assert "write their names, such as B-PER" in "\n".join(lines)


def test_a_table_is_refused_with_the_suffix_to_use(tmp_path):
    (tmp_path / "train.tsv").write_text("EU\tB-ORG\nrejects\tO\n")
    columns = tagged.columns("tokens", "tags", "text", "")
    with pytest.raises(ValueError, match=r"train.tsv is none of .*: rename a file .* to .conll"):
        tagged.load(f"files:{tmp_path}/*", columns)


def test_sequences_of_tfds(tmp_path):
    import tensorflow_datasets as tfds

    class Sentences(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}

        def _info(self):
            label = tfds.features.ClassLabel(names=["O", "B-X", "I-X"])
            features = {
                "tokens": tfds.features.Sequence(tfds.features.Text()),
                "ner": tfds.features.Sequence(label),
                "text": tfds.features.Text(),
                "spans": tfds.features.Sequence(
                    {"start": tfds.features.Scalar(np.int32), "end": tfds.features.Scalar(np.int32),
                     "label": tfds.features.Text()}
                ),
            }  # fmt: skip
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples(), "validation": self._generate_examples()}

        def _generate_examples(self):
            span = {"start": 0, "end": 1, "label": "X"}
            for key, tags in enumerate((["B-X", "I-X"], ["O", "O"])):
                yield key, {"tokens": ["é", "b"], "ner": tags, "text": "é b", "spans": [span]}

    builder = Sentences(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_dir=tmp_path / "downloads")
    source = f"tfds:{builder.data_path}"
    splits = tagged.load(source, tagged.columns("tokens", "ner", "text", ""))
    assert splits["train"].columns == {
        "words": [["é", "b"]] * 2,
        "tags": [["B-X", "I-X"], ["O", "O"]],
    }
    splits = tagged.load(source, tagged.columns("tokens", "ner", "text", "spans"))
    assert splits["train"].columns == {"text": ["é b"] * 2, "tags": [["B-X", "O"]] * 2}
