"""python -m launch local: real processes of a tiny run, their logs, the end of one, SIGTERM and resuming."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from launches import (
    ENVIRONMENT,
    IS_CHECKOUT,
    NO_CHECKOUT,
    ONE_DEVICE,
    ROOT,
    call,
    command,
    launch,
    losses,
)

slow = pytest.mark.slow
pytestmark = pytest.mark.skipif(not IS_CHECKOUT, reason=NO_CHECKOUT)


def render(folder, name, words, processes=2):
    """The folder of a launch of the tree as it is."""
    output = folder / f"launch-{name}"
    done = call("local", f"--processes={processes}", f"--output={output}", "--ship_diff", "--no_plan",
                f"--env={ONE_DEVICE}", "--", *words)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output


def wait_for(path, text, process):
    until = time.monotonic() + 200
    while not (path.exists() and text in path.read_text(errors="replace")):
        assert process.poll() is None and time.monotonic() < until, path.read_text()
        time.sleep(0.2)


@slow
def test_two_processes_are_one_run_and_a_stopped_launch_resumes(tmp_path):
    steps = {"training__duration": "300 steps", "checkpoint__every": "100 steps"}
    alone = render(tmp_path, "alone", command(tmp_path, "alone", **steps), processes=1)
    done = call("submit", alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished (process 0: status 0)" in call("status", alone).stdout

    pair = render(tmp_path, "pair", command(tmp_path, "pair", **steps))
    log = pair / "logs/process1.log"
    with subprocess.Popen(launch("submit", pair), cwd=ROOT, env=ENVIRONMENT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        wait_for(pair / "logs/process0.log", "\nstep ", process)
        assert "running (process 0: pid" in call("status", pair).stdout
        assert "runs already" in call("submit", pair).stderr
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 143, output
    assert "stopped by a signal at step" in output
    assert f"JAX_PROCESS_ID=1\n{ONE_DEVICE}" in "\n".join(
        line for line in log.read_text().splitlines() if line.startswith(("JAX_PROC", "XLA_FLAGS"))
    )
    assert "stopped; submit it again" in call("status", pair).stdout
    done = call("submit", pair)
    assert done.returncode == 0 and "resumed from checkpoint" in done.stdout, done.stdout
    np.testing.assert_allclose(losses(tmp_path / "pair"), losses(tmp_path / "alone"), rtol=1e-4)
    assert len(losses(tmp_path / "pair")) == 300
    run = json.loads((tmp_path / "pair/manifest.json").read_text())
    record = json.loads((pair / "launch.json").read_text())
    assert run["commit"] == record["commit"]
    assert bool(run["uncommitted"]) == bool(record["diff"])


# Process 1 dies when the others are ready for SIGTERM.
DIES = """\
import os, pathlib, signal, sys, time
folder, index = pathlib.Path(sys.argv[1]), os.environ.get("JAX_PROCESS_ID", "0")
if index == "1":
    while not all((folder / f"ready{n}").exists() for n in (0, 2)):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
(folder / f"ready{index}").touch()
time.sleep(600)
"""


def test_one_process_that_dies_ends_the_others(tmp_path):
    from launch import local

    program = tmp_path / "program.sh"
    program.write_text(f"exec {sys.executable} -c '{DIES}' {tmp_path}\n")
    settings = {"processes": 3, "gpus_per_process": 1, "prepare": False}
    (tmp_path / "local.json").write_text(json.dumps(settings))
    program.rename(tmp_path / "task.sh")
    code = f"from launch import local; local.REPORT_SECONDS = 2; local.cli.main(local.main, ['{tmp_path}'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 1
    assert f"process 1 ended with status 137: {tmp_path}/logs/process1.log" in done.stderr
    assert "saved" in done.stdout and "saved" in (tmp_path / "logs/process2.log").read_text()
    state = local.read_state(tmp_path)
    assert state["state"] == "failed" and state["ended"] == {"0": 143, "1": 137, "2": 143}


def test_the_processes_of_a_killed_launch_get_sigterm(tmp_path):
    if not shutil.which("setpriv"):
        pytest.skip("setpriv of util-linux is not installed")
    (tmp_path / "task.sh").write_text(f"exec {sys.executable} -c '{DIES}' {tmp_path}\n")
    settings = {"processes": 1, "gpus_per_process": 0, "prepare": False}
    (tmp_path / "local.json").write_text(json.dumps(settings))
    with subprocess.Popen([sys.executable, "-m", "launch.local", str(tmp_path)], cwd=ROOT,
                          env=ENVIRONMENT) as process:  # fmt: skip
        wait_for(tmp_path / "state.json", "running", process)
        wait_for(tmp_path / "ready0", "", process)
        process.kill()
    state = json.loads((tmp_path / "state.json").read_text())
    until = time.monotonic() + 200
    while (
        pathlib.Path(f"/proc/{state['running']['0']}/cmdline").exists() and time.monotonic() < until
    ):
        time.sleep(0.1)
    assert not pathlib.Path(f"/proc/{state['running']['0']}/exe").exists()
    assert "killed: the program" in call_status(tmp_path)


def call_status(folder):
    done = subprocess.run([sys.executable, "-m", "launch.local", str(folder), "--status"], cwd=ROOT,
                          env=ENVIRONMENT, capture_output=True, text=True)  # fmt: skip
    return done.stdout
