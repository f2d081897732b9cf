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
from tasks.metrics import softmax


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
