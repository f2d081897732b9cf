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


def rows(label_names: Sequence[str], labels, logits, ids=None) -> Iterator[dict]:
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


def write(path, label_names: Sequence[str], labels, logits, ids=None) -> None:
    """Writes the rows; the file is complete or absent. Raises ValueError unless it is .tsv or .jsonl."""
    path = epath.Path(path)
    examples = rows(label_names, labels, logits, ids)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in examples)
    elif path.suffix == ".tsv":
        text = _tsv(label_names, examples)
    else:
        raise ValueError(
            f"cannot write predictions to {path.name!r}: expected a .tsv or .jsonl file"
        )
    write_atomically(path, text.encode())


def _tsv(label_names, examples):
    buffer = io.StringIO()
    table = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    table.writerow(["id", "label", "prediction", *(f"p({name})" for name in label_names)])
    for row in examples:
        p = row["probabilities"].values()
        table.writerow([row["id"], row["label"], row["prediction"], *p])
    return buffer.getvalue()
