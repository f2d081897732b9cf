"""Every command in README, docs/ and the docstrings of config files parses, and its config loads.

Placeholders (FILE, NAME, RUN) get a value, and `...` is read as the flags of the command above it.
"""

import argparse
import ast
import importlib
import pathlib
import re
import shlex
import sys

import pytest

from training import cli
from training import config as config_lib
from training.schema import FinetuneConfig, PretrainConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HISTORY = "log.md"  # some of its commands are those of earlier editions
PROGRAM = re.compile(
    r"python (train\.py|finetune\.py|-m (?:tools|launch|studies|benchmarks)(?:\.\w+)?)(?= |$)(.*)"
)
SCHEMAS = {"train.py": PretrainConfig, "finetune.py": FinetuneConfig}
ANY_CONFIG = {
    "train.py": "configs/encoder.py", "finetune.py": "configs/finetune/classification.py",
    "-m tools.sweep": "configs/sweeps/learning_rate.py",
}  # fmt: skip


PLACEHOLDERS = (
    (r"\[--flags\] ?", ""), (r"\[(--[^\]]+)\]", r"\1"), (r"\bTARGET\b", "local"),
    ("objective=NAME", "objective=causal_lm"), (r"\bFLOAT\b", "1e-3"),
)  # fmt: skip


class Parsed(Exception):
    """The flags of a program were accepted."""


def code_lines(text):
    """Yields the lines of code of a page or docstring, indented or fenced, with continuation lines joined."""
    fenced, held = False, ""
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            held += line.strip()
            if held.endswith("\\"):
                held = held[:-1] + " "
                continue
            yield held
            held = ""


def commands(text):
    """Yields (program, words) of the commands in a text."""
    program, base = None, []
    for line in code_lines(text):
        found = PROGRAM.search(line)
        if found:
            program, rest = found.groups()
            base = words = split(rest)
        elif line.startswith("... --") and program:
            words = [*base, *split(line[4:])]
        else:
            continue
        is_whole = program in SCHEMAS or " ..." not in line
        if words and is_whole:  # not `python train.py ...`
            yield program, words


def split(text):
    """The words of a command: the first of alternatives, with optional flags, without remarks."""
    text = re.split(r"\s#\s|\s>\s|\s{4,}(?![\s\[-])", text)[0]
    text = re.sub(r" \| \S+", "", re.sub(r"=(\w+)(\|\w+)+", r"=\1", text))
    for pattern, value in PLACEHOLDERS:
        text = re.sub(pattern, value, text)
    return [word for word in shlex.split(text.rstrip("\\ ")) if word != "..."]


def texts():
    """{name: text} of the pages and of the docstrings of config files."""
    found = {page.name: page.read_text(encoding="utf-8") for page in PAGES if page.name != HISTORY}
    for file in sorted((ROOT / "configs").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.relative_to(ROOT).as_posix()] = docstring
    return found


def check(program, words, monkeypatch):
    """Raises what the program says about its flags, and about its config."""
    if "--" in words:  # the command that launch starts
        end = words.index("--")
        check(words[end + 2], words[end + 3 :], monkeypatch)
        words = words[:end]
    some = f"--config={ANY_CONFIG.get(program)}"
    words = [re.sub(r"^--config=(FILE|NAME)\b", some, word) for word in words]
    if program in SCHEMAS:
        _, config = cli.parse_args(words, "a run", cli.ENTRY_FLAGS)
        config_lib.resolve(SCHEMAS[program], config)
        return
    for word in words:
        if word.startswith("--config="):
            function = "get_sweep" if program == "-m tools.sweep" else "get_config"
            config_lib.load_config_file(word.removeprefix("--config="), function)
    name = program.removeprefix("-m ")
    is_package = (ROOT / name.replace(".", "/")).is_dir()
    module = importlib.import_module(f"{name}.__main__" if is_package else name)
    if is_package and words[0] in module.ACTIONS:  # of a folder that exists
        assert len(words) == 2
        return
    parse_args = argparse.ArgumentParser.parse_args

    def parse(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(Parsed):
        module.main(words) if module.main.__code__.co_argcount else module.main()
    monkeypatch.undo()


@pytest.mark.parametrize("name", [name for name, text in texts().items() if any(commands(text))])
def test_every_command_parses_and_its_config_loads(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for program, words in commands(texts()[name]):
        try:
            check(program, words, monkeypatch)
        except (Exception, SystemExit) as error:
            raise AssertionError(
                f"{name}: python {program} {shlex.join(words)}: {error}"
            ) from error


def test_a_wrong_flag_and_a_wrong_field_are_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = """
    python -m tools.predict --run=RUN --txt=a
    python train.py --config=FILE --workdir=DIR --config.optimizer.learning_rat=1e-3
    python train.py --config=configs/none.py --workdir=DIR
    """
    for (program, words), message in zip(
        commands(page), ("--text", "optimizer.learning_rate", "does not exist"), strict=True
    ):
        with pytest.raises(config_lib.ConfigError, match=message):
            check(program, words, monkeypatch)
        monkeypatch.undo()
        monkeypatch.chdir(ROOT)
