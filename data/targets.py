"""Targets that are not one class: a number, several labels, the answer among choices.

Between data/examples.py, which reads columns, and the tasks regression, multi_label and multiple_choice.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from data import labels
from data.tables import value_of

# How a label names its choice.
ANSWER_FORMS = ("index", "index_from_1", "letter", "text", "column")
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_FLAGS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}


# ---- Numbers -------------------------------------------------------------------------------------


def as_value(value) -> float | None:
    """A number, None if it is absent. Raises ValueError for another value."""
    if isinstance(value, list):
        raise ValueError("it is a list, expected one number; choose another column")
    text = labels.label_of(value or "")
    if not text:
        return None
    number = float(text) if labels.is_number(text) else math.nan
    if abs(number) <= float(np.finfo(np.float32).max):
        return number
    remedy = "correct it, or choose another column"
    if labels.is_like_absent(text):
        remedy = "leave it empty and set task.missing=drop if the value is absent"
    elif "," in text and labels.is_number(text.replace(",", "")):
        remedy = "write numbers with a decimal point and without commas"
    raise ValueError(f"{_shown(text)} is not a number: {remedy}")


def check_values(values: Sequence[float], place: str) -> None:
    """Raises ValueError for values of train that are all the same."""
    if len(set(np.asarray(values, np.float32).tolist())) < 2:
        raise ValueError(
            f"{place} has one value alone, {values[0]:g}, and a regression needs two: check "
            "task.label_column, or add rows of another value"
        )


# ---- Several labels ------------------------------------------------------------------------------


def as_labels(separator: str) -> Callable:
    """The function that converts a value to a list of labels, None if it is absent: a list, a text of
    labels with the separator between them, or a JSON list. It raises ValueError for another value."""

    def convert(value):
        if isinstance(value, str) and not _is_list(value):
            value = value.split(separator) if separator else [value]
            value = [each for each in value if labels.label_of(each)]
        found = _texts(value, "labels")
        return found and list(dict.fromkeys(map(labels.label_of, found)))

    return convert


def as_flag(value) -> int | None:
    """1 if a row has the label of a column, 0 if not, None if that is absent. Raises ValueError for
    another value."""
    if isinstance(value, list):
        raise ValueError("it is a list, expected 0 or 1; set task.label_column to read lists")
    text = labels.label_of(value or "")
    if text and text.lower() not in _FLAGS:
        raise ValueError(f"{_shown(text)} is neither 0 nor 1: correct it, or task.label_columns")
    return _FLAGS[text.lower()] if text else None


def check_label_lists(found: Sequence[list[str]], place: str, names=()) -> list[str]:
    """Lines about labels of train that may not mean what they say; `names`: those that a column names.
    Raises ValueError without a label, or for too many of them."""
    counts = Counter(label for each in found for label in each)
    if not counts:
        raise ValueError(
            f"{place} has no label in its {len(found):,} rows: check task.label_column, or add rows with one"
        )
    if names:
        absent = ", ".join(repr(name) for name in names if not counts[name])
        return [f"no train example has the label {absent}: nothing is learned of it"] * bool(absent)
    labels.check_number(counts, len(found), place)
    lines = labels.notes(counts)
    if all(len(each) == 1 for each in found):
        lines.append(
            "every train example has one label: set task.label_separator if several are in one text, or "
            "choose the task of one label per text"
        )
    return lines


# ---- Choices -------------------------------------------------------------------------------------


def as_choices(value) -> list[str] | None:
    """A list of at least two texts, None if it is absent. Raises ValueError for another value."""
    if isinstance(value, str) and not _is_list(value):
        raise ValueError(
            "it is a text, expected a list of choices; write a JSON list, or name a column for each choice "
            "in task.choice_columns"
        )
    found = _texts(value, "choices")
    if found is not None and len(found) < 2:
        raise ValueError(f"it has {len(found)} choices, expected at least two; correct the row")
    return found


def answers(
    names: Sequence[str], choices: Sequence[list[str]], places: Sequence, columns: Sequence[str] = (),
    form: str = "auto",
) -> list[int]:  # fmt: skip
    """The index of the choice that each label names.

    Args:
      names: the labels.
      choices: the choices of each row.
      places: where each row is from, for errors.
      columns: names of the columns of the choices; () if they are a list.
      form: one of ANSWER_FORMS, or 'auto': the one that fits every row.

    Raises ValueError of one line for a label that names no choice, and if several forms fit all rows
    with different results.
    """
    forms = ANSWER_FORMS if form == "auto" else (form,)
    read = {
        each: [_answer(each, *row, columns) for row in zip(names, choices, strict=True)]
        for each in forms
    }
    fitting = {each: found for each, found in read.items() if None not in found}
    if len({tuple(found) for found in fitting.values()}) > 1:
        raise ValueError(
            f"{places[0]}: labels such as {_shown(names[0])} can be read as {' or as '.join(fitting)}, with "
            "other answers: set task.label_form to one of these"
        )
    if fitting:
        return next(iter(fitting.values()))
    best = min(forms, key=lambda each: read[each].count(None))
    row = read[best].index(None)
    raise ValueError(
        f"{places[row]} has the label {_shown(names[row])}, which names none of its {len(choices[row])} "
        f"choices (read as {best}): correct it, or set task.label_form or task.label_column"
    )


def _answer(form, label, choices, columns):
    """The index of the choice that a label names in this form, None for none."""
    if form == "column":
        return columns.index(label) if label in columns[: len(choices)] else None
    if form == "text":
        texts = [labels.label_of(choice) for choice in choices]
        return texts.index(label) if texts.count(label) == 1 else None
    if form == "letter":
        found = _LETTER.fullmatch(label)
        number = ord(found[1].upper()) - ord("A") if found else -1
    else:
        value = float(label) if labels.is_number(label) else math.nan
        number = int(value) - (form == "index_from_1") if value % 1 == 0 else -1
    return number if 0 <= number < len(choices) else None


# ---- Lists ---------------------------------------------------------------------------------------


def _is_list(text):
    return text.strip()[:1] == "[" and text.strip()[-1:] == "]"


def _texts(value, what):
    """A list of texts, or a JSON list in a text; None if it is absent."""
    if isinstance(value, str):
        try:
            value = value_of(json.loads(value))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f'it is in brackets and not JSON: write ["a", "b"] for the {what} a and b'
            ) from error
    if value is None:
        return None
    if not all(isinstance(each, str) for each in value):
        raise ValueError(f"its list of {what} has null, a blank or a list in it: write texts")
    return value


def _shown(text):
    return repr(text if len(text) <= 30 else text[:27] + "...")
