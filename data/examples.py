"""Examples of a labeled task: the values of its columns, from TFDS, files or `python_docs`.

Between data/tables.py (or TFDS), which reads columns, and tasks/, which encodes the examples. A labeled
set fits in memory.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data import labels, python_docs, tables
from data.files import expand
from data.sources import tfds_builder
from data.splits import SPLITS, choose_splits, split_of
from data.tables import Dialect, Table


def as_text(value):
    """A text. Raises ValueError for a list."""
    if isinstance(value, list):
        raise ValueError("it is a list, expected a text; choose another column, or join it")
    return value


def as_label(value):
    """A class, None if it is absent. Raises ValueError for a list."""
    if isinstance(value, list):
        raise ValueError(labels.multiple(value))
    return None if value is None else labels.label_of(value) or None


@dataclass(frozen=True)
class Column:
    """A column that a task reads.

    Attributes:
      name: of the column.
      option: field of the task that names it, for errors.
      convert: function of a value of data/tables.py (text, list of texts or None) that returns the value
        the task reads, None if it is absent; raises ValueError with the reason and the remedy.
      is_label: a test split may lack it.
      is_optional: its values may be absent, and the column too.
      takes_objects: `convert` takes objects too, as dicts of values.
    """

    name: str
    option: str
    convert: Callable[[Any], Any] = as_text
    is_label: bool = False
    is_optional: bool = False
    takes_objects: bool = False


@dataclass(frozen=True)
class Examples:
    """The examples of a split: {role: values}, without the labels if the split has none.

    `places` says where each example is from ('FILE at line 3'), for errors.
    """

    columns: dict[str, list]
    places: list = field(default_factory=list, compare=False, repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def get(self, role: str) -> list | None:
        """The values of a role, None if the split has none."""
        return self.columns.get(role)

    @property
    def text(self) -> list[str]:
        return self.columns["text"]

    @property
    def text_pair(self) -> list[str] | None:
        return self.columns.get("text_pair")

    @property
    def label(self) -> list:
        """[] without labels."""
        return self.columns.get("label", [])

    def take(self, indices) -> "Examples":
        """The examples int[n], in that order."""
        numbers = [int(i) for i in indices]
        columns = {role: [values[i] for i in numbers] for role, values in self.columns.items()}
        return Examples(columns, [self.places[i] for i in numbers] if self.places else [])

    def describe(self, roles: Iterable[str], with_file: bool | None = None) -> Iterator[dict]:
        """For each example: 'row', its line or the number of its record, 'file' (by default if there are
        several), and the values of these roles."""
        several = len({id(place.table) for place in self.places}) > 1
        with_file = several if with_file is None else with_file
        roles = [role for role in roles if role in self.columns]
        for number in range(len(self)):
            found = self.places[number].describe(with_file) if self.places else {}
            yield found | {role: self.columns[role][number] for role in roles}


def read(
    source: str,
    columns: dict[str, Column],
    dialect: Dialect,
    missing: str = "error",
    cache_dir: str = "",
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Examples]:
    """{split: Examples} of `python_docs`, `tfds:NAME` or `files:PATTERN`, in the order of SPLITS.

    Args:
      source: a word of a file's path says its split.
      columns: {role: Column}.
      dialect: how TSV and CSV files are written.
      missing: what to do with a row that lacks a value: 'error' or 'drop'.
      log: receives a line about rows that are dropped.

    Raises FileNotFoundError or ValueError of one line, also if there is no train split.
    """
    dialect.check()
    names = tuple(dict.fromkeys(column.name for column in columns.values()))
    objects = tuple(column.name for column in columns.values() if column.takes_objects)
    found = _tables(source, names, dialect, cache_dir, log, objects)
    if "train" not in found:
        raise ValueError(
            f"{source} has no train split, but {', '.join(found)}: name a file train.tsv (or .csv, .jsonl)"
        )
    splits = {}
    for split in (split for split in SPLITS if split in found):
        there = columns
        if split == "test" and _is_unlabeled(found[split], columns, splits["train"]):
            there = {role: column for role, column in columns.items() if not column.is_label}
        splits[split] = examples_of(split, found[split], there, missing, log)
    return splits


def _tables(source, columns, dialect, cache_dir, log, objects=()) -> dict[str, list[Table]]:
    scheme, _, rest = source.partition(":")
    if dialect.splits and scheme != "tfds":
        raise ValueError(
            f"task.splits={dialect.splits!r} names splits of a TFDS data set, but task.source is {source!r}: "
            "leave it out; a word of a file's path says its split"
        )
    if scheme == "python_docs":
        directory, _ = python_docs.prepare(rest, cache_dir, log)
        return _tfds(str(python_docs.directory_of(directory, "labeled")), columns)
    if scheme == "tfds" and rest:
        return _tfds(rest, columns, dialect.splits, log, objects)
    if scheme == "files" and rest:
        found = defaultdict(list)
        paths = expand(rest, log)
        for split, path in [(split_of(path), path) for path in paths]:
            found[split].append(tables.read(path, columns, dialect, log, objects))
        return found
    raise ValueError(
        f"task.source {source!r} is not a labeled set: choose python_docs, tfds:NAME or "
        "files:/path/{train,validation}.tsv"
    )


def _tfds(name, columns, chosen=(), log=lambda line: None, objects=()) -> dict[str, list[Table]]:
    """The splits of a TFDS dataset. Class labels become their names, -1 an absent value."""
    builder = tfds_builder(name)
    features = builder.info.features
    there = [column for column in columns if column in features]
    found = defaultdict(list)
    for split, name_there in choose_splits(f"tfds:{name}", list(builder.info.splits), chosen, log):
        table = Table(
            f"tfds:{name}, split {name_there},",
            list(features),
            {c: [] for c in there},
            unit="record",
            objects=objects,
        )
        data = builder.as_data_source(name_there)
        for start in range(0, len(data), 1024):
            numbers = list(range(start, min(start + 1024, len(data))))
            for number, record in zip(numbers, data.__getitems__(numbers), strict=True):
                table.add(number, {c: _tfds_value(record[c], features[c]) for c in there})
        found[split].append(table)
    return found


def _tfds_value(value, feature):
    if isinstance(value, dict):  # of a sequence of features
        return {name: _tfds_value(each, None) for name, each in value.items()}
    inner = getattr(feature, "feature", None)  # of a sequence
    if isinstance(value, list) or hasattr(inner, "int2str"):
        return [_tfds_value(each, inner) for each in value]
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)) if int(value) >= 0 else None
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic) and not isinstance(value, bytes):
        return None if value != value else str(value)  # NaN differs from itself
    return value


def examples_of(split, found: list[Table], columns: dict[str, Column], missing, log) -> Examples:
    """The examples of the tables of a split; as in `read`."""
    for table in found:
        check_columns(table, columns)
    values, places, dropped = {role: [] for role in columns}, [], 0
    for table in found:
        complete, rows, absent = complete_rows(table, columns)
        for row, name in absent.items():
            if missing == "error":
                raise ValueError(
                    f"{table.at(row)} has no value in column {name!r}: add it, or set "
                    "task.missing=drop to leave such rows out"
                )
        dropped += len(absent)
        places += [Place(table, row) for row in rows]
        for role in columns:
            values[role] += complete[role]
    if dropped:
        log(
            f"{dropped:,} of {dropped + len(places):,} {split} rows have no text or label and are "
            "dropped: ids in predictions count the others"
        )
    if not places:
        why = f"all {dropped:,} rows were dropped" if dropped else "it has no row"
        raise ValueError(
            f"{place_of(found)}: the {split} split is empty, {why}: add rows, or leave it out"
        )
    return Examples(values, places)


def check_columns(table: Table, columns: dict[str, Column]) -> None:
    """Raises ValueError if the table lacks a column that is not optional."""
    for column in columns.values():
        if column.name not in table.columns and not column.is_optional:
            raise table.missing_column(column.name, f"task.{column.option}")


def complete_rows(
    table: Table, columns: dict[str, Column]
) -> tuple[dict[str, list], list[int], dict[int, str]]:
    """({role: values} of the rows of a table that lack no value; the numbers of these rows; of each other
    row its number and the name of a column without a value).

    Raises ValueError, which names line and column, for a value that a column cannot have.
    """
    values, rows, absent = {role: [] for role in columns}, [], {}
    for row in range(len(table.numbers)):
        converted = {role: _value(table, row, column) for role, column in columns.items()}
        lacking = [
            columns[role].name
            for role, value in converted.items()
            if value is None and not columns[role].is_optional
        ]
        if lacking:
            absent[row] = lacking[0]
            continue
        rows.append(row)
        for role, value in converted.items():
            values[role].append(value)
    return values, rows, absent


@dataclass(frozen=True)
class Place:
    """Where an example is from; its text is 'FILE at line 3'."""

    table: Table
    row: int

    def __str__(self) -> str:
        return self.table.at(self.row)

    @property
    def number(self) -> int:
        """Line of the file, or number of the record."""
        return self.table.numbers[self.row]

    def describe(self, with_file: bool) -> dict:
        """{'row': number}, with 'file' if asked for."""
        return {"row": self.number} | ({"file": self.table.place} if with_file else {})


def place_of(found: list[Table]) -> str:
    """The files of a split, for an error."""
    return found[0].place + (f" and {len(found) - 1} more" if len(found) > 1 else "")


def _value(table, row, column):
    values = table.columns.get(column.name)
    try:
        return None if values is None else column.convert(values[row])
    except ValueError as error:
        raise ValueError(f"{table.at(row)}, column {column.name!r}: {error}") from error


def _is_absent(value, known) -> bool:
    """Whether nothing is in a value: no text, no element, or a label that means so and is not `known`."""
    if isinstance(value, str):
        label = labels.label_of(value)
        return not label or (label not in known and labels.is_like_no_label(label))
    values = value.values() if isinstance(value, dict) else value or ()
    return all(_is_absent(each, known) for each in values)


def _is_unlabeled(found, columns, train) -> bool:
    """Whether a test split has no label at all, as in GLUE: no column, no value, or -1, ?, ... everywhere."""
    for role, column in columns.items():
        if not column.is_label:
            continue
        values = (value if isinstance(value, list) else [value] for value in train.get(role))
        known = {each for value in values for each in value if isinstance(each, str)}
        for table in found:
            for value in table.columns.get(column.name, [None]):
                if not _is_absent(value, known):
                    return False
    return any(column.is_label for column in columns.values())
