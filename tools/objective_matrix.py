"""`python -m tools.objective_matrix`: writes docs/objective_matrix.md, objectives × architectures.

Generated from the registry, the shipped configs and the reasons that objectives give.
"""

from training import cli


def main(argv):
    """Writes the page."""
    parser = cli.Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="print a traceback for an error")
    parser.parse_args(argv)
    from tools import objective_matrix

    objective_matrix.PAGE.write_text(objective_matrix.page(), encoding="utf-8")
    print(f"wrote {objective_matrix.PAGE}")


if __name__ == "__main__":
    cli.main(main)

import functools
import pathlib

import objectives
from training import config as config_lib
from training.config import ConfigError
from training.schema import PretrainConfig

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "objective_matrix.md"
HEAD = """\
# Objectives × architectures

Each cell is the config for `python train.py --workdir=RUN --config=`, or the reason why the pair does not
exist. {number} pairs exist. `make test-all` trains each of them until its loss is below the unigram entropy
of its targets (`test_a_cell_learns_more_than_the_frequencies_of_its_targets`). [objectives.md](objectives.md)
explains the objectives.

This page is generated: `python -m tools.objective_matrix`.
"""


def architectures():
    """The architectures of the registry, in its order."""
    return tuple(objectives.names_by_architecture())


def config_for(name, architecture):
    """The shortest `configs/FILE.py[:objective=NAME]` for a pair, '' if there is none."""
    found = []
    for file in sorted((ROOT / "configs").glob("*.py")):
        if file.stem in ("__init__", "base"):
            continue
        path = file.relative_to(ROOT).as_posix()
        if _pair(str(file)) == (name, architecture):
            found.append(path)
        elif _pair(str(file))[1] == architecture:
            if _pair(f"{file}:objective={name}") == (name, architecture):
                found.append(f"{path}:objective={name}")
    return min(found, key=len, default="")


@functools.cache
def _pair(specification):
    """(objective, architecture) of FILE[:ARG], ('', '') if the file does not accept the argument."""
    try:
        config = config_lib.resolve(PretrainConfig, config_lib.load_config_file(specification))
    except ConfigError:
        return "", ""
    return config.objective.name, config.model.architecture


def cells():
    """{(objective, architecture): (whether the pair exists, config or reason)}."""
    found = {}
    for name in objectives.OBJECTIVES:
        objective = objectives.build(name)
        for architecture in architectures():
            exists = architecture in objective.architectures
            reason = objectives.why_unsupported(objective, architecture)
            text = config_for(name, architecture) if exists else reason
            found[name, architecture] = exists, text
    return found


def page():
    """The text of docs/objective_matrix.md."""
    found = cells()
    lines = [
        HEAD.format(number=sum(exists for exists, _ in found.values())),
        "| | " + " | ".join(name.replace("_", "-") for name in architectures()) + " |",
        "|---" * (1 + len(architectures())) + "|",
    ]
    for name in objectives.OBJECTIVES:
        row = [found[name, architecture] for architecture in architectures()]
        shown = [f"`{text}`" if exists else f"*{text}*" for exists, text in row]
        lines.append(f"| `{name}` | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"
