"""The tables of docs/data.md about files and labels are those of the code.

`python tests/data/test_docs.py` rewrites them.
"""

import dataclasses
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data import labeled, labels  # noqa: E402
from data.conll import FORMATS as CONLL  # noqa: E402
from data.file_kinds import COMPRESSIONS, NOT_TEXT  # noqa: E402
from data.files import LEFTOVERS  # noqa: E402
from data.splits import SPLIT_WORDS, SPLITS  # noqa: E402
from data.tables import FORMATS, Dialect, Table, json_object  # noqa: E402
from tasks.labeled_task import LabeledTask  # noqa: E402
from tasks.pooled_task import TextColumns  # noqa: E402

PAGE = ROOT / "docs" / "data.md"
VALUES = ['"a text"', '" spaces around "', '"null"', '""', '"  "', "null", "NaN", "3", "1.0", "true",
          '"\\ud83d"', '"\\u0000"', '["a", "b"]', '{"a": 1}']  # fmt: skip


def row(*cells):
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def not_text():
    names = {"encoding": "ENCODING", "path": "FILE"}
    yield from (row(name, f"{remedy.format(**names)}") for name, _, remedy in NOT_TEXT)


def options():
    own = [f for f in dataclasses.fields(LabeledTask) if f.name in LabeledTask.__annotations__]
    own = [*dataclasses.fields(TextColumns), *own]
    for field in own:
        yield row(f"`task.{field.name}`", f"`{field.default!r}`", field.metadata["help"])


def formats():
    for suffix, delimiter in FORMATS.items():
        quoted = delimiter and Dialect().of(suffix)[1]
        yield row(
            f"`{suffix}`",
            "a line with a JSON object"
            if not delimiter
            else "a line; double quotes enclose fields, which may then have line ends (RFC 4180)"
            if quoted
            else "a line; quotes are text and nothing is escaped, as in GLUE",
        )


def splits():
    for split in SPLITS:
        words = sorted(word for word, named in SPLIT_WORDS.items() if named == split)
        yield row(", ".join(f"`{word}`" for word in words), split)


def values():
    for literal in VALUES:
        table = Table("file", ["text"], {"text": []})
        try:
            table.add(1, {"text": _parsed(literal)})
            (value,) = table.columns["text"]
            meaning = "absent" if value is None else f"`{json.dumps(value)}`"
            if isinstance(value, list):
                meaning = "an error for a text, an error for a label"
        except ValueError as error:
            meaning = "an error: " + str(error).partition("column 'text': ")[2]
        yield row(f"`{literal}`", meaning)


def _parsed(literal):
    [(_, value)] = json_object("file", 1, '{"text": ' + literal + "}")
    return value


TABLES = {
    "not text": not_text,
    "options": options,
    "formats": formats,
    "splits": splits,
    "values": values,
}


def written(page):
    """The page with its tables made anew."""
    for name, lines in TABLES.items():
        mark = f"<!-- {name} -->\n"
        assert page.count(mark) == 1, name
        before, _, after = page.partition(mark)
        head, rest = re.match(r"((?:\|.*\n){2})(?:\|.*\n)*((?s:.*))", after).groups()
        page = before + mark + head + "".join(f"{line}\n" for line in lines()) + rest
    return page


def test_the_tables_of_the_page_are_those_of_the_code():
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run python tests/data/test_docs.py"
    for suffix in (*LEFTOVERS, *COMPRESSIONS, *CONLL):
        assert f"`{suffix}`" in page
    assert f"more than {labels.MAX_REAL_CLASSES} different real numbers" in page
    assert f"fewer than {labeled.SMALL} examples" in page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
