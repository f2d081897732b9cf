"""Command lines: a misspelled flag of any program names the one that it is near."""

import importlib
import pathlib
import re

import pytest

from training import cli
from training.config import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def programs():
    """The modules with a command line: the entry files, and modules of tools/ and studies/."""
    files = [
        ROOT / "train.py",
        ROOT / "finetune.py",
        *ROOT.glob("tools/*.py"),
        *ROOT.glob("studies/*.py"),
    ]
    return sorted(
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if "cli.main(" in file.read_text()
    )


@pytest.mark.parametrize("name", programs())
def test_every_program_names_the_flag_that_a_misspelled_one_is_near(name):
    with pytest.raises(ConfigError, match=r"arguments: --debg; did you mean --debug\?"):
        importlib.import_module(name).main(["--debg"])


PARSER = cli.flags_parser(
    "Doc.", [("--config", {}), ("--max_len", {}), ("--run", {"required": True})]
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--confg.model.size=3"], "did you mean --config.model.size?"),
        (["--model.size=3"], "did you mean --config.model.size?"),
        (["--max-len=3", "--run=a"], "did you mean --max_len?"),
        (["-run=a"], "did you mean --run?"),
        (["run=a"], "did you mean --run?"),
        (["--size=3"], "fields of the config are --config.SECTION.KEY=VALUE"),
        (["--max_len=3"], "the following arguments are required: --run"),
    ],
)
def test_a_wrong_word_of_a_command_line_names_what_is_near(words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        PARSER.parse_args(words)
