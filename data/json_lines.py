"""JSON lines as a corpus: each row of a file is a document, the text of one field.

Between the bytes of a file and the documents of data/sources.py. Each error names file and line.
"""

import json
import re

from data.files import line_at, utf8_error

_STRING = rb'"(?:[^"\\]|\\.)*"'
_ARRAY = re.compile(rb'\[\s*(\{\s*"|%b\s*(,|\]\s*\Z))' % _STRING)
# An object of several lines, such as a data set in one file.
_INDENTED = re.compile(rb"\{\s*\n\s*%b\s*:" % _STRING)
_NAME = re.compile(r".*\.(jsonl|ndjson)(\.\w+)?", re.IGNORECASE)


def has_name_of_json_lines(path: str) -> bool:
    """Whether the name of a file is one of JSON lines, plain or compressed."""
    return bool(_NAME.fullmatch(path))


def is_json(head: bytes, may_be_one: bool = False) -> bool:
    """Whether a file that starts with `head` holds JSON lines, an array, or an object of several lines
    (the last not if `may_be_one`: each file may be one JSON document)."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _ARRAY.match(head) or (_INDENTED.match(head) and not may_be_one):
        return True
    return all(map(_is_object, head.rstrip().split(b"\n", 2)[:2]))


def _is_object(line):
    line = line.strip()
    try:
        return line.startswith(b"{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def text_of_row(path: str, offset: int, line: bytes, field: str) -> str:
    """The text of `field` in one line, which starts at byte `offset`; '' for a blank line.

    Raises ValueError for a line that is not a JSON object, or without such a text.
    """

    def wrong(reason):
        return ValueError(f"{path} line {line_at(path, offset)} {reason}")

    try:
        text = line.decode().strip().lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise utf8_error(path, offset + error.start) from error
    if not text:
        return ""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(
            f"is not JSON ({error}): jsonl: reads one JSON object per line; use text: for plain text, and "
            "rewrite other JSON, for example with `jq -c '.[]'`"
        ) from error
    if not isinstance(row, dict):
        shown = f"a JSON {type(row).__name__}"
        raise wrong(
            f"is {shown}, expected an object: rewrite the file, for example with `jq -c '.[]'`"
        )
    if field not in row:
        keys = ", ".join(map(str, list(row)[:12])) or "no key"
        raise wrong(f"has no {field!r}, but {keys}: set data.text_field, or remove the row")
    found = row[field]
    if not isinstance(found, str):
        shown = json.dumps(found)[:40]
        raise wrong(
            f"has {field}={shown}, which is not a text: set data.text_field, or remove the row"
        )
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise wrong(
            f"has an unpaired surrogate (\\u{ord(found[error.start]):04x}) in {field!r}: write it as the "
            "character, or remove it"
        ) from error
    if "\0" in found:
        raise wrong(f"has a NUL character in {field!r}: remove it")
    return found
