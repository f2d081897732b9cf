"""Predictions of a split as TSV or JSONL, one row per example, labels by name.

Written by finetune.py at its end, and by tools/predict.py as it reads.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from data.files import write_atomically
from tasks.metrics import sigmoid, softmax

FORMATS = ("jsonl", "tsv")
# Characters that end a field or a line of TSV, also for Python's splitlines, and the backslash; a tab is
# written \t.
_ENDS = "\\\t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_JSON_ESCAPES = {
    ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"
}  # the others are escaped
_ESCAPES = {ord(end): end.encode("unicode_escape").decode() for end in _ENDS}


def class_rows(label_names: Sequence[str], labels, logits, ids=None) -> Iterator[dict]:
    """{id, label, prediction, probabilities: {name: p}} of each example, in order.

    labels int[n], -1 without a label (written as ''); logits [n, C]; ids: by default 0..n-1.
    """
    ids = range(len(logits)) if ids is None else ids
    predicted = np.asarray(logits).argmax(-1)
    for example, label, guess, p in zip(ids, labels, predicted, softmax(logits), strict=True):
        yield {
            "id": example,
            "label": label_names[label] if label >= 0 else "",
            "prediction": label_names[guess],
            "probabilities": {
                name: round(float(x), 6) for name, x in zip(label_names, p, strict=True)
            },
        }


def value_rows(values, found) -> Iterator[dict]:
    """{id, label, prediction} of each example, in order: values float[n], NaN without a label (written as
    ''), found float[n]."""
    for example, (value, guess) in enumerate(zip(values, found, strict=True)):
        known = round(float(value), 6) if np.isfinite(value) else ""
        yield {"id": example, "label": known, "prediction": round(float(guess), 6)}


def label_list_rows(label_names: Sequence[str], labels, logits, threshold: float) -> Iterator[dict]:
    """{id, label: [...], prediction: [...], probabilities: {name: p}} of each example, in order.

    labels int[n, C] of 0 and 1, -1 without labels (written as ''); logits [n, C].
    """
    for example, (known, p) in enumerate(zip(labels, sigmoid(logits), strict=True)):
        named = list(zip(label_names, known, p, strict=True))
        yield {
            "id": example,
            "label": [name for name, value, _ in named if value] if (known >= 0).all() else "",
            "prediction": [name for name, _, x in named if x >= threshold],
            "probabilities": {name: round(float(x), 6) for name, _, x in named},
        }


def choice_rows(choices: Sequence[list[str]], labels, logits) -> Iterator[dict]:
    """{id, label, prediction, choice, probabilities: [...]} of each example, in order.

    choices: the texts of each example; labels int[n], the index of the answer, -1 without one (written as
    ''); logits [n, C]. `choice` is the text of the predicted index.
    """
    rows = zip(choices, labels, softmax(logits), strict=True)
    for example, (texts, label, p) in enumerate(rows):
        guess = int(p.argmax())
        yield {
            "id": example,
            "label": int(label) if label >= 0 else "",
            "prediction": guess,
            "choice": texts[guess],
            "probabilities": [round(float(x), 6) for x in p[: len(texts)]],
        }


def lines(rows: Iterable[dict], form: str, header: list[str] | None = None) -> Iterator[str]:
    """Rows as lines of 'jsonl' or 'tsv', one per row, after the header of a TSV file.

    header: the columns of a TSV file that was written in part; an empty list receives the columns of the
    first row.

    In TSV a value that is a dict has a column for each key, `p(key)`, a list is JSON, None is empty, and
    tabs, line ends and backslashes are escaped; quotes are text. JSON lines keep the values.
    """
    header = [] if header is None else header
    for row in rows:
        if form == "jsonl":
            text = json.dumps(row, ensure_ascii=False, default=lambda x: x.tolist())
            yield text.translate(_JSON_ESCAPES) + "\n"
            continue
        cells = dict(_cells(row))
        if not header:
            header += cells
            yield "\t".join(map(_escaped, header)) + "\n"
        yield "\t".join(_escaped(cells[name]) for name in header) + "\n"


def write(path, rows: Iterable[dict]) -> None:
    """Writes rows to a .tsv or .jsonl file, which is complete or absent; see `lines`.

    Raises ValueError for another kind of file.
    """
    path = epath.Path(path)
    write_atomically(path, "".join(lines(rows, format_of(path))).encode())


def format_of(path) -> str:
    """The format that the name of a file says. Raises ValueError for another one."""
    form = epath.Path(path).suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise ValueError(
            f"cannot write predictions to {epath.Path(path).name!r}: expected a .tsv or .jsonl file"
        )
    return form


def _cells(row):
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"p({key})", each) for key, each in value.items())
        else:
            is_list = isinstance(value, list | tuple)
            yield name, json.dumps(value, ensure_ascii=False) if is_list else value


def _escaped(value) -> str:
    return "" if value is None else str(value).translate(_ESCAPES)
