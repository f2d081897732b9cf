"""Labeled data sets: a text or a pair of texts and a label, from TFDS, files or `python_docs`.

Between a source and `tasks/`, which encodes the examples. A labeled set fits in memory.
"""

import csv
import difflib
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from data import python_docs
from data.files import COMPRESSIONS, digest, expand, reading, utf8_error
from data.sources import tfds_builder

SPLITS = ("train", "validation", "test")
_SYNONYMS = {"dev": "validation", "valid": "validation", "val": "validation", "eval": "validation"}


@dataclass(frozen=True)
class LabeledSplit:
    """One split. `text_pair` is None for single texts; `label` is empty if the split has none."""

    text: list[str]
    text_pair: list[str] | None
    label: list[str]

    def __len__(self) -> int:
        return len(self.text)

    def take(self, indices) -> "LabeledSplit":
        """The examples int[n], in that order."""

        def pick(values):
            return [values[int(i)] for i in indices]

        pairs = None if self.text_pair is None else pick(self.text_pair)
        return LabeledSplit(pick(self.text), pairs, pick(self.label) if self.label else [])


class LabeledSplits(dict):
    """{split: LabeledSplit} with the fingerprint of the set and the sorted labels of `train`."""

    def __init__(self, splits: dict[str, LabeledSplit], fingerprint: str, label_names: tuple):
        super().__init__(splits)
        self.fingerprint = fingerprint
        self.label_names = label_names


@dataclass
class _Table:
    """The columns of one split and the files they are from."""

    columns: dict[str, list[str]]
    files: list[str] = field(default_factory=list)


def load(
    source: str,
    text_column: str = "text",
    text_pair_column: str = "",
    label_column: str = "label",
    cache_dir: str = "",
    *,
    validation_fraction: float = 0.1,
    check_labels: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> LabeledSplits:
    """Reads a labeled set: `python_docs`, `tfds:NAME` or `files:PATTERN`.

    The name of a file says its split (train, validation or dev, test). Without a validation split,
    `validation_fraction` of train is used for it, by hash of the text; a missing test split is
    logged. With `check_labels`, a label that train does not have is an error (regression has no
    classes to check). Raises FileNotFoundError or ValueError of one line.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "python_docs":
        directory, _ = python_docs.prepare(rest, cache_dir, log)
        tables = _tfds(str(python_docs.directory_of(directory, "labeled")))
    elif scheme == "tfds" and rest:
        tables = _tfds(rest)
    elif scheme == "files" and rest:
        tables = _files(rest)
    else:
        raise ValueError(
            f"task.source {source!r} is not a labeled set: choose python_docs, tfds:NAME or "
            "files:/path/{train,validation}.tsv"
        )
    if "train" not in tables:
        raise ValueError(
            f"{source} has no train split, but {', '.join(tables)}: name a file train.tsv (or .csv, "
            ".jsonl)"
        )
    splits = {
        split: _select(tables[split], split, text_column, text_pair_column, label_column, source)
        for split in SPLITS
        if split in tables
    }
    if not len(splits["train"]):
        raise ValueError(f"{source} has no example to train on: its train split is empty")
    if "validation" not in splits:
        _split_validation(splits, validation_fraction)
        log(
            f"{source} has no validation split: {len(splits['validation'])} examples of train are used "
            f"for it, by hash of the text; {len(splits['train'])} remain"
        )
    if "test" not in splits:
        log(f"{source} has no test split: only validation scores are reported")
    names = tuple(sorted(set(splits["train"].label)))
    if check_labels:
        _check_labels(splits, names, source)
    contents = {s: [v.text, v.text_pair, v.label] for s, v in splits.items()}
    return LabeledSplits({s: splits[s] for s in SPLITS if s in splits}, digest(contents), names)


def _select(table: _Table, split, text, text_pair, label, source) -> LabeledSplit:
    """The requested columns of one split."""

    def column(name: str, option: str) -> list[str]:
        if name not in table.columns:
            names = list(table.columns)
            near = difflib.get_close_matches(name, names, 1, 0.5)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            where = f" ({table.files[0]})" if table.files else ""
            raise ValueError(
                f"{source} has no column {name!r} in {split}{where}{guess}: set task.{option} to one "
                f"of {', '.join(map(repr, names))}"
            )
        return table.columns[name]

    texts = column(text, "text_column")
    pairs = column(text_pair, "text_pair_column") if text_pair else None
    # A test split may come without labels (in GLUE they are -1): it can be predicted, not scored.
    labels = []
    if split != "test" or label in table.columns:
        labels = column(label, "label_column")
        if split == "test" and set(labels) <= {"-1", ""}:
            labels = []
    return LabeledSplit(texts, pairs, labels)


def _split_validation(splits: dict[str, LabeledSplit], fraction: float) -> None:
    """Moves a share of train to validation by hash of the text, so that equal texts stay together."""
    train = splits["train"]
    hashes = [
        int.from_bytes(hashlib.sha256(" ".join(t.lower().split()).encode()).digest()[:7], "big")
        for t in train.text
    ]
    # Of very few examples, at least those with the lowest hash.
    limit = max(fraction * 2**56, min(hashes) + 1)
    validation = [i for i, value in enumerate(hashes) if value < limit]
    rest = [i for i, value in enumerate(hashes) if value >= limit]
    if not rest:
        raise ValueError(
            "train has one distinct text, which cannot be split into train and validation: add examples"
        )
    splits["train"], splits["validation"] = train.take(rest), train.take(validation)


def _check_labels(splits: dict[str, LabeledSplit], names: tuple[str, ...], source: str) -> None:
    for split, examples in splits.items():
        for number, label in enumerate(examples.label):
            if label not in names:
                shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
                raise ValueError(
                    f"{source}: example {number + 1} of {split} has the label {label!r}, which train "
                    f"does not have ({shown}): correct it, or add examples of it to train"
                )


def _tfds(name: str) -> dict[str, _Table]:
    """The splits of a TFDS dataset. Class labels become their names, missing ones '-1'."""
    builder = tfds_builder(name)
    features = builder.info.features
    tables = {}
    for name_there in builder.info.splits:
        split = _SYNONYMS.get(name_there, name_there)
        if split not in SPLITS:
            continue
        data = builder.as_data_source(name_there)
        columns = {feature: [] for feature in features}
        for start in range(0, len(data), 1024):
            for record in data.__getitems__(list(range(start, min(start + 1024, len(data))))):
                for feature, values in columns.items():
                    values.append(_to_text(record[feature], features[feature]))
        tables[split] = _Table(columns)
    return tables


def _to_text(value, feature) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(feature, "int2str") and int(value) >= 0:
        return feature.int2str(int(value))
    return str(value)


def _files(pattern: str) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    for path in expand(pattern):
        split, columns = _split_of(path), _read(path)
        table = tables.setdefault(split, _Table({name: [] for name in columns}))
        if set(table.columns) != set(columns):
            raise ValueError(
                f"{path} has columns {', '.join(columns)} but {table.files[0]} has "
                f"{', '.join(table.columns)}: the files of one split need the same columns"
            )
        for name, values in columns.items():
            table.columns[name] += values
        table.files.append(path)
    return tables


def _split_of(path: str) -> str:
    """The split in a file's name: train.tsv, dev.csv.gz, train-00001.jsonl, my_test.tsv."""
    stem = os.path.basename(path).split(".")[0].lower()
    for word in stem.replace("-", "_").split("_"):
        split = _SYNONYMS.get(word, word)
        if split in SPLITS:
            return split
    raise ValueError(
        f"{path} names no split: call it train, validation (or dev) or test, such as train.tsv"
    )


def _read(path: str) -> dict[str, list[str]]:
    """The columns of one TSV, CSV or JSONL file."""
    parse = next((_PARSERS[s] for s in Path(path).suffixes[-2:] if s in _PARSERS), None)
    if parse is None:
        raise ValueError(
            f"{path} is none of {', '.join(_PARSERS)} (plain or {', '.join(COMPRESSIONS)}): convert or "
            "rename it"
        )
    with reading(path) as (stream, _):
        data = stream.read()
    try:
        content = data.decode()
    except UnicodeDecodeError as error:
        raise utf8_error(path, error.start) from error
    return parse(path, content.removeprefix("\ufeff"))


def _tsv(path: str, content: str) -> dict[str, list[str]]:
    """Tabs separate fields. Quotes are text and nothing is escaped, as in GLUE."""
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    return _columns(path, ((n, line.split("\t")) for n, line in enumerate(lines, 1) if line))


def _csv(path: str, content: str) -> dict[str, list[str]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)

    def rows():
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise ValueError(
                f"{path} is not CSV at line {reader.line_num} ({error}): correct its quotes"
            ) from error

    return _columns(path, rows())


def _columns(path: str, rows) -> dict[str, list[str]]:
    rows = iter(rows)
    _, header = next(rows, (0, []))
    if not header:
        raise ValueError(f"{path} is empty: its first line must name the columns")
    columns = {name: [] for name in header}
    if len(columns) != len(header):
        raise ValueError(f"{path} names a column twice ({', '.join(header)}): rename one")
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path} has {len(row)} fields at line {number}, but its first line names "
                f"{len(header)}: correct the line"
            )
        for name, value in zip(header, row, strict=True):
            columns[name].append(value)
    return columns


def _jsonl(path: str, content: str) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is not JSON at line {number} ({error.msg}): correct it"
            ) from error
        if not isinstance(record, dict):
            raise ValueError(
                f"{path} has no object at line {number}: expected one {{...}} per line"
            )
        columns = columns or {name: [] for name in record}
        if set(record) != set(columns):
            raise ValueError(
                f"{path} has the fields {', '.join(record)} at line {number}, but its first line has "
                f"{', '.join(columns)}: every line needs the same fields"
            )
        for name, value in record.items():
            columns[name].append(value if isinstance(value, str) else json.dumps(value))
    if not columns:
        raise ValueError(f"{path} is empty: expected one object per line")
    return columns


_PARSERS = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}
