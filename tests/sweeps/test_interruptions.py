"""Interruptions of a sweep: signals, kill -9 of the sweep, a full disk, two sweeps in one directory.

Real processes and signals; the programs are stand-ins."""

import contextlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
import sweeping

from sweeps import manifest
from training import cli
from training.config import ConfigError

ALL = list(range(1, 11))
SECOND = "lr=0.001,seed=1"  # the second run


def waiting(tmp_path, part="pretrain"):
    """Variables with which each run whose name has `part` waits after 4 updates, for a file or a signal."""
    return {**os.environ, "FAULTS": json.dumps({part: "wait"}), "GO": f"{tmp_path}/go"}


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.05)


def wait_for_updates(workdir, count, running):
    """Until there are `count` updates, and the manifest has as many running runs: those that wait."""

    def is_there():
        if sum(map(len, sweeping.updates(workdir).values())) < count:
            return False
        return list(sweeping.states(workdir).values()).count("running") == running

    wait_for(is_there)


def assert_each_update_ran_once(workdir, runs=4):
    made = sweeping.updates(workdir)
    assert len(made) == runs and all(steps == ALL for steps in made.values())


def test_a_signal_stops_the_runs_with_a_checkpoint_and_the_same_command_continues(tmp_path, caplog):
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    flags = ("--jobs=2", "--pin=none")
    with sweeping.start(file, workdir, *flags, env=waiting(tmp_path)) as process:
        wait_for_updates(workdir, 8, running=2)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 143, output
    assert "stopped; the same command continues with the 4 runs that are left" in output
    assert "backends in use: 0" in output  # a TPU belongs to the runs
    assert "Traceback" not in output and (workdir / "report.html").exists()
    assert sorted(sweeping.states(workdir).values()) == ["stopped", "stopped", "waiting", "waiting"]
    sweeping.run(file, workdir)
    assert "0 finished, 2 unfinished, 2 new" in caplog.text
    assert_each_update_ran_once(workdir)


def test_ctrl_c_reaches_the_sweep_alone_which_stops_each_command_once(tmp_path):
    """A terminal sends it to the group of the sweep; each command has a session of its own."""
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    with sweeping.start(file, workdir, env=waiting(tmp_path), start_new_session=True) as process:
        wait_for_updates(workdir, 4, running=1)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 130 and "waiting for the running commands (1) to save" in output
    assert "stopped" in sweeping.states(workdir).values()


def test_after_kill_9_of_the_sweep_its_run_is_waited_for_and_nothing_runs_twice(tmp_path, caplog):
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    with sweeping.start(file, workdir, env=waiting(tmp_path, SECOND)) as process:
        wait_for_updates(workdir, 14, running=1)
        process.kill()
    assert not (workdir / "report.html").exists()

    def go():
        try:
            wait_for(lambda: "still runs" in caplog.text)
        finally:
            (tmp_path / "go").touch()

    threading.Thread(target=go).start()
    sweeping.run(file, workdir)
    assert "pretrain/lr=0.001,seed=1 still runs: an earlier sweep started it" in caplog.text
    assert_each_update_ran_once(workdir)
    starts = [len(f.read_text().split()) for f in pathlib.Path(workdir).rglob("starts.txt")]
    assert starts == [1, 1, 1, 1]


def test_after_kill_9_of_the_sweep_and_its_run_it_resumes_from_its_checkpoint(tmp_path, caplog):
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    with sweeping.start(file, workdir, env=waiting(tmp_path, SECOND)) as process:
        wait_for_updates(workdir, 14, running=1)
        process.kill()
    record = json.loads((workdir / "sweep.json").read_text())
    [started] = [r["attempts"][-1] for r in record["runs"] if r["state"] == "running"]
    os.kill(started["pid"], signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{started['pid']}"))
    sweeping.run(file, workdir)
    assert "still runs" not in caplog.text
    assert_each_update_ran_once(workdir)


def test_a_command_before_its_first_update_is_stale_in_a_changed_sweep(tmp_path):
    """It would end as the run of the new config, with the old one."""
    stage = 'train("configs/decoder.py", fixed(duration="{} steps") * grid(lr=[1e-3, 2e-3]))'
    file, workdir = sweeping.write(tmp_path, stage.format(9)), tmp_path / "runs"
    faults = json.dumps({"pretrain": "tokenize"})
    with sweeping.start(file, workdir, env={**os.environ, "FAULTS": faults}) as process:
        wait_for(lambda: list(workdir.rglob("starts.txt")))
        process.kill()
    started = json.loads((workdir / "sweep.json").read_text())["runs"][0]["attempts"][0]
    changed = sweeping.write(tmp_path, stage.format(8))
    with pytest.raises(
        ConfigError, match="1 runs .* are stale.*duration was '9 steps', is '8 steps'"
    ):
        sweeping.run(changed, workdir)
    with pytest.raises(ConfigError, match=f"lr=0.001 still runs .*kill {started['pid']}"):
        sweeping.run(changed, workdir, stale="redo")
    kept = sweeping.run(changed, workdir, stale="keep")
    assert [entry["folder"] for entry in kept["runs"]] == ["pretrain/lr=0.002"]
    os.kill(started["pid"], signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{started['pid']}"))
    assert sweeping.run(changed, workdir)["num_finished"] == 2  # it had nothing to lose


@contextlib.contextmanager
def full_disk(size):
    """No file, of this process or its children, can grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    with full_disk(6_000), pytest.raises(OSError) as error:
        sweeping.run(file, workdir)
    line = cli.explain(error.value)
    assert line.startswith(f"cannot write {workdir}/") and "the disk is full" in line
    sweeping.run(file, workdir)
    # A longer sweep, whose manifest does not fit once its first run has ended: the run is not lost.
    file = sweeping.write(
        tmp_path, 'train("configs/decoder.py", grid(lr=[1e-3, 2e-3], seed=range(3)))'
    )
    sweeping.run(file, workdir, executor="print")
    size = max(path.stat().st_size for path in workdir.glob("*.json"))
    with full_disk(size + 50), pytest.raises(OSError) as error:
        sweeping.run(file, workdir)
    assert "the disk is full" in cli.explain(error.value)
    sweeping.run(file, workdir)
    assert_each_update_ran_once(workdir, 6)


def test_a_second_sweep_in_one_directory_is_refused_in_one_line(tmp_path):
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    workdir.mkdir()
    lock = manifest.lock(workdir)
    with pytest.raises(ConfigError, match="another program is using .*runs.; wait for it to end"):
        sweeping.run(file, workdir)
    lock.release()
    assert sweeping.run(file, workdir)["num_finished"] == 4


def test_a_manifest_that_is_cut_off_is_one_line(tmp_path):
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    workdir.mkdir()
    (workdir / "sweep.json").write_text('{"runs": [')
    with pytest.raises(ConfigError, match="sweep.json is not readable JSON"):
        sweeping.run(file, workdir)


def test_help_is_fast_and_imports_no_jax():
    code = "import sys; from tools import sweep; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=sweeping.ROOT, timeout=60)
    assert done.returncode == 0
