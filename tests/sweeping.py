"""Helpers of the tests of sweeps: sweep files, and tools.sweep with a stand-in for both programs."""

import argparse
import json
import pathlib
import subprocess
import sys

from sweeps import session
from tools import sweep as program

ROOT = pathlib.Path(__file__).resolve().parents[1]
FAKE = str(pathlib.Path(__file__).parent / "fake_program.py")
FAKES = {name: [sys.executable, "-S", FAKE, name] for name in ("train.py", "finetune.py")}

PRETRAIN = 'train("configs/decoder.py", grid(lr=[1e-3, 2e-3], seed=range(2)))'
FINETUNE = (
    'finetune("configs/finetune/classification.py", grid(init=["random", "pretrained"], lr=[1e-3, 3e-3], '
    'seed=range(3)), init_from=train("configs/decoder.py"))'
)


def write(folder, stage=PRETRAIN, **arguments):
    """Writes a sweep file; returns its path."""
    file = pathlib.Path(folder) / "sweep.py"
    rest = "".join(f", {name}={value!r}" for name, value in arguments.items())
    file.write_text(f"from sweeps import *\ndef get_sweep():\n    return Sweep({stage}{rest})\n")
    return str(file)


def options(file, workdir, **flags):
    """The flags of tools.sweep."""
    parser = argparse.ArgumentParser()
    for flag, keywords in program.FLAGS:
        parser.add_argument(flag, **keywords)
    given = parser.parse_args([f"--config={file}", f"--workdir={workdir}"])
    for name, value in flags.items():
        setattr(given, name, value)
    return given


def run(file, workdir, cluster="slurm", **flags):
    """A sweep in this process, with fakes."""
    return session.run(options(file, workdir, **flags), FAKES, cluster)


def start(file, workdir, *flags, **keywords):
    """A sweep in a process of its own, with fakes."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(pathlib.Path(__file__).parent)!r}]\n"
        "import sweeping\nfrom training import cli\nfrom sweeps import session\n"
        "def main(argv):\n"
        "    given = cli.flags_parser('x', sweeping.program.FLAGS).parse_args(argv)\n"
        "    try:\n"
        "        session.run(given, sweeping.FAKES)\n"
        "    finally:\n"
        "        from jax._src import xla_bridge\n"
        "        print('backends in use:', len(xla_bridge._backends))\n"
        "cli.main(main)"
    )
    words = [sys.executable, "-c", code, f"--config={file}", f"--workdir={workdir}", *flags]
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **keywords
    )


def states(workdir):
    """{folder: state} of the manifest."""
    found = json.loads((pathlib.Path(workdir) / "sweep.json").read_text())
    return {record["folder"]: record["state"] for record in found["runs"]}


def updates(workdir):
    """{folder: [the step of each update that was made, in order]}."""
    return {
        file.parent.relative_to(workdir).as_posix(): [int(s) for s in file.read_text().split()]
        for file in pathlib.Path(workdir).rglob("updates.txt")
    }
