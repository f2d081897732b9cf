"""Before a launch starts anything: child processes check the config of its command and plan its memory."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from launch import tpus
from launch.job import config_flags
from training.cli import ROOT
from training.config import ConfigError

PROGRAMS = ("train.py", "finetune.py")


def check_config(words) -> None:
    """Raises ConfigError with the line of the program if it refuses the config of a command."""
    if pathlib.Path(words[1]).name in PROGRAMS:
        done = _python(words[1], *config_flags(words), "--print_config=given")
        if done.returncode:
            raise ConfigError(f"the command is refused: {_error(done)}")


def plan(words, topology: str) -> str:
    """A line about the memory of a run on a slice. Raises ConfigError if it does not fit."""
    name = topology.partition(":")[0]
    if pathlib.Path(words[1]).name != "train.py":
        return "no memory plan: tools.plan knows the step of train.py alone"
    if not topology or name == "cpu":
        return "no memory plan: --topology names no chips, such as h100:8"
    if name in tpus.KINDS and importlib.util.find_spec("libtpu") is None:
        return f"no memory plan of {topology}: libtpu is not installed here (pip install -e .[tpu])"
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "plan.json")
        flags = [f"--topology={topology}", f"--output={report}"]
        done = _python("-m", "tools.plan", *config_flags(words), *flags)
        if done.returncode:
            raise ConfigError(
                f"the memory plan refuses this launch (--no_plan skips it): {_error(done)}"
            )
        found = json.loads(report.read_text(encoding="utf-8"))
    peak, limit = found["peak_bytes"] / 2**30, found["chip"]["hbm_bytes"] / 2**30
    if not found["fits"]:
        raise ConfigError(
            f"the run needs {peak:.1f} GiB of the {limit:.1f} GiB of a chip of {topology} (--no_plan skips "
            f"this plan): lower training.batch_size, raise training.grad_accum_steps or mesh.fsdp"
        )
    return f"memory plan of {topology}: {peak:.1f} GiB of {limit:.1f} GiB per chip"


def _python(*words):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)


def _error(done) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return (lines or done.stderr.splitlines() or ["no message"])[-1].removeprefix("error: ")[:300]
