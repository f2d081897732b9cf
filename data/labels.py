"""Normalizes labels and reports those that look like a mistake.

Used by data/labeled.py for every source.
"""

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from decimal import Context

# What programs write for an absent value. Here it is a text or a class, and that is said.
_LIKE_ABSENT = ("nan", "nat", "null", "none", "na", "n/a", "#n/a", "<na>", "\\n", "?", "-")
_SEPARATORS = ",;|/+& "  # of several labels in one value
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_NUMBERS = Context(prec=60, traps=[])
# More distinct real numbers than this are values to predict, not classes.
MAX_REAL_CLASSES = 20


def label_of(value: str) -> str:
    """The label in a value: without outer white space and invisible characters, in Unicode's NFC."""
    label = unicodedata.normalize("NFC", value)
    invisible = "".join(filter(is_invisible, label))
    return label.strip(invisible) if invisible else label


def is_number(label: str) -> bool:
    """Whether a label is written as a number, which may be infinite."""
    return bool(_NUMBER.fullmatch(label))


def is_invisible(char: str) -> bool:
    """Whether a character leaves no trace: white space, control and format characters."""
    return char.isspace() or unicodedata.category(char) in ("Cc", "Cf")


def similar(label: str) -> str:
    """A key that labels share if they differ in case, inner white space, width, or as 1 and 1.0 do."""
    if is_number(label):
        return str(_NUMBERS.create_decimal(label).normalize(_NUMBERS))
    words = re.split(r"[\s_-]+", unicodedata.normalize("NFKC", label).casefold())
    visible = ("".join(c for c in word if not is_invisible(c)) for word in words)
    return " ".join(filter(None, visible)).strip("\"'")


def is_like_absent(value: str) -> bool:
    """Whether programs write this word for an absent value."""
    return value.strip().casefold() in _LIKE_ABSENT


def is_like_no_label(label: str) -> bool:
    """Whether a label means that there is none, in a split without any: -1, _ (CoNLL-U) or a word for it."""
    return label in ("-1", "-1.0", "_") or is_like_absent(label)


def check(counts: Counter, place: str) -> None:
    """Raises ValueError for labels of train that are not at least two classes.

    counts: {label: rows}; place: the files that they are from.
    """
    rows = sum(counts.values())
    if len(counts) < 2:
        raise ValueError(
            f"{place} has one label alone, {_shown(counts)}, and a classifier needs two: check "
            "task.label_column, or add rows of another label"
        )
    numbers = [label for label in counts if is_number(label)]
    if len(numbers) == len(counts) > MAX_REAL_CLASSES and not all(
        float(label).is_integer() for label in numbers
    ):
        raise ValueError(
            f"{place} has {len(counts):,} real numbers as labels in {rows:,} rows, such as "
            f"{_shown(numbers, 3)}, and each would be a class: set task.name=regression to predict "
            "the number, or write classes into the label column"
        )
    check_number(counts, rows, place)


def check_number(counts: Counter, rows: int, place: str) -> None:
    """Raises ValueError for so many labels that few rows have the same."""
    if rows >= 20 and len(counts) > rows / 2:
        raise ValueError(
            f"{place} has {len(counts):,} labels in {rows:,} rows, such as {_shown(counts, 3)}, too many "
            "to learn: check task.label_column"
        )


def multiple(values: list) -> str:
    """Why a list of labels is none, for an error."""
    return (
        f"it is a list of {len(values)} labels, and a row has one label here; write one label, or choose "
        "task.name=multi_label"
    )


def notes(counts: Counter) -> list[str]:
    """Lines about labels that may not mean what they say."""
    groups = defaultdict(list)
    for label in sorted(counts):
        groups[similar(label)].append(label)
    lines = [
        f"labels {_shown(labels)} look alike and are different classes "
        f"({', '.join(f'{counts[label]:,}' for label in labels)} rows): correct the files if they mean "
        "the same"
        for labels in groups.values()
        if len(labels) > 1
    ]
    absent = [label for label in counts if is_like_absent(label)]
    if "-1" in counts and all(label.isdigit() for label in counts if label != "-1"):
        absent.append("-1")
    if absent:
        lines.append(
            f"{_shown(absent)} is a class here ({counts[absent[0]]:,} rows): leave the value empty if it "
            "means that there is no label"
        )
    if quoted := [each for each in counts if re.fullmatch(r"([\"'`]).*\1", each, re.DOTALL)]:
        lines.append(
            f"the quotes are part of the label {_shown(quoted, 1)}: set task.quoting=minimal if "
            "they enclose it, or remove them if they are single quotes"
        )
    if composed := _composed(counts):
        label, separator = composed
        lines.append(
            f"label {_shown([label])} is a class of its own, although its parts, divided by {separator!r}, "
            "are labels too: a row has one label here; set task.name=multi_label and "
            f"task.label_separator={separator!r} if rows have several"
        )
    numbers = [label for label in counts if is_number(label)]
    if len(numbers) == len(counts) and not all(float(label).is_integer() for label in numbers):
        lines.append(
            f"the labels are real numbers, {_shown(sorted(numbers, key=float), 6)}, and each is a class "
            "without an order: task.name=regression predicts numbers"
        )
    return lines


def _composed(counts):
    """(label, separator) of a label whose parts are labels, or parts of other labels; or ()."""
    for separator in _SEPARATORS:
        parts = {
            label: [label_of(part) for part in label.split(separator)]
            for label in counts
            if separator in label.strip(separator)
        }
        used = Counter(part for each in parts.values() for part in set(each))
        for label, each in parts.items():
            if all(part in counts or (separator in ",;|" and used[part] > 1) for part in each):
                return label, separator
    return ()


def unknown_error(place: str, label: str, names) -> ValueError:
    """The error for a label that train does not have."""
    alike = [name for name in names if similar(name) == similar(label)]
    alike = alike or difflib.get_close_matches(label, names, 1, 0.7)
    hint = f" (did you mean {_shown(alike[:1])}?)" if alike else ""
    if not alike and (separators := [s for s in _SEPARATORS if s in label]):
        if all(label_of(part) in names for part in label.split(separators[0])):
            hint = " (several labels in one row, where one is read)"
    return ValueError(
        f"{place} has the label {_shown([label])}{hint}, which train does not have ({_shown(names)}): "
        "correct it, or add examples of it to train"
    )


def _shown(names, limit=7):
    names = [repr(name if len(name) <= 30 else name[:27] + "...") for name in names]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
