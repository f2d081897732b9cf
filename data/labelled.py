"""Labelled sets: text (or a pair of texts) and a label, per split, from TFDS, files or `python_docs`.

Between a source and `tasks/`, which encodes the examples; a labelled set fits in memory.
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
from data.files import digest, expand, reading, utf8_error
from data.sources import tfds_builder

SPLITS = ("train", "validation", "test")
_SYNONYMS = {"dev": "validation", "valid": "validation", "val": "validation", "eval": "validation"}
_FORMATS = (".tsv", ".csv", ".jsonl")


@dataclass(frozen=True)
class Labelled:
    """One split. `text_pair` is None for single texts; `label` is empty where the split has none."""

    text: list[str]
    text_pair: list[str] | None
    label: list[str]

    def __len__(self) -> int:
        return len(self.text)

    def take(self, indices) -> "Labelled":
        """The examples int[n], in that order."""
        indices = [int(i) for i in indices]
        pick = lambda values: [values[i] for i in indices]  # noqa: E731
        return Labelled(
            text=pick(self.text),
            text_pair=None if self.text_pair is None else pick(self.text_pair),
            label=pick(self.label) if self.label else [],
        )


class Splits(dict):
    """{split: Labelled}, with the set's identity and the labels that `train` knows, sorted."""

    def __init__(self, splits: dict[str, Labelled], fingerprint: str, label_names: tuple[str, ...]):
        super().__init__(splits)
        self.fingerprint = fingerprint
        self.label_names = label_names


@dataclass
class _Table:
    """Columns of one split as they were read, and where from."""

    columns: dict[str, list[str]]
    names: list[str] = field(default_factory=list)


def load(
    source: str,
    text: str = "text",
    text_pair: str = "",
    label: str = "label",
    cache_dir: str = "",
    *,
    validation_fraction: float = 0.1,
    check_labels: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Splits:
    """Reads a labelled set: `python_docs`, `tfds:NAME` or `files:PATTERN`, columns by name.

    The split of a file is in its name (train, validation or dev, test). Without a validation split,
    `validation_fraction` of train is held out by hash of the text; a missing test split is logged.
    With `check_labels` a label that train never shows is refused (regression has none to check).
    Raises FileNotFoundError or ValueError of one line.
    """
    kind, _, rest = source.partition(":")
    if kind == "python_docs":
        tables = _python_docs(rest, cache_dir, log)
    elif kind == "tfds" and rest:
        tables = _tfds(rest)
    elif kind == "files" and rest:
        tables = _files(rest)
    else:
        raise ValueError(
            f"task.source {source!r} is not a labelled set: choose python_docs, tfds:NAME or "
            "files:/path/{train,validation}.tsv"
        )
    if "train" not in tables:
        raise ValueError(
            f"{source} has no train split, but {', '.join(tables)}: name a file train.tsv (or .csv, "
            ".jsonl) to learn from"
        )
    splits = {}
    for split in SPLITS:
        if split in tables:
            splits[split] = _select(tables[split], split, text, text_pair, label, source)
    if not len(splits["train"]):
        raise ValueError(f"{source} has no example to train on: fill its train split")
    if "validation" not in splits:
        _carve(splits, validation_fraction)
        log(
            f"{source} has no validation split: {len(splits['validation'])} of train are held out for "
            f"it by hash of the text, {len(splits['train'])} remain"
        )
    if "test" not in splits:
        log(f"{source} has no test split: the validation split is the only one to report on")
    names = tuple(sorted(set(splits["train"].label)))
    if check_labels:
        _check_labels(splits, names, source)
    contents = {s: [v.text, v.text_pair, v.label] for s, v in splits.items()}
    return Splits({s: splits[s] for s in SPLITS if s in splits}, digest(contents), names)


def _select(table: _Table, split, text, text_pair, label, source) -> Labelled:
    """The asked-for columns of one split."""

    def column(name: str, option: str) -> list[str]:
        if name not in table.columns:
            there = list(table.columns)
            near = difflib.get_close_matches(name, there, 1, 0.5)
            guess = f", nearest is {near[0]!r}" if near else ""
            where = f" ({table.names[0]})" if table.names else ""
            raise ValueError(
                f"{source} has no column {name!r} in {split}{where}: it has "
                f"{', '.join(map(repr, there))}{guess}; set task.{option}"
            )
        return table.columns[name]

    texts = column(text, "text")
    pairs = column(text_pair, "text_pair") if text_pair else None
    # A test split may come without labels (GLUE gives -1): then it can be predicted, not scored.
    labels = []
    if split != "test" or label in table.columns:
        labels = column(label, "label")
        if split == "test" and set(labels) <= {"-1", ""}:
            labels = []
    return Labelled(texts, pairs, labels)


def _carve(splits: dict[str, Labelled], fraction: float) -> None:
    """Moves a share of train to validation, chosen by hash of the text (equal texts stay together)."""
    train = splits["train"]
    places = [
        int.from_bytes(hashlib.sha256(" ".join(t.lower().split()).encode()).digest()[:7], "big")
        for t in train.text
    ]
    held = {i for i, place in enumerate(places) if place < fraction * 2**56}
    if not held:  # a few examples: the lowest hash
        lowest = min(places)
        held = {i for i, place in enumerate(places) if place == lowest}
    rest = [i for i in range(len(train)) if i not in held]
    if not rest:
        raise ValueError(
            "one distinct text is too few to hold out a validation split: add examples"
        )
    splits["train"], splits["validation"] = train.take(rest), train.take(sorted(held))


def _check_labels(splits: dict[str, Labelled], names: tuple[str, ...], source: str) -> None:
    for split, examples in splits.items():
        for number, label in enumerate(examples.label):
            if label not in names:
                shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
                raise ValueError(
                    f"{source}: example {number + 1} of {split} has the label {label!r}, which train "
                    f"never shows ({shown}): correct it, or add examples of it to train"
                )


def _python_docs(root: str, cache_dir: str, log) -> dict[str, _Table]:
    directory, _ = python_docs.prepare(root, cache_dir, log)
    return _tfds(str(python_docs.directory_of(directory, "labelled")))


def _tfds(name: str) -> dict[str, _Table]:
    """Splits of a TFDS dataset; class labels by their names, unlabelled ones as '-1'."""
    builder = tfds_builder(name)
    features = builder.info.features
    tables = {}
    for split in builder.info.splits:
        known = _SYNONYMS.get(split, split)
        if known not in SPLITS:
            continue
        data = builder.as_data_source(split)
        columns = {feature: [] for feature in features}
        for start in range(0, len(data), 1024):
            for record in data.__getitems__(list(range(start, min(start + 1024, len(data))))):
                for feature, values in columns.items():
                    values.append(_plain(record[feature], features[feature]))
        tables[known] = _Table(columns)
    return tables


def _plain(value, feature) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(feature, "int2str") and int(value) >= 0:
        return feature.int2str(int(value))
    return str(value)


def _files(pattern: str) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    for path in expand(pattern):
        split = _split_of(path)
        read = _read(path)
        if split not in tables:
            tables[split] = _Table(read, [path])
            continue
        table = tables[split]
        if set(table.columns) != set(read):
            raise ValueError(
                f"{path} has columns {', '.join(read)} where {table.names[0]} has "
                f"{', '.join(table.columns)}: files of one split need the same"
            )
        for name, values in read.items():
            table.columns[name] += values
        table.names.append(path)
    return tables


def _split_of(path: str) -> str:
    """The split in a file's name: train.tsv, dev.csv.gz, train-00001.jsonl, my_test.tsv."""
    stem = os.path.basename(path).split(".")[0].lower()
    words = stem.replace("-", "_").split("_")
    for word in words:
        split = _SYNONYMS.get(word, word)
        if split in SPLITS:
            return split
    raise ValueError(
        f"{path} names no split: call it train, validation (or dev) or test, such as train.tsv"
    )


def _read(path: str) -> dict[str, list[str]]:
    """The columns of one TSV, CSV or JSONL file."""
    kind = next((f for f in _FORMATS if f in Path(path).suffixes[-2:]), "")
    if not kind:
        raise ValueError(
            f"{path} is none of {', '.join(_FORMATS)} (.gz, .xz): convert or rename it"
        )
    with reading(path) as (stream, _):
        data = stream.read()
    try:
        content = data.decode()
    except UnicodeDecodeError as error:
        raise utf8_error(path, error.start) from error
    content = content.removeprefix("\ufeff")
    return {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}[kind](path, content)


def _tsv(path: str, content: str) -> dict[str, list[str]]:
    """Tabs separate and quotes are text (as in GLUE): nothing is escaped."""
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    return _columns(path, ((n, line.split("\t")) for n, line in enumerate(lines, 1) if line))


def _csv(path: str, content: str) -> dict[str, list[str]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)

    def rows():
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(
                f"{path} is not CSV at line {reader.line_num} ({error}): correct its quotes"
            ) from error

    return _columns(path, rows())


def _columns(path: str, rows) -> dict[str, list[str]]:
    rows = iter(rows)
    _, header = next(rows, (0, []))
    if not header:
        raise ValueError(f"{path} is empty: it needs a line with the names of its columns")
    columns = {name: [] for name in header}
    if len(columns) != len(header):
        raise ValueError(f"{path} names a column twice ({', '.join(header)}): rename one")
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path} has {len(row)} fields at line {number} where its first line names "
                f"{len(header)}: correct the line"
            )
        for name, value in zip(header, row, strict=True):
            columns[name].append(value)
    return columns


def _jsonl(path: str, content: str) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    count = 0
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
            raise ValueError(f"{path} has no object at line {number}: one {{...}} per line")
        if not columns:
            columns = {name: [] for name in record}
        if set(record) != set(columns):
            raise ValueError(
                f"{path} has the fields {', '.join(record)} at line {number} where its first line has "
                f"{', '.join(columns)}: give every line the same"
            )
        for name, value in record.items():
            columns[name].append(value if isinstance(value, str) else json.dumps(value))
        count += 1
    if not count:
        raise ValueError(f"{path} is empty: it needs one object per line")
    return columns
