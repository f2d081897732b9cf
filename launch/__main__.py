"""`python -m launch TARGET [--flags] -- python train.py --config=FILE --workdir=DIR`: renders, and submits.

The folder of a launch has the script or YAML of the target, commands.sh with the actions, and launch.json.
"""

import datetime
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

from launch import checkout, checks, gke, job, local, skypilot, slurm, tpu_vm
from training import cli
from training.config import ConfigError

TARGETS = {"local": local, "slurm": slurm, "tpu_vm": tpu_vm, "gke": gke, "skypilot": skypilot}
ACTIONS = ("submit", "run", "status", "logs", "cancel", "delete")
FLAGS = (
    ("--submit", {"action": "store_true", "help": "also start it, where the tool is installed"}),
    ("--name", {"default": "", "help": "'': the last part of the workdir"}),
    ("--output", {"default": "", "help": "folder of the launch; '': runs/launches/TARGET-NAME"}),
    ("--topology", {"default": "", "help": "chips for the memory plan and of TPU targets: v5e:4x4, h100:8"}),
    ("--env", {"action": "append", "default": [], "metavar": "NAME=VALUE",
               "help": "variable of every process, such as XLA_FLAGS=...; repeatable"}),
    ("--ship_diff", {"action": "store_true", "help": "run the changes of the working tree too, as a diff"}),
    ("--no_plan", {"action": "store_true", "help": "skip the checks of the config and the memory"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
ARRAYS = (
    ("--commands", {"default": "", "metavar": "FILE",
                    "help": "an array of runs: a command per line, instead of one after --"}),
)  # fmt: skip
HELP = """\
python -m launch TARGET [--flags] -- python train.py --config=FILE --workdir=DIR
python -m launch ACTION DIR

targets: local       N processes on this machine
         slurm       an sbatch script; --commands=FILE: an array
         tpu_vm      a queued resource of Cloud TPU VMs
         gke         a JobSet of a TPU slice
         skypilot    a task
actions: submit, run (tpu_vm: the run again on all workers), status, logs, cancel, delete (tpu_vm)

python -m launch TARGET --help lists the flags; docs/launching.md has an example of each."""


def main(argv):
    """Renders a launch, or acts on one."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return
    if argv[0] in ACTIONS:
        words = [word for word in argv[1:] if word != "--debug"]
        if len(words) != 1 or words[0].startswith("-"):
            raise ConfigError(f"expected python -m launch {argv[0]} DIR, the folder of a launch")
        act(argv[0], pathlib.Path(words[0]))
        return
    if argv[0] not in TARGETS:
        raise ConfigError(
            f"{argv[0]!r} is no target ({', '.join(TARGETS)}) and no action ({', '.join(ACTIONS)}); "
            f"see --help"
        )
    target = TARGETS[argv[0]]
    end = argv.index("--") if "--" in argv else len(argv)
    flags = (*target.FLAGS, *FLAGS, *(ARRAYS if target.takes_arrays else ()))
    parser = cli.flags_parser(target.__doc__, flags)
    parser.prog, parser.usage = f"python -m launch {argv[0]}", "%(prog)s [--flags] -- COMMAND"
    given = parser.parse_args(argv[1:end])
    launch = made(argv[0], given, argv[end + 1 :])
    rendering = target.render(launch, given)
    lines = []
    if not given.no_plan:
        for words in launch.commands:
            checks.check_config(words)
        lines.append(checks.plan(launch.command, rendering.topology or given.topology))
    write(argv[0], launch, rendering, lines)
    for line in lines:
        print(line)
    print(f"{launch.folder}: {', '.join(sorted(rendering.files))}, commands.sh, launch.json")
    if given.submit:
        act("submit", launch.folder)
    else:
        print(f"start it with: python -m launch submit {shlex.quote(str(launch.folder))}")


def made(target: str, given, words) -> job.Job:
    """The Job of a command line."""
    commands = [job.check_command(words)] if words or not getattr(given, "commands", "") else []
    if getattr(given, "commands", ""):
        if words:
            raise ConfigError("--commands and a command after -- are both given; leave one out")
        commands = read_commands(pathlib.Path(given.commands))
    if target != "local":
        for words in commands:
            job.check_ends(words)
    for flag in TARGETS[target].requires:
        if not getattr(given, flag):
            raise ConfigError(f"--{flag} is missing; the target {target} needs it (--help)")
    name = job.check_name(given.name) if given.name else job.name_of(job.workdir_of(commands[0]))
    code = checkout.read(cli.ROOT, given.ship_diff)
    if TARGETS[target].is_remote:
        code = checkout.published(code, cli.ROOT, given.repository)
    folder = pathlib.Path(given.output or f"runs/launches/{target}-{name}").absolute()
    return job.Job(name, tuple(commands), folder, code, job.environment_of(given.env))


def read_commands(file: pathlib.Path) -> list:
    """The commands of --commands. Raises ConfigError that names the line."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--commands={file}: {error.strerror}; expected a file with a command per line"
        ) from error
    found, workdirs = [], {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = job.check_command(shlex.split(line))
        except ValueError as error:
            raise ConfigError(f"{file}:{number}: {error}") from error
        workdir = job.workdir_of(words)
        if workdir in workdirs:
            raise ConfigError(
                f"{file}:{number}: --workdir={workdir!r} is that of line {workdirs[workdir]} too; a run "
                f"needs its own"
            )
        workdirs[workdir] = number
        found.append(words)
    if not found:
        raise ConfigError(f"--commands={file} has no command")
    return found


def write(target: str, launch: job.Job, rendering: job.Rendering, lines) -> None:
    """Writes the folder of a launch, and its checkout if it runs here or on a shared disk."""
    folder = launch.folder
    before = read(folder) if (folder / "launch.json").exists() else {}
    if not before and folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"--output={folder} is not empty and holds no launch; choose another folder"
        )
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    if not TARGETS[target].is_remote:
        launch.code.check_out(cli.ROOT, folder)
    files = {**rendering.files, "commands.sh": rendering.commands_script(launch.name)}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    if launch.code.diff:
        (folder / "ship.diff").write_bytes(launch.code.diff)
    record = {
        "name": launch.name,
        "target": target,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commands": [list(words) for words in launch.commands],
        **launch.code.record(),
        "environment": launch.environment,
        "checks": lines,
        "files": sorted(files),
        "actions": rendering.actions,
        "job": before.get("job", ""),
    }
    save(folder, record)


def save(folder, record):
    (folder / "launch.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read(folder: pathlib.Path) -> dict:
    """launch.json of a launch. Raises ConfigError if it is none."""
    try:
        return json.loads((folder / "launch.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} is not the folder of a launch (launch.json: {error}); expected one that "
            f"python -m launch TARGET wrote"
        ) from error


def act(action: str, folder: pathlib.Path) -> None:
    """Runs the commands of an action; the last one replaces this program."""
    record = read(folder)
    if action not in record["actions"]:
        raise ConfigError(
            f"{folder} is a launch of {record['target']}, which has no {action}; it has "
            f"{', '.join(record['actions'])}"
        )
    commands = record["actions"][action]
    is_job = action == "submit" and "{job}" in str(record["actions"])
    for number, words in enumerate(commands, 1):
        if "{job}" in words and not record["job"]:
            raise ConfigError(f"{folder} was not submitted yet: python -m launch submit {folder}")
        words = [word.replace("{job}", record["job"]) for word in words]
        if shutil.which(words[0]) is None:
            raise ConfigError(
                f"{words[0]} is not installed on this machine: copy {folder} to one that has it, and run "
                f"there: bash commands.sh {action}"
            )
        if number == len(commands) and not is_job:  # signals of the terminal are its own
            sys.stdout.flush()
            os.execvp(words[0], words)
        done = subprocess.run(words, stdout=subprocess.PIPE if is_job else None, text=True)
        if done.returncode:
            raise ConfigError(f"{shlex.join(words)[:200]} ended with status {done.returncode}")
        if is_job:
            record["job"] = done.stdout.strip().partition(";")[0]
            save(folder, record)
            print(f"submitted job {record['job']}")


if __name__ == "__main__":
    cli.main(main)
