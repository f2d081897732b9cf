"""`python -m tools.cube`: writes docs/cube.md, every objective on every architecture.

Made of the registry, the shipped configs and the reasons that objectives give: nothing is listed here.
"""

import functools
import pathlib

import objectives
import train
from training import cli
from training import config as configs
from training.config import ConfigError

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cube.md"
HEAD = """\
# The cube: objectives × architectures

Every cell is what stands behind `python train.py --workdir=RUN --config=`, or the reason why there is
none. {number} cells work. `make test-all` trains each of them and sees its loss fall below the entropy of
its own targets (`test_a_cell_learns_more_than_how_often_its_targets_occur`). What an objective asks is
in [objectives.md](objectives.md).

This page is generated: `python -m tools.cube`.
"""


def architectures():
    """Those that the registry knows, in its order."""
    return tuple(objectives.pairs_by_architecture())


def command(name, architecture):
    """The shortest `configs/FILE.py[:objective=NAME]` that gives this cell, '' if none does."""
    found = []
    for file in sorted((ROOT / "configs").glob("*.py")):
        if file.stem in ("__init__", "base"):
            continue
        path = file.relative_to(ROOT).as_posix()
        if _cell(str(file)) == (name, architecture):
            found.append(path)
        elif _cell(str(file))[1] == architecture:
            if _cell(f"{file}:objective={name}") == (name, architecture):
                found.append(f"{path}:objective={name}")
    return min(found, key=len, default="")


@functools.cache
def _cell(specification):
    """(objective, architecture) of a config file with its argument, ('', '') if it takes none such."""
    try:
        config = configs.resolve(train.Config, configs.load_file(specification))
    except ConfigError:
        return "", ""
    return config.objective.name, config.model.architecture


def cells():
    """{(objective, architecture): (works, config specification or reason)}."""
    found = {}
    for name in objectives.REGISTRY:
        objective = objectives.build(name)  # with its defaults: a mixture fits what its members fit
        for architecture in architectures():
            works = architecture in objective.architectures
            words = objectives.reason(objective, architecture)
            words = command(name, architecture) if works else words
            found[name, architecture] = works, words
    return found


def page():
    """The text of docs/cube.md."""
    table = cells()
    lines = [
        HEAD.format(number=sum(works for works, _ in table.values())),
        "| | " + " | ".join(name.replace("_", "-") for name in architectures()) + " |",
        "|---" * (1 + len(architectures())) + "|",
    ]
    for name in objectives.REGISTRY:
        row = [table[name, architecture] for architecture in architectures()]
        shown = [f"`{words}`" if works else f"*{words}*" for works, words in row]
        lines.append(f"| `{name}` | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main(argv):
    """Writes the page."""
    parser = cli.Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="traceback instead of one line")
    parser.parse_args(argv)
    text = page()
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(objectives.REGISTRY)} objectives, {len(architectures())} "
          f"architectures")  # fmt: skip


if __name__ == "__main__":
    cli.main(main)
