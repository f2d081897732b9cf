"""The texts that a tool reads: lines of standard input or of a text file, or a column of a table.

Used by generate, fill_mask and predict. Blank lines of text are skipped and counted in the log.
"""

import dataclasses
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

from data import conll, tables
from data.chat_template import check_messages
from data.file_kinds import identify, read_head
from data.files import reading_text, text_lines
from data.json_lines import is_json
from data.tables import FORMATS, Dialect, Table

log = logging.getLogger("triptych")
STDIN = "standard input"


@dataclasses.dataclass(frozen=True)
class Item:
    """A text, or the messages of a dialogue; place: for errors."""

    place: str
    text: str = ""
    messages: tuple = ()

    @property
    def record(self) -> dict[str, Any]:
        """As it is written to the output."""
        return {"messages": list(self.messages)} if self.messages else {"prompt": self.text}


def has_lines(path: str) -> bool:
    """Whether a file is read as a text per line: it has none of the formats of tables."""
    return identify(path).format not in (*FORMATS, *conll.FORMATS, ".json")


def read_lines(path: str, column: str, max_rows: int = 0) -> Iterator[Table]:
    """Tables of at most `max_rows` rows (0: no limit) whose one column has the lines of a text file.

    Raises ValueError of one line for a file without text, that is not UTF-8, with JSON lines, or whose
    first line names `column` and others."""
    with reading_text(path) as (stream, raw):
        head = read_head(stream)
        first = head.split(b"\n", 1)[0].decode(errors="replace").strip()
        names = re.split(r"[\t,;]", first) if re.fullmatch(r"\w+([\t,;]\w+)+", first) else ()
        if is_json(head) or column in names:
            found = "a table" if column in names else "JSON"
            remedy = ".tsv or .csv" if column in names else ".jsonl"
            raise ValueError(
                f"{path} has {found}, but by its name it has a text per line; rename it to {remedy}"
            )
        for table in _tables(stream, path, column, max_rows):
            table.position = raw.tell()
            yield table


def read_stdin(column: str, max_rows: int = 0) -> Iterator[Table]:
    """As `read_lines`, of standard input; in a terminal one text after another, with a limit."""
    if sys.stdin.isatty():
        log.info("texts from standard input, one per line; Ctrl-D ends")
        max_rows = min(max_rows, 1)
    return _tables(sys.stdin.buffer, STDIN, column, max_rows)


def _tables(stream, name, column, max_rows):
    table, num_blank, is_empty = Table(name, [column], {column: []}), 0, True
    for number, text in text_lines(stream, name):
        if tables.value_of(text.replace("\0", " ")) is None:
            num_blank += 1
            continue
        table.add(number, {column: text})
        is_empty = False
        if table.is_full(max_rows):
            yield table
            table = Table(name, [column], {column: []})
    if is_empty:
        raise ValueError(f"{name} has no text; write one per line")
    if num_blank:
        log.info(f"{name}: {num_blank:,} blank line{'s are' if num_blank > 1 else ' is'} skipped")
    if table.numbers:
        yield table


def items_of(path: str, column: str) -> list[Item]:
    """The texts of a file. Raises ValueError of one line that names the file, the line and the remedy."""
    if has_lines(path):
        [table] = read_lines(path, column)
        return _items(table, column)
    table = tables.read(path, [column, "messages"], Dialect(), log.info, objects=("messages",))
    if not {column, "messages"} & table.columns.keys():
        raise table.missing_column(column, "--column")
    return _items(table, column)


def stdin_items(column: str) -> list[Item]:
    """The texts of standard input, one per line."""
    return [item for table in read_stdin(column) for item in _items(table, column)]


def _items(table, column):
    texts, dialogues = (table.columns.get(name) for name in (column, "messages"))
    items = []
    for row in range(len(table.numbers)):
        place = table.at(row)
        if texts and isinstance(texts[row], str):
            items.append(Item(place, texts[row]))
        elif dialogues and dialogues[row]:
            items.append(Item(place, messages=tuple(check_messages(dialogues[row], place))))
        else:
            raise ValueError(f"{place}: {column!r} has no text; give it one, or remove the row")
    return items
