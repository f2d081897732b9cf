"""What every target renders from: the command of a run, its name and environment, and lines of its script."""

import dataclasses
import pathlib
import re
import shlex
import sys

from launch.checkout import Code
from training.cli import ROOT
from training.config import ConfigError

# The environment that a process prints at its start; no other variable, which may be a key.
PRINTED = (
    "CUDA_VISIBLE_DEVICES|JAX_|LIBTPU_|NCCL_|SLURM_(JOB_ID|PROCID|NTASKS|STEP_NODELIST)|TPU_|TRIPTYCH_|"
    "XLA_"
)


@dataclasses.dataclass(frozen=True)
class Job:
    """A launch.

    Attributes:
      name: of the job; lower case, digits and dashes, as Kubernetes demands.
      commands: the words of the command; several are the tasks of a Slurm array.
      folder: where the rendered files and the logs go.
      code: what it runs.
      environment: {variable: value} for every process.
      directory: where the command was given; its relative paths begin there.
      python: folder of the interpreter on this machine.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    folder: pathlib.Path
    code: Code
    environment: dict[str, str]
    directory: pathlib.Path = dataclasses.field(default_factory=pathlib.Path.cwd)
    python: pathlib.Path = pathlib.Path(sys.executable).parent

    @property
    def command(self) -> tuple[str, ...]:
        return self.commands[0]

    def joined(self, processes: int) -> "Job":
        """The job with the variable by which JAX joins the processes of a cluster that it detects."""
        if processes == 1:
            return self
        environment = {"TRIPTYCH_DISTRIBUTED": "1"} | self.environment
        return dataclasses.replace(self, environment=environment)

    def script_here(self) -> str:
        """The script of a process on this machine or its shared disk: the command of the task
        $SLURM_ARRAY_TASK_ID if there are several."""
        lines = [
            f'export PATH={shlex.quote(str(self.python))}:"$PATH"',
            # The code of the checkout, and not of the current directory, whatever the program.
            f"export PYTHONPATH={shlex.quote(str(self.code.folder(self.folder)))} PYTHONSAFEPATH=1",
            f"cd {shlex.quote(str(self.directory))}",
            *self.exports(),
        ]
        if self.prepare():
            given = shlex.join(self.prepare(placed=True))
            lines += ['if [ "${1:-}" = prepare ]; then', f"  exec {given}", "fi"]
        placed = [shlex.join(self.placed(words)) for words in self.commands]
        if len(placed) == 1:
            lines += [*self.report(shlex.quote(shlex.join(self.command))), f"exec {placed[0]}"]
        else:
            cases = [f"{number}) set -- {text} ;;" for number, text in enumerate(placed)]
            lines += ['case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac"]
            lines += [*self.report('"$*"'), 'exec "$@"']
        return script(f"{self.name}: one process of the run", lines)

    def script_there(self, install: list[str], base: str = '"$HOME"') -> list[str]:
        """The lines of a process on another machine, which clones and installs first.

        Args:
          install: lines that install into the Python that `python` is from there on.
          base: a folder, as a word of the shell.
        """
        return [
            f"mkdir -p {base}/{self.name} && cd {base}/{self.name}",
            *self.code.lines("code"),
            "cd code",
            *install,
            *self.exports(),
            *self.report(shlex.quote(shlex.join(self.command))),
            *([shlex.join(self.prepare())] if self.prepare() else []),
            f"exec {shlex.join(self.command)}",
        ]

    def exports(self) -> list[str]:
        return [f"export {name}={shlex.quote(v)}" for name, v in self.environment.items()]

    def report(self, command: str) -> list[str]:
        """Lines that print the command (a word of the shell), the environment and the XLA flags."""
        return [
            f'echo "== $(date -u +%FT%TZ) {self.name} on $(uname -n): commit {self.code.name}"',
            "python --version",
            f"env | grep -E '^({PRINTED})' | LC_ALL=C sort || true",
            f"printf '== %s\\n' {command}",
        ]

    def prepare(self, placed: bool = False) -> list[str]:
        """The words that make the token stores of a run of train.py, which several processes refuse to make;
        [] for another program."""
        words = self.placed(self.command) if placed else self.command
        if len(self.commands) > 1 or pathlib.Path(words[1]).name != "train.py":
            return []
        return ["python", "-m", "tools.prepare", *config_flags(words)]

    def placed(self, words) -> list[str]:
        """The words with the program and the config file of the checkout of the launch."""

        def of_checkout(path):
            file = pathlib.Path(self.directory, path).resolve()
            if not file.is_relative_to(ROOT) or file.is_relative_to(ROOT / "runs"):
                return path
            return str(self.code.folder(self.folder) / file.relative_to(ROOT))

        placed = []
        for word in words:
            name, equals, value = word.partition("=")
            if word.endswith(".py") and not word.startswith("-"):
                word = of_checkout(word)
            elif name == "--config" and equals:
                path, colon, arg = value.partition(":")
                word = f"--config={of_checkout(path)}{colon}{arg}"
            placed.append(word)
        return placed


@dataclasses.dataclass(frozen=True)
class Rendering:
    """The files and commands that a target renders for a job.

    Attributes:
      files: {name: text}, written to the folder of the launch.
      actions: {'submit', 'status', 'logs', 'cancel', ...: commands, each a list of words; '{job}' is the job
        that submit printed}.
      topology: slice for the memory plan; '' if it is not known.
    """

    files: dict[str, str]
    actions: dict[str, list[list[str]]]
    topology: str = ""

    def commands_script(self, name: str) -> str:
        """commands.sh: the actions, for a machine without this package."""
        lines = ['case "${1:-}" in']
        for action, commands in self.actions.items():
            lines.append(f"{action})")
            for words in commands:
                text = " ".join('"$2"' if word == "{job}" else shlex.quote(word) for word in words)
                lines.append(f"  {text}")
            lines.append("  ;;")
        usage = f"usage: bash commands.sh {'|'.join(self.actions)}"
        usage += " [JOB]" * ("{job}" in str(self.actions))
        lines += ["*)", f"  echo {shlex.quote(usage)} >&2", "  exit 2", "  ;;", "esac"]
        return script(f"{name}: bash commands.sh ACTION", lines)


def script(title: str, lines, header=()) -> str:
    """A Bash script that ends at the first error in `lines`."""
    head = [
        "#!/bin/bash",
        f"# {title}. Written by `python -m launch`.",
        *header,
        "set -euo pipefail",
    ]
    return "\n".join([*head, *lines]) + "\n"


def check_command(words) -> tuple[str, ...]:
    """The words of a command. Raises ConfigError if it is no command of this project."""
    words = tuple(words)
    if not words:
        raise ConfigError(
            "the command is missing; expected it after --, such as -- python train.py --config=FILE "
            "--workdir=DIR"
        )
    if pathlib.Path(words[0]).name not in ("python", "python3") or len(words) < 2:
        raise ConfigError(
            f"the command begins with {words[0]!r}; expected python, such as python train.py --config=FILE "
            f"--workdir=DIR"
        )
    workdir_of(words)
    return ("python", *words[1:])


def check_ends(words) -> None:
    """Raises ConfigError for training.stop_after: a cluster would start the run again without end."""
    flag = "--config.training.stop_after="
    for word in words:
        if word.startswith(flag) and word != f"{flag}never":
            raise ConfigError(
                f"{word}: the run would stop with status 143, as before a time limit, and the cluster would "
                f"start it again and again; leave it out, or shorten training.duration"
            )


def config_flags(words) -> list[str]:
    """The words of a command that choose its config."""
    return [word for word in words[2:] if word.startswith("--config")]


def workdir_of(words) -> str:
    """The --workdir of a command. Raises ConfigError if it has none."""
    for number, word in enumerate(words):
        if word.startswith("--workdir="):
            return word.partition("=")[2]
        if word == "--workdir" and number + 1 < len(words):
            return words[number + 1]
    raise ConfigError(f"{shlex.join(words)[:160]} has no --workdir; add --workdir=DIR")


def name_of(text: str) -> str:
    """A name that all targets take, from the last part of a workdir."""
    name = re.sub("[^a-z0-9]+", "-", text.rstrip("/").rpartition("/")[2].lower()).strip("-")
    return name[:40].rstrip("-") or "run"


def check_name(name: str) -> str:
    """Raises ConfigError for a name that Kubernetes or Google Cloud would refuse."""
    if not re.fullmatch("[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise ConfigError(
            f"--name={name!r}: expected at most 40 lower-case letters, digits and dashes, the first a letter"
        )
    return name


def environment_of(assignments) -> dict[str, str]:
    """{variable: value} of the values of --env. Raises ConfigError for one that is no assignment."""
    found = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"--env={text!r}: expected NAME=VALUE")
        found[name] = value
    return found


def require_bucket(workdir: str, why: str, remedy: str = "") -> None:
    """Raises ConfigError unless a workdir is on gs://."""
    if not workdir.startswith("gs://"):
        raise ConfigError(f"--workdir={workdir!r}: {why}; set --workdir=gs://BUCKET/RUN{remedy}")
