"""Hints for errors in TSV and CSV files: about the first line and the quotes. Used by data/tables.py."""

import re

_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def holds_rows(row: list[str], delimiter: str, known: dict[int, set]) -> bool:
    """Whether a line within the quotes of a field is a row by its number of fields and one of its values.

    known: {place of a column: its values}. The first line continues the fields before the quote.
    """
    for place, value in enumerate(row):
        *lines, _ = value.split("\n")
        for number, line in enumerate(lines):
            first = -1 if number else place
            cells = row[: max(first, 0)] + line.removesuffix("\r").split(delimiter)
            if len(cells) == len(row) and any(p > first and cells[p] in known[p] for p in known):
                return True
    return False


class Quotes:
    """Detects whether a CSV writer made the quotes in the fields of a file."""

    def __init__(self):
        self.count = self._doubled = self._plain = self._others = 0

    def see(self, value: str) -> None:
        if '"' not in value:
            self._plain += 1
        elif _QUOTED.fullmatch(value):
            self.count += 1
            self._doubled += '""' in value[1:-1]
        else:
            self._others += 1

    def are_consistent(self) -> bool:
        """Every quote encloses a field, and quotes inside are doubled or every field is enclosed."""
        return self.count > 0 and not self._others and bool(self._doubled or not self._plain)


def header_hint(first_line: str, delimiter: str, names, num_fields: int) -> str:
    """Hints about a first line that lacks a requested column, for the error message."""
    hints = []
    other = [each for each in ("\t", ";", ",", "|") if each != delimiter and each in first_line]
    if delimiter not in first_line and other:
        hints.append(f"set task.delimiter={other[0]!r} if that divides its fields")
        num_fields = first_line.count(other[0]) + 1
    if "\r" in first_line.rstrip("\r"):
        hints.append("convert its line ends, which are not all the same")
    if '"' in first_line:
        hints.append("set task.quoting=minimal if quotes enclose its fields")
    example = [*names, *(f"other{n}" for n in range(1, num_fields))][: max(num_fields, len(names))]
    shown = ", ".join(map(repr, example[:5])) + (", ..." if len(example) > 5 else "")
    hints.append(f"set task.columns=({shown}), in its order, if its first line is no header")
    return "; or " + ", or ".join(hints)
