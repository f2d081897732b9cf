"""Sentences whose words have tags: lists of words and tags, or texts with labeled spans of characters.

Between data/examples.py, which reads the columns, and tasks/tagging.py.
"""

import dataclasses
import difflib
import functools
import re
from collections import Counter, defaultdict

import tokenizers

from data import labeled, labels, tag_schemes
from data.conll import FORMATS as CONLL
from data.examples import Column, Examples, place_of, read
from data.file_kinds import identify
from data.files import digest, expand
from data.splits import SPLITS
from data.tables import Dialect

# Scripts that write no space between words: each letter, with its marks, is a word.
_LETTERS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
# Punctuation marks and symbols are words; what joins an emoji to the next stays with it.
_SYMBOLS = r"[^\w\s\x{200c}\x{200d}\x{fe0f}][\x{200d}\x{fe0f}]*"
_MOST_UNKNOWN, _MANY_TAGS = 0.5, 1000
_label_of = functools.lru_cache(maxsize=1 << 14)(labels.label_of)


# ---- Values of columns ---------------------------------------------------------------------------


def as_words(value) -> list[str] | None:
    """A list of words, None if it is absent or empty. Raises ValueError for another value."""
    if isinstance(value, str | dict):
        kind = "a text" if isinstance(value, str) else "an object"
        raise ValueError(
            f"it is {kind}, expected a list of words; for texts with spans of characters set "
            "task.text_column and task.spans_column"
        )
    for number, word in enumerate(value or (), 1):
        if not isinstance(word, str):
            raise ValueError(f"its element {number} is no word: expected a list of texts")
    return value or None


def as_tags(value) -> list[str] | None:
    """A list of tags, None if it is absent or empty. Raises ValueError for another value."""
    if isinstance(value, str | dict):
        kind = "a text" if isinstance(value, str) else "an object"
        raise ValueError(f"it is {kind}, expected a list with a tag for each word")
    found = [_label_of(tag) if isinstance(tag, str) else "" for tag in value or ()]
    for number, tag in enumerate(found, 1):
        if not tag:
            raise ValueError(f"its element {number} is no tag: write one, such as O, for each word")
    return found or None


def as_spans(value) -> list[tuple[int, int, str]] | None:
    """A list of (start, end, label), in the order of the text; None if it is absent.

    Takes [{"start", "end", "label"}, ...], [[start, end, label], ...], and an object of three lists, as
    TFDS has it. Raises ValueError for another value.
    """
    if value is None:
        return None
    keys = ("start", "end", "label")
    if isinstance(value, dict) and all(isinstance(value.get(key), list) for key in keys):
        value = [list(each) for each in zip(*(value[key] for key in keys), strict=True)]
    if not isinstance(value, list):
        raise ValueError(
            'it is no list of spans: write [{"start": 0, "end": 5, "label": "PER"}, ...]'
        )
    return sorted(_span(number, each) for number, each in enumerate(value, 1))


def _span(number, value):
    keys = ("start", "end", "label")
    if isinstance(value, dict):
        if missing := [key for key in keys if value.get(key) is None]:
            raise ValueError(f"span {number} has no {missing[0]!r}, but {', '.join(value)[:80]}")
        value = [value[key] for key in keys]
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"span {number} is not [start, end, label]")
    start, end, label = value
    if not all(isinstance(each, str) and re.fullmatch(r"\d+", each) for each in (start, end)):
        raise ValueError(
            f"span {number} is from {start} to {end}, expected numbers of characters from 0"
        )
    label = labels.label_of(label) if isinstance(label, str) else ""
    if not label:
        raise ValueError(f"span {number} has no label: write one, or remove the span")
    return int(start), int(end), label


# ---- Texts ---------------------------------------------------------------------------------------


@functools.cache
def _splitter():
    split, regex = tokenizers.pre_tokenizers.Split, tokenizers.Regex
    steps = [split(regex(r"\s+"), "removed")]
    steps += [split(regex(each), "isolated") for each in (_SYMBOLS, _LETTERS)]
    return tokenizers.pre_tokenizers.Sequence(steps)


def split_words(text: str) -> list[tuple[str, tuple[int, int]]]:
    """[(word, (start, end))] of a text: runs of letters and digits, punctuation marks and symbols."""
    return _splitter().pre_tokenize_str(text)


def words_of(examples: Examples) -> list[list[str]]:
    """The words of each example, which has words or a text."""
    if examples.get("words"):
        return examples.get("words")
    return [[word for word, _ in split_words(text)] for text in examples.text]


def tags_of_spans(text: str, spans) -> list[str]:
    """The tags in BIO of the words of a text with `as_spans`.

    Raises ValueError for a span outside the text, one that overlaps another, and one that ends inside a
    word. White space at the ends of a span does not belong to it.
    """
    words = split_words(text)
    starts = {start: number for number, (_, (start, _)) in enumerate(words)}
    ends = {end: number for number, (_, (_, end)) in enumerate(words)}
    tags, last = [tag_schemes.OUTSIDE] * len(words), (0, 0, "")
    for start, end, label in spans:
        shown = f"span [{start}, {end}, {label!r}]"
        covered = text[start:end]
        if end > len(text) or not covered.strip():
            raise ValueError(f"{shown} covers no text: the text has {len(text)} characters")
        if start < last[1]:
            raise ValueError(
                f"{shown} overlaps span [{last[0]}, {last[1]}, {last[2]!r}]: a word has one tag, so "
                "remove one of them"
            )
        last = (start, end, label)
        start += len(covered) - len(covered.lstrip())
        end -= len(covered) - len(covered.rstrip())
        if start not in starts or end not in ends:
            place = start if start not in starts else end
            word = next(w for w, (a, b) in words if a < place < b)
            raise ValueError(
                f"{shown}, {covered[:40]!r}, {'starts' if place == start else 'ends'} inside the word "
                f"{word[:40]!r}: move it to the end of a word; spans count characters (code points)"
            )
        first, final = starts[start], ends[end]
        tags[first : final + 1] = [f"B-{label}"] + [f"I-{label}"] * (final - first)
    return tags


def spans_of_tags(text: str, entities) -> list[dict]:
    """[{start, end, label}] in characters of the entities (label, first word, last word) of a text."""
    words = split_words(text)
    return [
        {"start": words[first][1][0], "end": words[last][1][1], "label": label}
        for label, first, last in entities
    ]


# ---- Sets ----------------------------------------------------------------------------------------


def columns(token_column, tag_column, text_column, spans_column) -> dict[str, Column]:
    """{role: Column}: `words` and `tags`, or, with a spans_column, `text` and `tags`."""
    if spans_column:
        spans = Column(spans_column, "spans_column", as_spans, is_label=True, takes_objects=True)
        return {"text": Column(text_column, "text_column"), "tags": spans}
    words = Column(token_column, "token_column", as_words, takes_objects=True)
    tags = Column(tag_column, "tag_column", as_tags, is_label=True, takes_objects=True)
    return {"words": words, "tags": tags}


def load(
    source: str, columns: dict[str, Column], scheme: str = "auto", *, dialect: Dialect | None = None,
    missing: str = "error", validation_fraction: float = 0.1, log=lambda line: None,
) -> labeled.LabeledSplits:  # fmt: skip
    """Reads sentences with a tag for each word; other arguments as in `labeled.load`.

    Examples have `words`, or `text` where spans were read, and `tags`. Raises FileNotFoundError or
    ValueError of one line.
    """
    _check_files(source)
    splits = read(source, columns, dialect or Dialect(), missing, "", log)
    for split, examples in splits.items():
        splits[split] = checked(examples)
    place = place_of([each.table for each in splits["train"].places][:1])
    for line in _notes(_count(splits["train"]), place):
        log(f"warning: {line}")
    labeled.make_validation(source, splits, validation_fraction, log)
    counts = {split: _count(splits[split]) for split in SPLITS if split in splits}
    scheme = tag_schemes.scheme_of(counts["train"], scheme)
    if len(splits["validation"]) < labeled.SMALL:
        log(
            f"warning: validation has {len(splits['validation']):,} sentences: its scores say little; "
            "raise task.validation_fraction, or add sentences"
        )
    for line in _unknown(counts, scheme):
        log(f"warning: {line}")
    log(tag_schemes.describe(splits["train"].get("tags"), scheme))
    labeled.log_overlap(splits, log)
    contents = {split: examples.columns for split, examples in splits.items()}
    return labeled.LabeledSplits(splits, digest(contents), tuple(sorted(counts["train"])))


def _check_files(source):
    """Raises ValueError for a file of another form: a table has a sentence per row, CoNLL a word."""
    scheme, _, rest = source.partition(":")
    for path in expand(rest) if scheme == "files" and rest else ():
        form = identify(path).format
        if form not in (*CONLL, ".jsonl", ".ndjson"):
            raise ValueError(
                f"{path} is none of {', '.join((*CONLL, '.jsonl'))}: rename a file with a word and its "
                "tag per line to .conll, and write other sentences as lists in a .jsonl file"
            )


def checked(examples):
    """The examples with a tag for each word. Raises ValueError that names the line."""
    words, tags = examples.get("words"), examples.get("tags")
    found = []
    for number, place in enumerate(examples.places if tags is not None else ()):
        if words is None:
            try:
                found.append(tags_of_spans(examples.text[number], tags[number]))
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
        elif len(words[number]) != len(tags[number]):
            raise ValueError(
                f"{place} has {len(words[number]):,} words and {len(tags[number]):,} tags: write a tag "
                "for each word"
            )
        else:
            found.append(tags[number])
    first = words[:20] if words else ()
    if any(len(each) > 1 for each in first) and all(
        each == [str(i) for i in range(1, len(each) + 1)] for each in first
    ):
        raise ValueError(
            f"{examples.places[0]}: the words are 1, 2, ...: set task.token_column to the column of the "
            "words, such as 2, or rename a file of CoNLL-U to .conllu"
        )
    return dataclasses.replace(
        examples, columns=examples.columns | ({} if tags is None else {"tags": found})
    )


def _count(examples) -> Counter:
    return Counter(tag for tags in examples.get("tags") or () for tag in tags)


def _notes(train, place):
    """Lines about tags that may not mean what they say. Raises ValueError for tags that none can learn."""
    words = train.total()
    if len(train) < 2:
        raise ValueError(
            f"{place} has one tag alone, {next(iter(train))!r}, and a tagger needs two: check "
            "task.tag_column, or add sentences with another tag"
        )
    if words >= 20 and len(train) > words / 2:
        raise ValueError(
            f"{place} has {len(train):,} tags in {words:,} words, such as {min(train)!r}, too many to "
            "learn: check task.tag_column"
        )
    if len(train) > _MANY_TAGS:
        yield f"{place} has {len(train):,} tags, such as {min(train)!r}: check task.tag_column"
    groups = defaultdict(list)
    for tag in sorted(train):
        groups[tag.casefold()].append(tag)
    for alike in groups.values():
        if len(alike) > 1:
            yield f"tags {', '.join(map(repr, alike))} differ in case alone: correct them if they are one"
    if all(tag.isdigit() for tag in train):
        yield (
            "the tags are numbers: write their names, such as B-PER, into the files for the scores of "
            "entities"
        )


def _unknown(counts, scheme):
    """Lines about tags that train does not have. Raises ValueError if most tags of a split are such."""
    train = counts["train"]
    for split, found in counts.items():
        new = {tag: count for tag, count in found.items() if tag not in train}
        if scheme != "none":
            tag_schemes.scheme_of(found, "bioes")
        if not new:
            continue
        tag, inside = max(new, key=new.get), found.total() - found[tag_schemes.OUTSIDE]
        near = difflib.get_close_matches(tag, train, 1, 0.6)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        line = (
            f"{sum(new.values()):,} words of {split} have tags that train does not have, such as "
            f"{tag!r}{hint}"
        )
        if sum(new.values()) > _MOST_UNKNOWN * inside:
            raise ValueError(
                f"{line}; train has {', '.join(map(repr, sorted(train)))[:120]}: use files of one set"
            )
        yield f"{line}: no prediction of them is right"
