"""JSON lines as a corpus: each row of a file is a document, the text of one field.

Between the bytes of a file and the documents of data/sources.py. Each error names file and line.
"""

import json
import re

from data.files import line_at, utf8_error

_ARRAY = re.compile(rb'\[\s*\{\s*"')
_NAME = re.compile(r".*\.(jsonl|ndjson)(\.\w+)?", re.IGNORECASE)


def has_name_of_json_lines(path: str) -> bool:
    """Whether the name of a file is one of JSON lines, plain or compressed."""
    return bool(_NAME.fullmatch(path))


def is_json(lines: list[bytes]) -> bool:
    """Whether the first lines of a file are JSON lines, or an array of objects."""
    lines = [line.removeprefix(b"\xef\xbb\xbf").strip() for line in lines]
    return bool(_ARRAY.match(b"".join(lines))) or all(map(_is_object, lines or [b""]))


def _is_object(line):
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
        text = line.decode("utf-8-sig" if not offset else "utf-8").strip()
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
    return found
