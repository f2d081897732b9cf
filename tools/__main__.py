"""`python -m tools`: the programs around a run, each with the first line of its docstring.

Read from the files without importing them.
"""

import ast
import pathlib

FOLDER = pathlib.Path(__file__).parent


def programs():
    """{name: first line of its docstring} of the programs."""
    found = {}
    for file in sorted(FOLDER.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if not file.stem.startswith("_") and '__name__ == "__main__"' in text:
            found[file.stem] = ast.get_docstring(ast.parse(text)).splitlines()[0]
    return found


if __name__ == "__main__":
    print("Programs around a run; `python -m tools.NAME --help` has the flags of each.")
    for line in programs().values():
        print(f"  {line}")
