"""Command lines: a misspelled flag of any program names the one that it is near."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

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


PROGRAM = """
from training import logs

def prints(argv):
    print("x\\n" * 1_000_000)

def writes_rows(argv):
    from tools import output
    writer = output.Writer()
    for _ in range(100):
        writer.write([{"text": "x"}] * 1_000)

def logs_and_writes(argv):
    for _ in range(1_000):
        logs.log.info("x" * 1_000)
    open(argv[0], "w").close()
"""


@pytest.mark.parametrize(
    ("name", "resumes", "status"),
    [("prints", False, 141), ("writes_rows", False, 141), ("logs_and_writes", False, 141),
     ("logs_and_writes", True, 0)],
)  # fmt: skip
def test_output_that_nobody_reads_ends_a_program_silently_and_a_run_continues(
    tmp_path, name, resumes, status
):
    (tmp_path / "program.py").write_text(PROGRAM)
    call = f"cli.main(program.{name}, ['written'], resumes={resumes})"
    code = f"import program; from training import cli; {call}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert "x" in process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", status)
    assert (tmp_path / "written").exists() == (status == 0)
