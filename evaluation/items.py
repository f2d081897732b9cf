"""Items of a suite, and the rows of its files: JSON lines, TSV or CSV, plain or compressed.

Every error names file and line.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from data import tables
from data.examples import Place

Request = tuple[str, str]  # (context, continuation)


@dataclasses.dataclass(frozen=True)
class Item:
    """One item of a suite: the texts to score, and the data of its result.

    Attributes:
      place: 'FILE at line 3', for messages.
      requests: (context, continuation) of each text to score.
      record: values kept in the result: 'row' (the line), and the fields of the suite.
    """

    place: str
    requests: tuple[Request, ...]
    record: dict

    def error(self, problem: str) -> ValueError:
        """The error of this item."""
        return ValueError(f"{self.place} {problem}")


@dataclasses.dataclass(frozen=True)
class Role:
    """A value of a row: the fields that may have it, the first one that the file has is read.

    An absent value of an optional role is ''."""

    names: tuple[str, ...]
    is_optional: bool = False
    is_list: bool = False


@dataclasses.dataclass(frozen=True)
class Summary:
    """The result of a suite: {metric: value}, tables for people, and bars for a chart.

    tables: [(title, [row as {column: value}])]. bars: {group: {series: (value, error)}}, on `axis`.
    """

    metrics: dict
    tables: list
    bars: dict
    axis: str


def read_rows(
    path: str, roles: dict[str, Role], renamed: dict[str, str], log
) -> tuple[set[str], Iterator[tuple[Place, dict]]]:
    """(the roles that the file has, (place, {role: value}) of each row).

    Args:
      roles: {role: Role}; `renamed` has the field of a role where it is another one.

    Raises ValueError for a role that the file does not have, or a row without a value.
    """
    names = {
        role: (renamed[role],) if role in renamed else each.names for role, each in roles.items()
    }
    wanted = list(dict.fromkeys(name for each in names.values() for name in each))
    table = tables.read(path, wanted, tables.Dialect(), log)
    fields = {
        role: next((name for name in each if name in table.columns), "")
        for role, each in names.items()
    }
    for role, name in fields.items():
        if not name and (not roles[role].is_optional or role in renamed):
            raise table.missing_column(names[role][0], f"--field {role}=NAME")

    def rows():
        for number in range(len(table.numbers)):
            place = Place(table, number)
            found = {
                role: _value(
                    place, roles[role], name, table.columns[name][number] if name else None
                )
                for role, name in fields.items()
            }
            yield place, found

    return {role for role, name in fields.items() if name}, rows()


def _value(place, role, name, value):
    if value is None:
        if role.is_optional:
            return ""
        raise ValueError(f"{place} has no value in field {name!r}: add it, or remove the row")
    if isinstance(value, list) != role.is_list:
        expected = "a list of texts" if role.is_list else "a text"
        raise ValueError(f"{place} has {str(value)[:40]!r} in field {name!r}, expected {expected}")
    return value


def mean(values: Sequence[float]) -> float:
    """The mean; 0.0 of nothing."""
    return sum(values) / max(1, len(values))


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean, with n - 1, as in lm-eval; 0.0 of fewer than two values."""
    n = len(values)
    if n < 2:
        return 0.0
    middle = mean(values)
    return (sum((x - middle) ** 2 for x in values) / (n - 1) / n) ** 0.5


def grouped(results: Sequence[dict], key: str) -> dict[str, list[dict]]:
    """{value of `key`: its results}, in the order of first appearance."""
    found = {}
    for result in results:
        found.setdefault(result[key], []).append(result)
    return found
