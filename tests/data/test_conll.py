"""CoNLL and CoNLL-U files as tables of sentences."""

import pytest

from data import conll, tables
from data.tables import Dialect

BOTH = ("tokens", "tags")


def read(tmp_path, content, name="train.conll", names=BOTH, **dialect):
    file = tmp_path / name
    file.write_text(content, encoding="utf-8", newline="")
    table = tables.read(str(file), names, Dialect(**dialect))
    return table.columns, table.numbers


EU = {"tokens": [["EU", "rejects"], ["Peter"]], "tags": [["B-ORG", "O"], ["B-PER"]]}


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        ("EU\tB-ORG\nrejects\tO\n\nPeter\tB-PER\n", [1, 4]),
        ("EU B-ORG\nrejects O\n\n\n \t\nPeter B-PER", [1, 6]),
        ("EU   B-ORG\r\nrejects\tO \r\n\r\nPeter B-PER\r\n", [1, 4]),
        (
            "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\nPeter NNP I-NP B-PER\n",
            [3, 6],
        ),
        ("-DOCSTART-\tO\n\nEU\tB-ORG\nrejects\tO\n-DOCSTART- (2)\nPeter\tB-PER\n", [3, 6]),
        ("# id = 5\nEU B-ORG\nrejects O\n\n# sent 1 text = Peter\nPeter B-PER\n", [2, 6]),
        ("# newdoc\nEU B-ORG\nrejects O\n\nPeter B-PER\n", [2, 5]),
        ("\ufeffEU,B-ORG\nrejects,O\n\nPeter,B-PER\n", [1, 4]),
    ],
)
def test_a_blank_line_ends_a_sentence_and_the_last_column_is_the_tag(tmp_path, content, numbers):
    delimiter = "," if "," in content else ""
    assert read(tmp_path, content, delimiter=delimiter) == (EU, numbers)


def test_columns_are_chosen_by_number_and_by_name(tmp_path):
    content = "EU NNP I-NP B-ORG\n"
    for name, value in (("1", "EU"), ("3", "I-NP"), ("-1", "B-ORG"), ("-3", "NNP")):
        assert read(tmp_path, content, names=(name,))[0] == {name: [[value]]}
    names = ("word", "pos", "chunk", "ner")
    found, _ = read(tmp_path, content, names=("pos", "tags", "4", "5", "0", "x"), columns=names)
    assert found == {"pos": [["NNP"]], "tags": [["B-ORG"]], "4": [["B-ORG"]]}
    # Tokens alone, as of a test set without tags.
    assert read(tmp_path, "EU\nrejects\n")[0] == {"tokens": [["EU", "rejects"]]}


def test_a_word_may_hold_blanks_begin_with_a_hash_or_be_invisible(tmp_path):
    content = "#EU\tO\n#\tO\nNew York\tB-LOC\n\tO\n \tO\n\ufe0f\tO\n\u00a0\tO\n"
    found, _ = read(tmp_path, content)
    assert found["tokens"] == [["#EU", "#", "New York", "", " ", "\ufe0f", "\u00a0"]]
    assert read(tmp_path, "#EU B-ORG\n# O\nx\u00a0y B-ORG\n\n#EU O\n")[0]["tokens"] == [
        ["#EU", "#", "x\u00a0y"],
        ["#EU"],
    ]


CONLL_U = """# sent_id = 1
# text = vámonos al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\tV\tMood=Imp|Number=Plur\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\tCase=Acc\t1\tobj\t_\t_
2.1\t_\t_\tVERB\t_\t_\t_\t_\t_\t_
3\tNew York\tmar\tPROPN\t_\t_\t1\tobl\t_\tSpaceAfter=No

1\tsí\tsí\tINTJ\tI\t_\t0\troot\t_\t_
"""


def test_conll_u_leaves_out_multiword_tokens_and_empty_nodes(tmp_path):
    names = (*BOTH, "xpos", "feats", "deprel")
    found, numbers = read(tmp_path, CONLL_U, "train.conllu", names)
    assert found == {
        "tokens": [["vamos", "nos", "New York"], ["sí"]],
        "tags": [["VERB", "PRON", "PROPN"], ["INTJ"]],
        "xpos": [["V", "P", "_"], ["I"]],
        "feats": [["Mood=Imp|Number=Plur", "Case=Acc", "_"], ["_"]],
        "deprel": [["root", "obj", "obl"], ["root"]],
    }
    assert numbers == [4, 9]
    plus = "# global.columns = ID FORM MY:NE\n1\tEU\tB-ORG\n2\trejects\tO\n"
    found, _ = read(tmp_path, plus, "train.conllup", ("tokens", "tags", "ne"))
    assert found == {
        "tokens": [["EU", "rejects"]],
        "tags": [["B-ORG", "O"]],
        "ne": [["B-ORG", "O"]],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.conll",
            "EU B-ORG\nrejects\nx O\n",
            "has 1 columns at line 2, 'rejects', but most lines have 2",
        ),
        ("a.bio", "EU\tB-ORG\nno tab\nx\tO\ny\tO", "at line 2, 'no tab'|has 2 columns|"),
        ("a.conll", "\n \n# comment\n", "is empty: expected a token and its tag per line"),
        (
            "a.conllu",
            "1\tEU\tB-ORG\n",
            "has 3 fields at line 1, .* expected 10 with tabs .* to .conll",
        ),
        ("a.conllu", CONLL_U.replace("3\tNew", "x\tNew"), "has the id 'x' at line 7"),
        ("a.conllu", "# only = comments\n\n", "is empty"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, name, content, message):
    if "|" in message:  # spaces and tabs: read as white space
        assert read(tmp_path, content, name)[0]["tokens"] == [["EU", "no", "x", "y"]]
        return
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content, name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_wrong_names_of_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="has 2 columns, but task.columns names 3"):
        read(tmp_path, "EU O\n", columns=("a", "b", "c"))
    file = tmp_path / "x.conll"
    file.write_text("EU NNP O\n")
    table = tables.read(str(file), ("ner",), Dialect())
    error = table.missing_column("ner", "task.tag_column")
    assert "has no column 'ner': set task.tag_column to one of '1', '2', '3'" in str(error)
    file = tmp_path / "x.conllu"
    file.write_text(CONLL_U)
    error = tables.read(str(file), ("UPOS",), Dialect()).missing_column("UPOS", "task.tag_column")
    assert "did you mean 'upos'" in str(error)


def test_the_suffix_decides_whatever_the_compression():
    assert conll.path_is_conll_u("a/b.CoNLLU.xz") and conll.path_is_conll_u("b.conllup")
    assert not conll.path_is_conll_u("a.conllu/b.conll") and not conll.path_is_conll_u("x.conll.gz")
