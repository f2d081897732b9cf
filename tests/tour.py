"""docs/tour.md as cells, and as the notebook docs/tour.ipynb: `python tests/tour.py` writes it."""

import json
import pathlib
import re
from typing import NamedTuple

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
PAGE, NOTEBOOK = DOCS / "tour.md", DOCS / "tour.ipynb"
_PICTURE = re.compile(r"!\[(.*)\]\((tour/.*)\)\n<!-- (.*) -->")


class Cell(NamedTuple):
    """A paragraph, the commands of an indented block, or a picture."""

    kind: str  # 'text', 'commands', 'picture'
    text: str  # of a picture: the file that a command wrote
    copy: str = ""  # of a picture: the file in docs/


def cells(page: str) -> list[Cell]:
    """The cells of a page. Output shown in fenced blocks is left out: a notebook makes its own."""
    found = []
    for block in re.sub(r"```.*?```\n", "", page, flags=re.DOTALL).strip().split("\n\n"):
        block = block.strip("\n")
        if not block:
            continue
        if block.startswith("    "):
            found.append(Cell("commands", re.sub(r"^    ", "", block, flags=re.MULTILINE)))
        elif picture := _PICTURE.fullmatch(block):
            found.append(Cell("picture", picture[3], picture[2]))
        elif found and found[-1].kind == "text":
            found[-1] = Cell("text", f"{found[-1].text}\n\n{block}")
        else:
            found.append(Cell("text", block))
    return found


def commands(cell: Cell) -> list[str]:
    """The shell commands of a cell, continuation lines joined."""
    return re.sub(r"\s*\\\n\s*", " ", cell.text).splitlines()


def notebook(page: str) -> str:
    """The page as a Jupyter notebook (nbformat 4.5), as JSON."""
    found = [_code("%cd ..")]
    for cell in cells(page):
        if cell.kind == "text":
            found.append({"cell_type": "markdown", "metadata": {}, "source": cell.text})
        elif cell.kind == "commands":
            found.append(_code("\n".join(f"!{command}" for command in commands(cell))))
        else:
            found.append(_code(f"from IPython.display import Image\n\nImage({cell.text!r})"))
    for number, cell in enumerate(found):
        cell["id"] = f"cell-{number}"
        cell["source"] = cell["source"].splitlines(keepends=True)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": found,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _code(source):
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source,
    }


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
