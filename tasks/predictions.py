"""Predictions of a split, one row an example, as TSV or JSONL by the file's suffix.
Written by finetune.py at its end; read by people, spreadsheets and tools.compare.
Labels are written by name, as they stood in the labelled set.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from tasks.metrics import probabilities


def rows(label_names: Sequence[str], labels, logits, ids=None) -> Iterator[dict]:
    """{id, label, prediction, probabilities: {name: p}} of each example, in order.

    labels int[n], -1 where the set gives none (label ''); logits [n, C]; ids: by default 0..n-1.
    """
    logits = np.asarray(logits)
    ids = range(len(logits)) if ids is None else ids
    shares, guesses = probabilities(logits), logits.argmax(-1)
    for example, label, guess, share in zip(ids, labels, guesses, shares, strict=True):
        yield {
            "id": example,
            "label": label_names[label] if label >= 0 else "",
            "prediction": label_names[guess],
            "probabilities": {
                name: round(float(p), 6) for name, p in zip(label_names, share, strict=True)
            },
        }


def write(path, label_names: Sequence[str], labels, logits, ids=None) -> None:
    """Writes the rows; a finished file or none. ValueError for another suffix than .tsv, .jsonl."""
    path = epath.Path(path)
    examples = rows(label_names, labels, logits, ids)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in examples)
    elif path.suffix == ".tsv":
        text = _tsv(label_names, examples)
    else:
        raise ValueError(f"predictions in {path.name!r}: expected a name in .tsv or .jsonl")
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


def _tsv(label_names, examples):
    buffer = io.StringIO()
    table = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    table.writerow(["id", "label", "prediction", *(f"p({name})" for name in label_names)])
    for row in examples:
        shares = row["probabilities"].values()
        table.writerow([row["id"], row["label"], row["prediction"], *shares])
    return buffer.getvalue()
