"""Generated label files and text files, whole and damaged: each gives its rows, or one line of error.

Nothing is half read: a whole file gives what was written, a damaged one never fewer rows unnoticed.
"""

import csv
import io
import json
import random
import re
from collections import Counter

import pytest

from data import sources
from data.file_kinds import COMPRESSIONS, open_compressed
from data.labeled import load
from data.tables import Dialect

# Texts that programs mistake for something else.
TEXTS = ["plain words", 'a "quote"', '"all of it"', "it's", "a, b; c|d", "日本語", "😀 é e\u0301",
         "\u2028line", "next\x85line", "\x0bvertical\x1c", "NULL", "nan", "-1", "0", "{}", "<s>[MASK]</s>",
         "mark\ufeff", "  spaces  ", '""', "'", "\\t\\n", "#", "a\u200bb", "x" * 3000]  # fmt: skip
BROKEN_LINES = ["two\nlines", "tab\there", "three\r\n\nlines"]
LABELS = ["pos", "neg", "1", "0", "thé", "a b", 'x"y', "-1", "None", "true", "日本"]
# What may be wrong with the bytes of a file.
DAMAGES = (
    "cut",
    "flip",
    "insert",
    "utf-16",
    "utf-16-le",
    "latin-1",
    "nothing",
    "quote",
    "nul",
    "fields",
)


def table(draw, folder):
    """Writes train.*; returns (settings of load, the rows, number of rows without text or label)."""
    form = draw.choice(["tsv", "csv", "jsonl"])
    quoted = form != "tsv" or draw.random() < 0.3
    end = draw.choice(["\n", "\n", "\r\n", "\r"])
    labels = draw.sample(LABELS, draw.randint(2, 4))
    rows = [
        (f"{draw.choice(TEXTS)} {i}", label) for i, label in enumerate(labels * draw.randint(2, 9))
    ]
    if form == "jsonl" or (quoted and end != "\r"):
        rows = [
            (draw.choice(BROKEN_LINES) + text, y) if draw.random() < 0.1 else (text, y)
            for text, y in rows
        ]
    draw.shuffle(rows)
    absent = [draw.choice([("", rows[0][1]), ("x", ""), ("x", None), (None, " ")])
              for _ in range(draw.choice([0, 0, 0, 1, 3]))]  # fmt: skip
    written = rows + absent
    draw.shuffle(written)
    settings = {"missing": draw.choice(["drop", "error"])}
    if form == "jsonl":
        records = []
        for text, label in written:
            record = {"text": text, "label": label, "id": 1}
            if draw.random() < 0.3:
                record |= {"extra": [1, {"a": None}], "": 2}
            records.append(json.dumps(record, ensure_ascii=draw.random() < 0.5))
        content = end.join(records) + end
    else:
        delimiter = draw.choice("\t,;|") if quoted else "\t"
        header = ["text", "label", *draw.choice([[], [""], ["x", "x"]])]
        draw.shuffle(header)
        cells = [
            [{"text": t, "label": y}.get(name, "7") or "" for name in header] for t, y in written
        ]
        named = draw.random() < 0.7
        settings["dialect"] = Dialect(
            columns=() if named else tuple(header),
            delimiter=delimiter,
            quoting="minimal" if quoted else "none",
        )
        buffer = io.StringIO()
        if quoted:
            style = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
            if any(c in text for text, _ in rows for c in "\r\n"):
                style = csv.QUOTE_ALL
            writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=style)
            writer.writerows(([header] if named else []) + cells)
        else:
            buffer.write(
                end.join("\t".join(row) for row in ([header] if named else []) + cells) + end
            )
        content = buffer.getvalue()
    data = (b"\xef\xbb\xbf" if draw.random() < 0.2 else b"") + content.encode()
    return put(draw, folder, f"train.{form}", data), settings, rows, len(absent)


def put(draw, folder, name, data):
    """Writes a file, perhaps compressed, with or without the suffix."""
    compression = draw.choice(["", "", *COMPRESSIONS])
    path = folder / (name + (compression if draw.random() < 0.8 else ""))
    with open_compressed(path, compression, "wb") as stream:
        stream.write(data)
    return path


def damaged(draw, path, kind):
    """Damages a file in place; returns whether it changed."""
    data = path.read_bytes()
    place = draw.randrange(len(data))
    if kind == "cut":
        new = data[:place]
    elif kind == "flip":
        new = data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
    elif kind == "insert":
        new = data[:place] + draw.randbytes(draw.randint(1, 3)) + data[place:]
    elif kind in ("quote", "nul"):
        new = data[:place] + (b'"' if kind == "quote" else b"\0") + data[place:]
    elif kind == "fields":
        new = data.replace(b"\t", b"", 1)
    elif kind == "nothing":
        new = b""
    else:
        try:
            new = data.decode().encode(kind)
        except (UnicodeDecodeError, UnicodeEncodeError):
            return False
    path.write_bytes(new)
    return new != data


def one_line(error, path):
    """The message of an error names the file and says what to do."""
    message = str(error)
    message.encode()
    assert "\n" not in message and len(message.replace(str(path.parent), "")) <= 400, message
    assert path.name in message or "train has " in message, message
    assert re.search(r": (\S+ )*\S+|set task\.", message), message
    return message


def check_labels(seed, folder):
    draw = random.Random(seed)
    path, settings, rows, num_absent = table(draw, folder)
    kind = draw.choice(DAMAGES) if draw.random() < 0.5 else ""
    changed = bool(kind) and damaged(draw, path, kind)
    try:
        found = load(f"files:{folder}/*", **settings)
    except (ValueError, OSError) as error:
        message = one_line(error, path)
        assert changed or (
            num_absent and settings["missing"] == "error" and "has no value" in message
        ), message
        return
    read = Counter()
    for split in found.values():
        read.update(zip(split.text, split.label, strict=True))
    if not changed:
        assert not num_absent or settings["missing"] == "drop"
        assert read == Counter(rows)
    elif kind == "cut":  # of a plain file: the last row alone may differ
        assert path.name.count(".") == 1 and sum((read - Counter(rows)).values()) <= 1
    else:
        assert abs(read.total() - len(rows)) <= 1 + num_absent, (kind, read.total(), len(rows))


def check_text(seed, folder):
    draw = random.Random(seed)
    separator = draw.choice(["blank_line", "line", "file"])
    end = draw.choice(["\n", "\n", "\r\n", "\r"])
    documents = [f"{draw.choice(TEXTS)} {i}" for i in range(draw.randint(1, 40))]
    if separator == "blank_line":
        documents = [text + end + "more" if draw.random() < 0.3 else text for text in documents]
    content = (end * 2 if separator == "blank_line" else end).join(documents) + end * draw.randint(
        0, 2
    )
    path = put(draw, folder, "a.txt", content.encode())
    kind = draw.choice(DAMAGES) if draw.random() < 0.5 else ""
    changed = bool(kind) and damaged(draw, path, kind)
    try:
        source = sources.resolve(f"text:{folder}/*", separator, "text", "", lambda line: None)
        chunks = [chunk for file_range in source.ranges(0, draw.choice([7, 100, 10**6]))
                  for chunk in source.read(file_range)]  # fmt: skip
    except (ValueError, OSError) as error:
        assert changed, one_line(error, path)
        one_line(error, path)
        return
    text = "".join(chunk.text for chunk in chunks)
    if not changed:
        written = documents if separator != "file" else [content]
        found = [document.split() for document in _documents(chunks)]
        assert [words for words in found if words] == [document.split() for document in written]
    if path.name == "a.txt" and not path.read_bytes().startswith(tuple(COMPRESSIONS.values())):
        assert text.split() == path.read_bytes().decode("utf-8-sig").split()


def _documents(chunks):
    text = ""
    for chunk in chunks:
        text += chunk.text
        if chunk.is_last:
            yield text
            text = ""


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("check", [check_labels, check_text])
def test_any_file_gives_what_was_written_or_one_line(tmp_path, check, count):
    for seed in range(count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            check(seed, folder)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
