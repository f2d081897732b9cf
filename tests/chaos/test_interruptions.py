"""Runs that are interrupted at random moments: by signals, a full disk, a second program, and a clock that is
set back. Each ends with the bits of a run that nothing interrupted.

$TRIPTYCH_CHAOS_KILLS and $TRIPTYCH_CHAOS_DISKS are the numbers of `make chaos`: 50 and 20.
"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import test_resume
import tiny_configs
from processes import start

KILLS = int(os.environ.get("TRIPTYCH_CHAOS_KILLS", "50"))
DISKS = int(os.environ.get("TRIPTYCH_CHAOS_DISKS", "20"))
STEPS = 400
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chaos")


def pretraining(folder, name, architecture="decoder"):
    """The command of a run in `folder`/name; data and caches are shared by all."""
    return test_resume.command(
        folder,
        name,
        architecture,
        training__duration=f"{STEPS} steps",
        evaluation__every="100 steps",
    )


def replicas(folder, name):
    """The command of a finetuning run with two seeds."""
    if not (folder / "base").exists():
        finish([pretraining(folder, "base")])
    config = tiny_configs.finetuning(
        folder, folder / "base", training__duration=f"{STEPS // 2} steps", seeds="(0, 1)",
        checkpoint__every="20 steps", evaluation__every="100 steps",
    )  # fmt: skip
    return [sys.executable, "finetune.py", "--config=configs/finetune/classification.py",
            f"--workdir={folder}/{name}", *tiny_configs.flags(config)]  # fmt: skip


def finish(commands):
    """Runs the processes of a run to their end; returns the seconds."""
    began, running = time.monotonic(), start(commands, 1)
    outputs = [process.communicate(timeout=600)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(commands), outputs[0]
    return time.monotonic() - began


def assert_same(run, expected):
    """Parameters, optimizer state and metrics of a run, or of each of its replicas."""
    names = sorted(path.parent.name for path in expected.glob("seed=*/checkpoints")) or [""]
    for name in names:
        steps = [int(path.name) for path in (expected / name / "checkpoints").iterdir()
                 if path.name.isdigit()]  # fmt: skip
        test_resume.assert_same_arrays(run / name, expected / name, max(steps))
        assert tiny_configs.metrics(run / name) == tiny_configs.metrics(expected / name)


CASES = {
    "encoder": (1, lambda folder, name: pretraining(folder, name, "encoder")),
    "decoder": (1, pretraining),
    "encoder_decoder": (1, lambda folder, name: pretraining(folder, name, "encoder_decoder")),
    "processes": (2, pretraining),
    "replicas": (1, replicas),
}


@pytest.mark.parametrize("case", CASES)
def test_kills_at_random_moments_change_no_bit(folder, case):
    count, command = CASES[case]
    draw = random.Random(case)
    finish([command(folder, f"{case}-whole")] * count)  # compiles
    shutil.rmtree(folder / f"{case}-whole")
    seconds = finish([command(folder, f"{case}-whole")] * count)
    arguments, run = [command(folder, f"{case}-killed")] * count, folder / f"{case}-killed"
    kills = finished = 0
    while kills < -(-KILLS // len(CASES)):
        running, number = start(arguments, 1), draw.choice((signal.SIGKILL, signal.SIGTERM))
        moment = time.monotonic() + draw.uniform(0, seconds)
        while time.monotonic() < moment and running[0].poll() is None:
            time.sleep(0.01)
        done = running[0].poll() is not None
        for process in running:
            process.send_signal(number)
        outputs = [process.communicate(timeout=600)[0] for process in running]
        assert not any("Traceback" in output for output in outputs), outputs
        codes = {process.returncode for process in running}
        if done or codes == {0}:  # it was faster
            assert codes == {0}, outputs
            assert_same(run, folder / f"{case}-whole")
            shutil.rmtree(run)
            finished += 1
            continue
        kills += 1
    finish(arguments)
    assert_same(run, folder / f"{case}-whole")
    print(f"{case}: {kills} kills, {finished + 1} runs ended, each with the same bits")


def test_a_full_disk_at_random_moments_loses_nothing(folder):
    """A file system in memory that is too small, and then is not."""
    disk = folder / "disk"
    disk.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("-o", "size=64m"):
        pytest.skip("needs the right to mount a tmpfs (root)")
    try:
        finish([pretraining(folder, "disk/whole")])
        shutil.copytree(disk / "whole", folder / "disk-whole")
        used = sum(path.stat().st_blocks * 512 for path in disk.rglob("*"))
        draw, full = random.Random(0), 0
        while full < DISKS:
            shutil.rmtree(disk / "run", ignore_errors=True)
            shutil.rmtree(disk / "whole", ignore_errors=True)
            assert mount("-o", f"remount,size={draw.randrange(20_000, used)}")
            (process,) = start([pretraining(folder, "disk/run")], 1)
            output = process.communicate(timeout=600)[0]
            errors = [line for line in output.splitlines() if line.startswith("error:")]
            if process.returncode:
                full += 1
                assert process.returncode == 1 and len(errors) == 1, output
                assert "Traceback" not in output and "the disk is full" in errors[0], output
            assert mount("-o", "remount,size=256m")
            finish([pretraining(folder, "disk/run")])
            assert_same(disk / "run", folder / "disk-whole")
        print(f"{full} full disks, each run ended with the same bits")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_of_two_programs_in_one_workdir_one_is_refused(folder):
    finish([pretraining(folder, "alone")])
    for number in range(5):
        name = f"shared-{number}"
        running = [process for _ in range(2) for process in start([pretraining(folder, name)], 1)]
        outputs = [process.communicate(timeout=600)[0] for process in running]
        codes = sorted(process.returncode for process in running)
        assert codes in ([0, 1], [0, 0]), outputs  # the second may begin after the end of the first
        if codes == [0, 1]:
            refused = outputs[[process.returncode for process in running].index(1)]
            assert "another program is using" in refused and "Traceback" not in refused
        assert_same(folder / name, folder / "alone")


def test_a_clock_that_is_set_back_changes_nothing(folder, tmp_path, monkeypatch):
    """time.time() loses an hour after a few seconds, in every process of the run."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "clock, begin = time.time, time.monotonic()\n"
        "back = float(os.environ['TEST_CLOCK_BACK'])\n"
        "time.time = lambda: clock() - 3600 * (time.monotonic() - begin > back)\n"
    )
    finish([pretraining(folder, "clock-whole")])
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    for number, seconds in enumerate((0.5, 3, 6)):
        monkeypatch.setenv("TEST_CLOCK_BACK", str(seconds))
        finish([pretraining(folder, f"clock-{number}")])
        assert_same(folder / f"clock-{number}", folder / "clock-whole")
        lines = (pathlib.Path(folder) / f"clock-{number}/metrics.jsonl").read_text()
        assert "-" not in "".join(line for line in lines.splitlines() if '"throughput"' in line)
