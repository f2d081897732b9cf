"""The names of splits: which of train, validation and test a file or a split of TFDS is.

Used by data/examples.py.
"""

import os
import re
from collections.abc import Callable

from data.file_kinds import compression_of

SPLITS = ("train", "validation", "test")
# A word of a path -> the split that it names.
SPLIT_WORDS = {split: split for split in SPLITS} | {
    "training": "train", "dev": "validation", "devel": "validation", "development": "validation",
    "valid": "validation", "val": "validation", "eval": "validation", "testing": "test",
}  # fmt: skip


def split_of(path: str) -> str:
    """The split that a path names: a word of the file's name, otherwise the whole name of a folder.

    train.tsv, sst2.dev.csv.gz, my_test-0.tsv, trainData.jsonl, train/part-0.tsv, train.csv/part-0.csv.
    """
    name = os.path.basename(path)
    stem = os.path.splitext(name[: len(name) - len(compression_of(name))])[0]
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", stem)
    found = {SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS}
    folders = [os.path.splitext(each)[0] for each in os.path.dirname(path).lower().split(os.sep)]
    for folder in reversed(folders):
        found = found or {SPLIT_WORDS[folder]} if folder in SPLIT_WORDS else found
    if len(found) != 1:
        wrong = f"names the splits {' and '.join(sorted(found))}" if found else "names no split"
        raise ValueError(
            f"{path} {wrong}: call it train, validation (or dev) or test, such as train.tsv, or write a "
            "pattern without it, such as **/*.tsv"
        )
    return found.pop()


def choose_splits(
    source: str, names: list[str], chosen: tuple[str, ...], log: Callable[[str], None]
) -> list[tuple[str, str]]:
    """[(split, its name in a TFDS data set)].

    A split has its own name or one of SPLIT_WORDS (dev); otherwise a word of its name says it, if there is
    one such name: train_r1 alone is train. Of MNLI's validation_matched and validation_mismatched, the
    matched one is taken, which GLUE reports first. `chosen` ('validation=validation_mismatched') has
    precedence.

    Raises ValueError for several names of one split, and for a name that does not exist."""
    found = {}
    for each in chosen:
        split, _, name = str(each).partition("=")
        if split not in SPLITS or name not in names or split in found:
            raise ValueError(
                f"task.splits has {each!r}, expected SPLIT=NAME once for a SPLIT of {', '.join(SPLITS)}, "
                f"with a NAME of {source}: {', '.join(names)[:150]}"
            )
        found[split] = name
    for split in (split for split in SPLITS if split not in found):
        same = [name for name in names if SPLIT_WORDS.get(name) == split]
        words = {name: re.split("[^a-z]", name.lower()) for name in names}
        like = [name for name in names if split in {SPLIT_WORDS.get(word) for word in words[name]}]
        several = same or like
        matched = [name for name in several if "matched" in words[name]]
        several = matched if len(matched) == 1 else several
        if len(several) > 1:
            raise ValueError(
                f"{source} has several {split} splits, {', '.join(several)[:150]}: choose one with "
                f"task.splits=('{split}={several[0]}',)"
            )
        if several:
            found[split] = several[0]
    unused = [name for name in names if name not in found.values()]
    if unused:
        read = ", ".join(f"{split}={name}" for split, name in found.items())
        log(f"{source}: reads {read}; not {', '.join(unused)[:150]} (task.splits chooses)")
    return [(split, found[split]) for split in SPLITS if split in found]
