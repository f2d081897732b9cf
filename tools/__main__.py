"""`python -m tools`: what programs there are around a run, each with the line that it opens with.

Read from the files, so that nothing is imported and no program is forgotten.
"""

import ast
import pathlib

FOLDER = pathlib.Path(__file__).parent


def programs():
    """{name: first line of its docstring} of the files that can be run."""
    found = {}
    for file in sorted(FOLDER.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if not file.stem.startswith("_") and '__name__ == "__main__"' in text:
            found[file.stem] = ast.get_docstring(ast.parse(text)).splitlines()[0]
    return found


if __name__ == "__main__":
    print(
        "Programs around a run; `python -m tools.NAME --help` says more, --debug shows where it erred."
    )
    for line in programs().values():
        print(f"  {line}")
