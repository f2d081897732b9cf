"""Labeled texts: a text or a pair of texts with a class, checked.

Between data/examples.py, which reads the columns, and the tasks. The checks of the splits of every
labeled set are here too: the validation split that is taken from train, and copies in two splits.
"""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable

from data import labels
from data.examples import Column, Examples, as_label, place_of, read
from data.files import digest
from data.splits import SPLITS
from data.tables import Dialect

SMALL = 30  # examples: fewer give a validation score that says little


class LabeledSplits(dict):
    """{split: Examples} with the fingerprint of the set and the sorted labels of `train`."""

    def __init__(self, splits: dict[str, Examples], fingerprint: str, label_names: tuple):
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
    missing: str = "error",
    validation_fraction: float = 0.1,
    log: Callable[[str], None] = lambda line: None,
) -> LabeledSplits:
    """Reads texts, or pairs of texts, with a class each; see `examples.read`.

    Without a validation split, `validation_fraction` of each label's rows in train is used for it, by
    hash of the text. label_column='' reads the texts alone, of the splits that there are.

    Args:
      dialect: how TSV and CSV files are written.
      missing: what to do with a row that has no text or no label: 'error' or 'drop'.
      log: receives a line about each split that is absent or made, rows that are dropped, labels that
        look alike and texts that are in two splits.

    Raises FileNotFoundError or ValueError of one line.
    """
    columns = class_columns(text_column, text_pair_column, label_column)
    splits = read(source, columns, dialect or Dialect(), missing, cache_dir, log)
    names = check_classes(source, splits, validation_fraction, log) if label_column else ()
    contents = {s: [v.text, v.text_pair, v.label] for s, v in splits.items()}
    return LabeledSplits(splits, digest(contents), names)


def check_classes(
    source: str, splits: dict[str, Examples], fraction: float, log, roles=("text", "text_pair")
) -> tuple[str, ...]:
    """The sorted classes of splits with a column `label`, checked, and a validation split if they lack one.

    Arguments and errors as in `load` and `log_overlap`.
    """
    counts = Counter(splits["train"].label)
    labels.check(counts, files_of(splits["train"]))
    for examples in splits.values():
        for label, place in zip(examples.label, examples.places, strict=False):
            if label not in counts:
                raise labels.unknown_error(str(place), label, sorted(counts))
    make_validation(source, splits, fraction, log)
    for line in (*labels.notes(counts), *_notes(splits, counts, roles)):
        log(f"warning: {line}")
    log_overlap(splits, log, roles)
    return tuple(sorted(counts))


def text_columns(text_column: str, text_pair_column: str) -> dict[str, Column]:
    """{role: Column} of a text, or of a pair."""
    columns = {"text": Column(text_column, "text_column")}
    if text_pair_column:
        columns["text_pair"] = Column(text_pair_column, "text_pair_column")
    return columns


def class_columns(text_column: str, text_pair_column: str, label_column: str) -> dict[str, Column]:
    """{role: Column} of a text, or of a pair, with a class; label_column='' leaves the class out."""
    columns = text_columns(text_column, text_pair_column)
    if label_column:
        columns["label"] = Column(label_column, "label_column", as_label, is_label=True)
    return columns


def files_of(examples: Examples) -> str:
    """The files of a split, for an error."""
    return place_of(list({id(place.table): place.table for place in examples.places}.values()))


def complete(
    source: str, splits: dict[str, Examples], label_names, fraction: float, log,
    roles=("text", "text_pair"),
) -> LabeledSplits:  # fmt: skip
    """The labeled set of splits that have been read and checked, with a validation split; logs what is
    made, absent, or in two splits. Arguments as in `load` and `log_overlap`."""
    make_validation(source, splits, fraction, log)
    log_overlap(splits, log, roles)
    contents = {split: examples.columns for split, examples in splits.items()}
    return LabeledSplits(splits, digest(contents), tuple(label_names))


def make_validation(source: str, splits: dict[str, Examples], fraction: float, log) -> None:
    """Adds a validation split where there is none: a share of train, by hash of the text.

    Logs that, and a missing test split.
    """
    if "validation" not in splits:
        _split_validation(splits, fraction)
        log(
            f"{source} has no validation split: {len(splits['validation'])} examples of train are used "
            f"for it, by hash of the text; {len(splits['train'])} remain"
        )
    if "test" not in splits:
        log(f"{source} has no test split: only validation scores are reported")


def _key(text: str) -> str:
    """Texts with the same key are copies."""
    return " ".join(text.lower().split())


def _split_validation(splits: dict[str, Examples], fraction: float) -> None:
    """Moves that share of each label's rows from train to validation, by hash of the text.

    Copies stay together, and every label keeps a row in train.
    """
    train = splits["train"]
    classes = train.label or [""] * len(train)
    # values, or several labels: one stratum
    if not all(isinstance(label, str) for label in classes):
        classes = [""] * len(train)
    groups = defaultdict(list)
    for row, text in enumerate(_texts(train)):
        groups[hashlib.sha256(_key(text).encode()).digest()].append(row)
    if len(groups) < 2:
        raise ValueError(
            "train has one distinct text, which cannot be split into train and validation: add examples"
        )
    sizes, chosen = Counter(classes), set()
    ordered = [(rows, Counter(classes[row] for row in rows)) for _, rows in sorted(groups.items())]
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
    test = {"test": splits.pop("test")} if "test" in splits else {}
    splits["train"], splits["validation"] = train.take(rest), train.take(sorted(chosen))
    splits |= test  # in the order of SPLITS


def _texts(examples: Examples) -> list[str]:
    """The first text of each example, by which copies are found."""
    return _joined(next(iter(examples.columns.values())))


def _joined(values) -> list[str]:
    return [value if isinstance(value, str) else " ".join(map(str, value)) for value in values]


def _notes(splits: dict[str, Examples], counts: Counter, roles) -> list[str]:
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
    texts = [train.get(role) for role in roles if train.get(role) is not None]
    for *row, label in zip(*texts, train.label, strict=True):
        seen[tuple(map(_key, row))].add(label)
    if several := sum(len(found) > 1 for found in seen.values()):
        lines.append(f"{several:,} texts of train have more than one label")
    if words := [text for text in texts[0] if labels.is_like_absent(text)]:
        lines.append(
            f"{len(words):,} texts of train are words for an absent value, such as {words[0]!r}: leave "
            "them empty if they mean that"
        )
    for split, examples in splits.items():
        if split != "train" and len(set(examples.label)) == 1:
            lines.append(f"every {split} example has the label {examples.label[0]!r}")
    return lines


def log_overlap(splits: dict[str, Examples], log, roles=("text", "text_pair")) -> None:
    """Logs the number of train examples that repeat another one, and of examples of other splits that are
    also in an earlier split, by the columns `roles`; nothing if there are none."""
    keys = {}
    for split in (split for split in SPLITS if split in splits):
        there = [_joined(v) for role in roles if (v := splits[split].get(role)) is not None]
        keys[split] = [tuple(map(_key, row)) for row in zip(*there, strict=True)]
    repeated = len(keys["train"]) - len(set(keys["train"]))
    found, copies = [], 0
    if repeated:
        found.append(f"{repeated:,} of {len(keys['train']):,} train examples repeat another")
    for first, second in itertools.combinations(keys, 2):
        known = set(keys[first])
        shared = sum(key in known for key in keys[second])
        copies += shared
        if shared:
            found.append(
                f"{shared:,} of {len(keys[second]):,} {second} examples are in {first} too"
            )
    line = f"equal texts: {', '.join(found)}"
    if found:
        log(f"warning: {line}; scores on copies measure memory" if copies else line)
