"""Labeled data sets: a text or a pair of texts and a label, from TFDS, files or `python_docs`.

Between data/tables.py (or TFDS), which reads columns, and tasks/, which encodes the examples. A labeled
set fits in memory.
"""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data import labels, python_docs, tables
from data.files import digest, expand
from data.sources import tfds_builder
from data.splits import SPLITS, choose_splits, split_of
from data.tables import Dialect, Table

_OPTIONS = {"text": "text_column", "text_pair": "text_pair_column", "label": "label_column"}
SMALL = 30  # examples: fewer give a validation score that says little


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


def load(
    source: str,
    text_column: str = "text",
    text_pair_column: str = "",
    label_column: str = "label",
    cache_dir: str = "",
    *,
    dialect: Dialect | None = None,
    splits: tuple[str, ...] = (),
    missing: str = "error",
    validation_fraction: float = 0.1,
    log: Callable[[str], None] = lambda line: None,
) -> LabeledSplits:
    """Reads a labeled set: `python_docs`, `tfds:NAME` or `files:PATTERN`.

    A word of a file's path says its split. Without a validation split, `validation_fraction` of each
    label's rows in train is used for it, by hash of the text. label_column='' reads the texts alone, of
    the splits that there are.

    Args:
      dialect: how TSV and CSV files are written.
      splits: 'SPLIT=NAME' of splits of a TFDS data set that are not those of `choose_splits`.
      missing: what to do with a row that has no text or no label: 'error' or 'drop'.
      log: receives a line about each split that is absent or made, rows that are dropped, labels that
        look alike and texts that are in two splits.

    Raises FileNotFoundError or ValueError of one line.
    """
    dialect = dialect or Dialect()
    dialect.check()
    names = {"text": text_column, "text_pair": text_pair_column, "label": label_column}
    names = {role: name for role, name in names.items() if name}
    columns = tuple(dict.fromkeys(names.values()))
    read = _tables(source, columns, dialect, splits, cache_dir, log)
    if "train" not in read:
        raise ValueError(
            f"{source} has no train split, but {', '.join(read)}: name a file train.tsv (or .csv, .jsonl)"
        )
    splits, counts = {}, Counter()
    for split in (split for split in SPLITS if split in read):
        splits[split], origins = _examples(split, read[split], names, missing, counts, log)
        if split == "train" and "label" in names:
            counts = Counter(splits["train"].label)
            labels.check(counts, _places(read["train"]))
        for label, (table, row) in zip(splits[split].label, origins, strict=False):
            if label not in counts:
                raise labels.unknown_error(table.at(row), label, sorted(counts))
    if "label" in names:
        if "validation" not in splits:
            _split_validation(splits, validation_fraction)
            log(
                f"{source} has no validation split: {len(splits['validation'])} examples of train are used "
                f"for it, by hash of the text; {len(splits['train'])} remain"
            )
        if "test" not in splits:
            log(f"{source} has no test split: only validation scores are reported")
        for line in (*labels.notes(counts), *_notes(splits, counts)):
            log(f"warning: {line}")
        log(_overlap(splits))
    contents = {s: [v.text, v.text_pair, v.label] for s, v in splits.items()}
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return LabeledSplits(ordered, digest(contents), tuple(sorted(counts)))


def _tables(source, columns, dialect, chosen, cache_dir, log) -> dict[str, list[Table]]:
    scheme, _, rest = source.partition(":")
    if chosen and scheme != "tfds":
        raise ValueError(
            f"task.splits={chosen!r} names splits of a TFDS data set, but task.source is {source!r}: leave "
            "it out; a word of a file's path says its split"
        )
    if scheme == "python_docs":
        directory, _ = python_docs.prepare(rest, cache_dir, log)
        return _tfds(str(python_docs.directory_of(directory, "labeled")), columns)
    if scheme == "tfds" and rest:
        return _tfds(rest, columns, chosen, log)
    if scheme == "files" and rest:
        found = defaultdict(list)
        paths = expand(rest, log)
        for split, path in [(split_of(path), path) for path in paths]:
            found[split].append(tables.read(path, columns, dialect, log))
        return found
    raise ValueError(
        f"task.source {source!r} is not a labeled set: choose python_docs, tfds:NAME or "
        "files:/path/{train,validation}.tsv"
    )


def _tfds(
    name: str, columns, chosen: tuple[str, ...] = (), log=lambda line: None
) -> dict[str, list[Table]]:
    """The splits of a TFDS dataset. Class labels become their names, -1 an absent value."""
    builder = tfds_builder(name)
    features = builder.info.features
    there = [column for column in columns if column in features]
    found = defaultdict(list)
    for split, name_there in choose_splits(f"tfds:{name}", list(builder.info.splits), chosen, log):
        table = Table(
            f"tfds:{name}, split {name_there},",
            list(features),
            {c: [] for c in there},
            unit="record",
        )
        data = builder.as_data_source(name_there)
        for start in range(0, len(data), 1024):
            numbers = list(range(start, min(start + 1024, len(data))))
            for number, record in zip(numbers, data.__getitems__(numbers), strict=True):
                table.add(number, {c: _tfds_value(record[c], features[c]) for c in there})
        found[split].append(table)
    return found


def _tfds_value(value, feature):
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)) if int(value) >= 0 else None
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic) and not isinstance(value, bytes):
        return None if value != value else str(value)  # NaN differs from itself
    return value


def _places(read: list[Table]) -> str:
    """The files of a split, for an error."""
    return read[0].place + (f" and {len(read) - 1} more" if len(read) > 1 else "")


def _examples(split, read, names, missing, train_labels, log):
    """(LabeledSplit, [(Table, row) of each example]) of the tables of a split."""
    if split == "test" and "label" in names and _is_unlabeled(read, names["label"], train_labels):
        names = {role: name for role, name in names.items() if role != "label"}
    for table in read:
        for role, name in names.items():
            if name not in table.columns:
                raise table.missing_column(name, f"task.{_OPTIONS[role]}")
    found, origins, dropped = {role: [] for role in names}, [], 0
    for table in read:
        for row in range(len(table.numbers)):
            values = {role: table.columns[name][row] for role, name in names.items()}
            for role, value in values.items():
                values[role] = _one(table, row, role, names[role], value)
            absent = [names[role] for role, value in values.items() if value is None]
            if absent and missing == "error":
                raise ValueError(
                    f"{table.at(row)} has no value in column {absent[0]!r}: add it, or set "
                    "task.missing=drop to leave such rows out"
                )
            if absent:
                dropped += 1
                continue
            origins.append((table, row))
            for role, value in values.items():
                found[role].append(value)
    if dropped:
        log(
            f"{dropped:,} of {dropped + len(origins):,} {split} rows have no text or label and are "
            "dropped: ids in predictions count the others"
        )
    if not origins:
        why = f"all {dropped:,} rows were dropped" if dropped else "it has no row"
        raise ValueError(
            f"{_places(read)}: the {split} split is empty, {why}: add rows, or leave it out"
        )
    examples = LabeledSplit(found["text"], found.get("text_pair"), found.get("label", []))
    return examples, origins


def _one(table, row, role, name, value):
    """The text or label of a row; None if it is absent."""
    if isinstance(value, list):
        if role == "label":
            raise labels.multiple_error(table.at(row), value)
        raise ValueError(
            f"{table.at(row)} has a list in column {name!r}, expected a text: choose another column, or "
            "join it"
        )
    if role == "label" and value is not None:
        return labels.label_of(value) or None
    return value


def _is_unlabeled(read, name, train_labels) -> bool:
    """Whether a test split has no label at all, as in GLUE: no column, no value, or -1, ?, ... everywhere."""
    values = [value for table in read for value in table.columns.get(name, [None])]
    labels_there = {
        value if value is None else labels.label_of(value)
        for value in values
        if not isinstance(value, list)
    }
    return not any(isinstance(value, list) for value in values) and all(
        label is None or (label not in train_labels and labels.is_like_no_label(label))
        for label in labels_there
    )


def _key(text: str) -> str:
    """Texts with the same key are copies."""
    return " ".join(text.lower().split())


def _split_validation(splits: dict[str, LabeledSplit], fraction: float) -> None:
    """Moves that share of each label's rows from train to validation, by hash of the text.

    Copies stay together, and every label keeps a row in train.
    """
    train = splits["train"]
    groups = defaultdict(list)
    for row, text in enumerate(train.text):
        groups[hashlib.sha256(_key(text).encode()).digest()].append(row)
    if len(groups) < 2:
        raise ValueError(
            "train has one distinct text, which cannot be split into train and validation: add examples"
        )
    sizes, chosen = Counter(train.label), set()
    ordered = [
        (rows, Counter(train.label[row] for row in rows)) for _, rows in sorted(groups.items())
    ]
    left = {label: min(int(fraction * size + 0.5), size - 1) for label, size in sizes.items()}
    for rows, wanted in ordered:
        if all(count <= left[label] for label, count in wanted.items()):
            chosen.update(rows)
            for label, count in wanted.items():
                left[label] -= count
    if not chosen:  # very few examples: one text of them
        spare = (rows for rows, wanted in ordered if all(n < sizes[c] for c, n in wanted.items()))
        chosen.update(next(spare, ()))
    if not chosen:
        raise ValueError(
            f"train has {len(train)} examples of {len(sizes)} labels, too few to take some of them for "
            "validation: add examples or a validation file"
        )
    rest = [row for row in range(len(train)) if row not in chosen]
    splits["train"], splits["validation"] = train.take(rest), train.take(sorted(chosen))


def _notes(splits: dict[str, LabeledSplit], counts: Counter) -> list[str]:
    """Lines about splits whose scores say little."""
    lines, train, validation = [], splits["train"], splits["validation"]
    absent = sorted(set(counts) - set(validation.label))
    if absent or len(validation) < SMALL:
        none = f", none of them of label {', '.join(map(repr, absent[:5]))}" if absent else ""
        lines.append(
            f"validation has {len(validation):,} examples{none}: its scores say little; raise "
            "task.validation_fraction, or add examples"
        )
    seen = defaultdict(set)
    for text, pair, label in zip(
        train.text, train.text_pair or train.text, train.label, strict=True
    ):
        seen[_key(text), _key(pair)].add(label)
    if several := sum(len(found) > 1 for found in seen.values()):
        lines.append(f"{several:,} texts of train have more than one label")
    if words := [text for text in train.text if labels.is_like_absent(text)]:
        lines.append(
            f"{len(words):,} texts of train are words for an absent value, such as {words[0]!r}: leave "
            "them empty if they mean that"
        )
    for split, examples in splits.items():
        if split != "train" and len(set(examples.label)) == 1:
            lines.append(f"every {split} example has the label {examples.label[0]!r}")
    return lines


def _overlap(splits: dict[str, LabeledSplit]) -> str:
    """A line about the examples of a split whose texts are also in an earlier one."""
    keys = {}
    for split in (split for split in SPLITS if split in splits):
        pairs = splits[split].text_pair or [""] * len(splits[split])
        keys[split] = [(_key(a), _key(b)) for a, b in zip(splits[split].text, pairs, strict=True)]
    repeated = len(keys["train"]) - len(set(keys["train"]))
    found, copies = [f"{repeated:,} of {len(keys['train']):,} train examples repeat another"], 0
    for first, second in itertools.combinations(keys, 2):
        known = set(keys[first])
        shared = sum(key in known for key in keys[second])
        copies += shared
        found.append(f"{shared:,} of {len(keys[second]):,} {second} examples are in {first} too")
    line = f"equal texts: {', '.join(found)}"
    return f"warning: {line}; scores on copies measure memory" if copies else line
