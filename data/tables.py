"""Reads the requested columns of TSV, CSV, JSONL and SQuAD files.

Between data/files.py, which opens a file, and data/labeled.py, which asks for columns.
"""

import csv
import difflib
import io
import itertools
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from data import conll, squad
from data.file_kinds import COMPRESSIONS, identify
from data.files import reading_text, utf8_error
from data.labels import is_invisible, label_of
from data.table_hints import Quotes, header_hint, holds_rows

# Format -> the character between its fields; '' for one JSON object per line.
FORMATS = {".tsv": "\t", ".csv": ",", ".jsonl": "", ".ndjson": ""}
# task.quoting of 'auto' for a delimiter; another delimiter is read as CSV is.
_AUTO_QUOTING = {"\t": "none"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_CHUNK_CHARACTERS = 1 << 24


@dataclass(frozen=True)
class Dialect:
    """How a source is written: `task.columns`, `task.delimiter` and `task.quoting` of TSV and CSV files, and
    `task.splits` of TFDS."""

    columns: tuple = ()  # names, for files without a header
    delimiter: str = ""  # '': by the format
    quoting: str = "auto"  # auto, none or minimal
    splits: tuple = ()  # 'SPLIT=NAME', see splits.choose_splits

    def check(self) -> None:
        """Raises ValueError for values that no file can have."""
        if self.delimiter and (len(self._delimiter("")) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(
                f"task.delimiter={self.delimiter!r} is not a delimiter: expected one character, such "
                "as ';' or '\\t', or '' for that of the format"
            )
        names = [column_name(name) for name in self.columns if isinstance(name, str)]
        if len(names) != len(self.columns):
            raise ValueError(f"task.columns={self.columns!r} has a name that is not a string")

    def _delimiter(self, default):
        return {"": default, "\\t": "\t", "tab": "\t"}.get(self.delimiter, self.delimiter)

    def of(self, form: str) -> tuple[str, bool]:
        """(delimiter, whether double quotes enclose fields) of a format."""
        delimiter = self._delimiter(FORMATS[form])
        quoting = self.quoting
        if quoting == "auto":
            quoting = _AUTO_QUOTING.get(delimiter, "minimal")
        return delimiter, quoting == "minimal"


@dataclass
class Table:
    """The rows of one file or TFDS split: requested columns alone.

    columns: {name: values}; a value is a text, None if it is absent, or a list of texts; in the columns
    `objects`, a dict of values too.
    """

    place: str  # the file's path, or the name of the TFDS split
    names: list[str]  # of all columns
    columns: dict[str, list]
    numbers: list[int] = field(default_factory=list)  # line, or number of the record
    unit: str = "line"
    hint: str = ""  # what else may be wrong if a column is missing
    objects: tuple = ()  # names of the columns whose values may be objects
    position: int = 0  # bytes of the file on disk that were read up to its end
    characters: int = 0  # of its texts

    def add(self, number: int, values: dict) -> None:
        """Adds the row of a line with its values by column. Raises ValueError that names both."""
        self.numbers.append(number)
        for name, value in values.items():
            try:
                self.columns[name].append(value_of(value, name in self.objects))
            except ValueError as error:
                raise ValueError(f"{self.at(-1)}, column {name!r}: {error}") from error
            self.characters += len(value) if isinstance(value, str | list) else 0

    def is_full(self, max_rows: int) -> bool:
        """Whether it has `max_rows` rows (0: no limit), or so long texts that it ends before."""
        return bool(max_rows) and (
            len(self.numbers) >= max_rows or self.characters >= _CHUNK_CHARACTERS
        )

    def with_names(self, names) -> "Table":
        """The table of objects that have these keys in all, without the columns that none has."""
        self.names = list(names)
        self.columns = {n: v for n, v in self.columns.items() if column_name(n) in names}
        return self

    def at(self, row: int) -> str:
        """The place of a row, for an error message."""
        return f"{self.place} at {self.unit} {self.numbers[row]}"

    def missing_column(self, name: str, option: str) -> ValueError:
        """The error for a requested column that the table does not have."""
        names = list(dict.fromkeys(self.names))
        folded = {each.casefold(): each for each in names}
        near = difflib.get_close_matches(name.casefold(), folded, 1, 0.5)
        guess = f" (did you mean {folded[near[0]]!r}?)" if near else ""
        return ValueError(
            f"{self.place} has no column {name!r}{guess}: set {option} to one of "
            f"{_shown(map(repr, names))}{self.hint}"
        )


def column_name(name: str) -> str:
    """Normalizes the name of a column: without outer white space, in Unicode's NFC."""
    return unicodedata.normalize("NFC", name.strip().strip("\ufeff").strip())


def value_of(value, objects=False):
    """Converts a value to a text, to a list of texts, or to None if it is absent.

    null, NaN and texts without a visible character are absent; numbers and booleans are as in JSON. With
    `objects`, a value may be one, and lists keep texts without a visible character. Raises ValueError
    for bytes that are not UTF-8, half of a surrogate pair, a NUL and another object.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"it is not UTF-8 at byte {error.start}; prepare the data again"
            ) from error
    if isinstance(value, str):
        if not value.isascii() and (found := _SURROGATE.search(value)):
            raise ValueError(
                f"{found[0]!r} is half of a surrogate pair, as when an emoji is cut; correct the value "
                "or remove the row"
            )
        if "\0" in value:
            raise ValueError("it has a NUL character; remove it")
        return None if all(map(is_invisible, value)) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, _Object | dict):
        if not objects:
            raise ValueError("it is an object {...}, expected a text; choose another column")
        return {key: value_of(each, objects) for key, each in dict(value).items()}
    if isinstance(value, list):
        return [_element(each, objects) for each in value]
    return json.dumps(value)


def _element(value, objects):
    """A value in a list; a text without a visible character is kept if `objects`."""
    found = value_of(value, objects)
    if found is None and objects and isinstance(value, str | bytes):
        return value if isinstance(value, str) else value.decode()
    return found


def read(path: str, names, dialect: Dialect, log=lambda line: None, objects=()) -> Table:
    """The columns `names` of a TSV, CSV, JSONL, CoNLL, CoNLL-U or SQuAD file, those that it has.

    Values of the columns `objects` may be objects.
    Raises ValueError or OSError of one line that names the file, the line and the remedy.
    """
    return next(read_chunks(path, names, dialect, log, objects))


def read_chunks(
    path: str, names, dialect: Dialect, log=lambda line: None, objects=(), max_rows: int = 0
) -> Iterator[Table]:
    """As `read`, in tables of at most `max_rows` rows (0: all) and, with such a limit, of about
    `_CHUNK_CHARACTERS`: a TSV, CSV or JSONL file of any size takes the memory of one table."""
    form = identify(path).format
    with reading_text(path) as (stream, raw):
        lines = _decoded(path, stream)
        if FORMATS.get(form):
            tables = _separated(path, lines, form, names, dialect, log, max_rows)
        elif form in FORMATS:
            check_json_dialect(path, dialect)
            tables = _jsonl(path, lines, names, objects, max_rows)
        else:
            tables = [_whole(path, form, "".join(lines), names, dialect, objects)]
        for table in tables:
            table.position = raw.tell()
            yield table


def _whole(path, form, content, names, dialect, objects) -> Table:
    """The table of a file that is read at once."""
    if form in conll.FORMATS:
        return Table(path, *conll.read(path, content, names, dialect.columns, dialect.delimiter))
    if form == ".json" and squad.is_squad(parsed := squad.parse(path, content)):
        check_json_dialect(path, dialect)
        return _squad(path, parsed, names, objects)
    hint = (
        "write one object per line in a .jsonl file (rename it if it is so, or use jq -c '.[]')"
        if form == ".json"
        else "convert or rename it"
    )
    known = ", ".join((*FORMATS, *conll.FORMATS))
    raise ValueError(f"{path} is none of {known} (plain or {', '.join(COMPRESSIONS)}): {hint}")


def check_json_dialect(path: str, dialect: Dialect) -> None:
    """Raises ValueError for options of TSV and CSV files."""
    if dialect.delimiter or dialect.columns:
        name = "delimiter" if dialect.delimiter else "columns"
        raise ValueError(f"task.{name} is of TSV and CSV files, but {path} is JSON: leave it out")


def _decoded(path, stream) -> Iterator[str]:
    """The lines of a stream with their ends, without byte order marks at their starts."""
    offset = 0
    for line in stream:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise utf8_error(path, offset + error.start) from error
        offset += len(line)
        yield text.lstrip("\ufeff")


def _separated(path, lines, form, names, dialect, log, max_rows) -> Iterator[Table]:
    delimiter, quoted = dialect.of(form)
    first_line = next(lines, "")
    lines = itertools.chain([first_line], lines)
    rows = _quoted_rows(path, lines, delimiter) if quoted else _plain_rows(lines, delimiter)
    first = next((each for each in rows if dialect.columns or label_of("".join(each[1]))), None)
    if first is None:
        raise ValueError(f"{path} is empty: its first line must name the columns")
    header = [column_name(name) for name in dialect.columns or first[1]]
    in_first_line = "task.columns names" if dialect.columns else "its first line names"
    if dialect.columns and [column_name(name) for name in first[1]] == header:
        raise ValueError(f"{path} has a header, {_shown(header)}: leave task.columns out")
    places = {}
    for name in names:
        found = [place for place, each in enumerate(header) if each == column_name(name)]
        if len(found) > 1:
            raise ValueError(f"{path} names the column {name!r} twice: rename one")
        places |= {name: found[0]} if found else {}
    table = Table(path, header, {name: [] for name in places})
    if not places:  # an error, whatever the rows are
        table.hint = header_hint(first_line.rstrip("\n"), delimiter, names, len(header))
        for number, row in itertools.islice(rows, 20):
            if {*map(column_name, names)} <= {*map(column_name, row)}:
                table.hint = f"; or remove the lines before line {number}, which names them"
        yield table
        return
    if dialect.columns:
        rows = itertools.chain([first], rows)
    quotes = Quotes() if dialect.quoting == "auto" and not quoted else None
    long_rows = []  # with a line end in a field
    for number, row in rows:
        if len(row) == 1 < len(header) and not label_of(row[0]):
            continue  # a blank line
        if len(row) != len(header):
            remedy = "correct the line, or set task.delimiter or task.quoting"
            if any("\r" in cell for cell in (*first[1], *row)):
                remedy = "convert its line ends, which are not all the same"
            raise ValueError(
                f"{path} has {len(row)} fields at line {number}, but {in_first_line} {len(header)}: "
                f"{remedy}"
            )
        if row == first[1] and not dialect.columns:
            raise ValueError(
                f"{path} repeats its header at line {number}, as joined files do: remove the line"
            )
        if table.is_full(max_rows):
            _check_long_rows(table, long_rows, delimiter, places)
            yield table
            table, long_rows = Table(path, header, {name: [] for name in places}), []
        values = {name: row[place] for name, place in places.items()}
        table.add(number, values)
        if quoted and any("\n" in value for value in row):
            long_rows.append((number, row))
        for value in values.values() if quotes else ():
            quotes.see(value)
    _check_long_rows(table, long_rows, delimiter, places)
    if quotes and quotes.are_consistent():
        log(
            f"warning: {quotes.count:,} fields of {path} are in double quotes as a CSV writer puts them, "
            "and the quotes are read as text: set task.quoting=minimal to read what they enclose, or "
            "none to keep them"
        )
    yield table


def _check_long_rows(table, long_rows, delimiter, places):
    known = {place: set(table.columns[name]) for name, place in places.items()}
    for number, row in long_rows:
        if holds_rows(row, delimiter, known):
            raise ValueError(
                f"{table.place} has rows inside the quotes of the row that starts at line {number}: "
                "correct its quotes, or set task.quoting=none if quotes are text"
            )


def _plain_rows(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Quotes are text and nothing is escaped, as in GLUE."""
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\n").removesuffix("\r")
        if line:
            yield number, line.split(delimiter)


def _quoted_rows(
    path: str, lines: Iterator[str], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Rows as of RFC 4180; the number is that of the row's first line."""
    csv.field_size_limit(sys.maxsize)
    ends = itertools.chain.from_iterable(io.StringIO(line, newline="") for line in lines)
    reader = csv.reader(ends, delimiter=delimiter, strict=True)  # a lone \r ends a line too
    number = 1
    try:
        for row in reader:
            if row:
                yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path} is not CSV at line {reader.line_num}, in the row that starts at line {number} "
            f"({error}): correct its quotes, or set task.quoting=none if quotes are text"
        ) from error


class _Object(list):
    """The (key, value) pairs of a JSON object, which may repeat a key."""


def _squad(path: str, content: dict, names, objects) -> Table:
    there = {name: [] for name in names if name in squad.COLUMNS}
    table = Table(path, list(squad.COLUMNS), there, unit="question", objects=objects)
    for number, question in enumerate(squad.questions(path, content), 1):
        table.add(number, {name: question[name] for name in there})
    return table


def _jsonl(path, lines, names, objects, max_rows) -> Iterator[Table]:
    def empty():
        return Table(path, [], {name: [] for name in names}, objects=objects)

    table, seen, is_empty = empty(), {}, True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        keys = [(column_name(key), value) for key, value in json_object(path, number, line)]
        if table.is_full(max_rows):
            yield table.with_names(seen)
            table = empty()
        is_empty = False
        seen |= dict.fromkeys(key for key, _ in keys)
        values = dict.fromkeys(names)
        for name in names:
            found = [value for key, value in keys if key == column_name(name)]
            if len(found) > 1:
                raise ValueError(f"{path} has {name!r} twice at line {number}: rename one")
            values[name] = found[0] if found else None
        table.add(number, values)
    if is_empty:
        raise ValueError(f"{path} is empty: expected one object per line")
    yield table.with_names(seen)


def json_object(path: str, number: int, line: str) -> _Object:
    """The keys and values of a line of JSON. Raises ValueError that names the line."""
    try:
        record = json.loads(line, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "") or str(error).partition(";")[0]
        raise ValueError(
            f"{path} is not JSON at line {number} ({reason}): correct it; each line is one object"
        ) from error
    if not isinstance(record, _Object):
        raise ValueError(f"{path} has no object at line {number}: expected one {{...}} per line")
    return record


def _shown(names, limit: int = 5) -> str:
    """Names for an error, shortened."""
    names = [name if len(name) <= 30 else name[:27] + "..." for name in names]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
