"""CoNLL and CoNLL-U files: a token and its annotation in columns per line, a blank line after a sentence.

Used by data/tables.py, which makes a table of it: a row is a sentence, a value the list of its column.
"""

import re
from collections import Counter

_CONLL_U = (".conllu", ".conllup")
FORMATS = (".conll", ".bio", ".iob", ".iob2", ".bioes", *_CONLL_U)
# https://universaldependencies.org/format.html
FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
# Names that every format understands.
TOKENS, TAGS = "tokens", "tags"
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*(.+)")
_KEY_AND_VALUE = re.compile(r"#\s*[\w.]+\s*=\s")
_DOCUMENT = "-DOCSTART-"


def read(
    path: str, content: str, names, columns: tuple = (), delimiter: str = ""
) -> tuple[list[str], dict[str, list[list[str]]], list[int]]:
    """The columns `names` of a file, those that it has.

    Args:
      path: its suffix decides between CoNLL and CoNLL-U.
      content: of the file.
      names: 'tokens' is the column `form` or the first one, 'tags' is `upos` or the last one; '1', '2', ...
        count columns from the first one, '-1', '-2', ... from the last.
      columns: names of the columns; (): those of CoNLL-U, numbers in CoNLL.
      delimiter: between the columns of CoNLL; '': a tab if every line has one, otherwise white space.

    Returns (names of all columns, {name: for each sentence the values of its words}, the first line of
    each sentence). Raises ValueError of one line that names the file and the line.
    """
    lines = [
        (number, line.removesuffix("\r")) for number, line in enumerate(content.split("\n"), 1)
    ]
    if path_is_conll_u(path):
        header, rows = _conll_u(path, lines, columns)
    else:
        header, rows = _conll(path, lines, columns, delimiter)
    places = _places(header, names)
    values, numbers, is_new = {name: [] for name in places}, [], True
    for number, fields in rows:
        if fields is None:
            is_new = True
            continue
        if is_new:
            numbers.append(number)
            for each in values.values():
                each.append([])
        is_new = False
        for name, place in places.items():
            values[name][-1].append(fields[place])
    if not numbers:
        raise ValueError(f"{path} is empty: expected a token and its tag per line")
    return header, values, numbers


def path_is_conll_u(path: str) -> bool:
    """Whether the name of a file, compressed or not, is one of CoNLL-U."""
    return any(re.search(rf"{re.escape(suffix)}(\.\w+)?$", path.lower()) for suffix in _CONLL_U)


def _places(header, names):
    """{name: index of its column} of the names that there are."""
    short = {TOKENS: "form" if "form" in header else header[0]}
    if len(header) > 1:
        short[TAGS] = "upos" if "upos" in header else header[-1]
    found = {}
    for name in names:
        if name in header or name in short:
            found[name] = header.index(name if name in header else short[name])
        elif re.fullmatch(r"-?[1-9]\d*", name) and abs(int(name)) <= len(header):
            found[name] = int(name) - (int(name) > 0)
    return found


def _conll(path, lines, columns, delimiter):
    """(names of the columns, [(line, fields; None between sentences)])."""
    marked = [(number, line, line.strip(" \t")) for number, line in lines]
    words = [line for _, line, text in marked if text and not text.startswith(("#", _DOCUMENT))]
    delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if not delimiter and words and all("\t" in line for line in words):
        delimiter = "\t"

    def split(line):
        if delimiter.strip(" "):
            return line.split(delimiter)
        return re.split("[ \t]+", line.strip(" \t"))

    found = [split(line) for line in words]
    size = Counter(map(len, found)).most_common(1)[0][0] if found else 1
    tags = {fields[-1] for fields in found}
    if columns and len(columns) != size:
        raise ValueError(
            f"{path} has {size} columns, but task.columns names {len(columns)}: name each of them"
        )
    rows, is_inside = [], False
    for number, line, text in marked:
        fields = split(line)
        # A word may begin with #, too.
        is_comment = not is_inside and (
            (line.startswith("#") and len(fields) != size)
            or (line.startswith("# ") and fields[-1] not in tags)
            or _KEY_AND_VALUE.match(line) is not None
        )
        if not text or text.startswith(_DOCUMENT):
            rows.append((number, None))
            is_inside = False
        elif not is_comment:
            if len(fields) != size:
                raise ValueError(
                    f"{path} has {len(fields)} columns at line {number}, {text[:40]!r}, but most lines "
                    f"have {size}: correct the line, or set task.delimiter"
                )
            rows.append((number, fields))
            is_inside = True
    return list(columns) or [str(number) for number in range(1, size + 1)], rows


def _conll_u(path, lines, columns):
    """As `_conll`, without the lines of multiword tokens (1-2) and of empty nodes (1.1)."""
    header, rows = list(columns or FIELDS), []
    for number, line in lines:
        if found := _GLOBAL_COLUMNS.match(line):
            header = [name.split(":")[-1].lower() for name in found[1].split()]
        if line.startswith("#"):
            continue
        if not line.strip():
            rows.append((number, None))
            continue
        fields = line.split("\t")
        if len(fields) != len(header):
            raise ValueError(
                f"{path} has {len(fields)} fields at line {number}, {line[:40]!r}, expected "
                f"{len(header)} with tabs between them ({', '.join(header[:4])}, ...): correct the line, "
                "or rename the file to .conll if it is no CoNLL-U"
            )
        word = fields[header.index("id")] if "id" in header else "1"
        if word.isdecimal():
            rows.append((number, fields))
        elif not re.fullmatch(r"\d+[-.]\d+", word):
            raise ValueError(
                f"{path} has the id {word[:20]!r} at line {number}, expected a number, as 3, 3-4 or 3.1: "
                "correct the line"
            )
    return header, rows
