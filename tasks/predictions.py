"""Predictions of a split as TSV or JSONL, one row per example, labels by name.

Written by finetune.py at its end.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from data.files import write_atomically
from tasks.metrics import sigmoid, softmax


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


def write(path, rows) -> None:
    """Writes dicts, one per example; the file is complete or absent.

    In a .tsv file a value that is a dict has a column for each key, `p(key)`, and a list is JSON; a .jsonl
    file keeps them. Raises ValueError for another kind of file.
    """
    path = epath.Path(path)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif path.suffix == ".tsv":
        text = _tsv(rows)
    else:
        raise ValueError(
            f"cannot write predictions to {path.name!r}: expected a .tsv or .jsonl file"
        )
    write_atomically(path, text.encode())


def _tsv(rows):
    buffer, header = io.StringIO(), None
    table = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    for row in rows:
        cells = {}
        for name, value in row.items():
            if isinstance(value, dict):
                cells |= {f"p({key})": each for key, each in value.items()}
            else:
                is_list = isinstance(value, list)
                cells[name] = json.dumps(value, ensure_ascii=False) if is_list else value
        if header is None:
            header = list(cells)
            table.writerow(header)
        table.writerow(list(cells.values()))
    return buffer.getvalue()
