"""python -m launch slurm in a real cluster: two tasks are one run, an array, canceling, the time limit."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import sweeping
import tiny_configs
from launches import IS_CHECKOUT, NO_CHECKOUT, ONE_DEVICE, ROOT, call, command, losses

from data import prepare
from sweeps import session
from training import config as config_lib
from training.schema import PretrainConfig

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
PLACES = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=PLACES)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no Slurm here: {', '.join(MISSING)} not found "
                       "(on Debian: apt-get install slurm-wlm munge)"),
    pytest.mark.skipif(not IS_CHECKOUT, reason=NO_CHECKOUT),
]  # fmt: skip
SCRIPT = pathlib.Path(__file__).parent / "slurm_cluster.sh"
STEPS = {"training__duration": "40 steps", "checkpoint__every": "20 steps"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    try:
        done = subprocess.run(["bash", SCRIPT, "start", folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            from launches import ENVIRONMENT

            patch.setitem(ENVIRONMENT, "SLURM_CONF", str(folder / "slurm.conf"))
            yield folder
    finally:
        subprocess.run(["bash", SCRIPT, "stop", folder])


def submit(folder, name, *flags):
    output = folder / f"launch-{name}"
    done = call("slurm", f"--output={output}", "--ship_diff", "--no_plan", "--submit",
                f"--env={ONE_DEVICE}", *flags)  # fmt: skip
    assert done.returncode == 0 and "submitted job" in done.stdout, done.stdout + done.stderr
    return output


def states(launch):
    """{'JobState=...', 'ExitCode=...', ...} of each job of a launch."""
    done = call("status", launch)
    assert done.returncode == 0, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines() if line]


def logs(launch):
    return {path.name: path.read_text() for path in sorted((launch / "logs").glob("*.log"))}


def wait(launch, condition, seconds=600):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{states(launch)}\n{logs(launch)}"
        time.sleep(0.5)


def ended(launch, *words):
    return all(set(words) <= state for state in states(launch))


def has_line(launch, text):
    return any(text in log for log in logs(launch).values())


def test_two_tasks_are_the_run_of_one_process(cluster, tmp_path):
    one = submit(tmp_path, "one", "--", *command(tmp_path, "one", **STEPS))
    wait(one, lambda: ended(one, "JobState=COMPLETED"))
    two = submit(tmp_path, "two", "--tasks_per_node=2", "--", *command(tmp_path, "two", **STEPS))
    wait(two, lambda: ended(two, "JobState=COMPLETED"))
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    assert len(losses(tmp_path / "two")) == 40
    job = json.loads((two / "launch.json").read_text())["job"]
    found = logs(two)
    assert found.keys() == {f"{job}.log", f"{job}-task0.log", f"{job}-task1.log"}
    assert ", 2 processes" in found[f"{job}-task0.log"]
    assert f"SLURM_JOB_ID={job}\n" in found[f"{job}-task1.log"]
    assert ONE_DEVICE in found[f"{job}-task1.log"]


def test_a_canceled_run_saves_exits_143_and_the_same_command_resumes(cluster, tmp_path):
    words = command(tmp_path, "run", **STEPS | {"training__duration": "3000 steps"})
    flags = ("--tasks_per_node=2", "--", *words)
    launch = submit(tmp_path, "run", *flags)
    wait(launch, lambda: has_line(launch, "\nstep       5/"))
    assert call("cancel", launch).returncode == 0
    wait(launch, lambda: ended(launch, "ExitCode=143:0"))
    assert has_line(launch, "stopped by a signal at step")
    assert has_line(launch, "the run ended with status 143")
    assert ended(launch, "Restarts=0")
    step = len(losses(tmp_path / "run"))
    again = submit(tmp_path, "run", *flags)
    assert again == launch
    wait(launch, lambda: has_line(launch, f"resumed from checkpoint {step} of this run"))
    # A plain scancel is the same: SIGTERM, and Slurm's KillWait for the save.
    job = json.loads((launch / "launch.json").read_text())["job"]
    subprocess.run(["scancel", job], check=True)
    wait(launch, lambda: ended(launch, "JobState=CANCELLED"))
    wait(launch, lambda: "stopped by a signal at step" in logs(launch)[f"{job}-task0.log"])


def test_a_run_that_stops_before_its_time_limit_is_requeued_and_resumes(cluster, tmp_path):
    """training.max_hours is a stop with status 143, as the signal before the limit is."""
    words = [*command(tmp_path, "run", **STEPS), "--config.training.max_hours=1e-9"]
    launch = submit(tmp_path, "run", "--", *words)
    wait(launch, lambda: has_line(launch, "stopped by training.max_hours at step"))
    wait(launch, lambda: ended(launch, "Restarts=1"))
    job = json.loads((launch / "launch.json").read_text())["job"]
    # Slurm lets a requeued job wait for two minutes.
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
    wait(launch, lambda: has_line(launch, "resumed from checkpoint"))
    call("cancel", launch)


def test_an_array_of_four_runs_has_the_results_of_the_runs_alone(cluster, tmp_path):
    short = {"training__duration": "20 steps"}
    config = config_lib.resolve(PretrainConfig, tiny_configs.pretraining(tmp_path))
    prepare.prepare(config.data, config.tokenizer, log=lambda line: None)
    lines = [command(tmp_path, f"seed{n}", **short, seed__init=n) for n in range(4)]
    (tmp_path / "commands.txt").write_text("\n".join(map(shlex.join, lines)) + "\n")
    launch = submit(tmp_path, "seeds", f"--commands={tmp_path}/commands.txt", "--max_parallel=2")
    wait(launch, lambda: len(states(launch)) == 4 and ended(launch, "JobState=COMPLETED"))
    assert len({tuple(losses(tmp_path / f"seed{n}")) for n in range(4)}) == 4
    alone = command(tmp_path, "alone", **short, seed__init=2)
    done = subprocess.run(
        [sys.executable, *alone[1:]], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | dict([ONE_DEVICE.split("=", 1)]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "alone") == losses(tmp_path / "seed2")


def test_a_sweep_as_arrays_has_the_table_of_the_local_sweep(cluster, tmp_path, monkeypatch):
    """An array of two pretraining runs, then one of four finetuning runs that start from them."""
    from launches import ENVIRONMENT

    monkeypatch.setenv("SLURM_CONF", ENVIRONMENT["SLURM_CONF"])
    configured = (
        tiny_configs.pretraining(tmp_path, "configs/decoder.py"),
        tiny_configs.finetuning(tmp_path, "x", "configs/finetune/classification.py"),
    )
    first, second = (
        {key: value for key, value in config_lib.flatten(config.to_dict()).items()
         if value not in ((), "") and key not in ("init_from", "optimizer.learning_rate")}
        for config in configured
    )  # fmt: skip
    file = tmp_path / "sweep.py"
    file.write_text(
        "from sweeps import *\n"
        f"FIRST, SECOND = {first!r}, {second!r}\n"
        "def get_sweep():\n"
        "    pretraining = train('configs/decoder.py', fixed(FIRST) * grid(lr=[1e-3, 4e-3]))\n"
        "    space = fixed(SECOND) * grid(seed=range(2))\n"
        "    return Sweep(finetune('configs/finetune/classification.py', space, init_from=pretraining))\n"
    )
    tables = {}
    for name, flags in (("local", {}), ("slurm", {"executor": "slurm", "jobs": 2})):
        given = sweeping.options(file, tmp_path / name, replicas=1, **flags)
        table = session.run(given)
        assert table["num_finished"] == table["num_planned"] == 6
        tables[name] = table["rows"]
    assert tables["slurm"] == tables["local"] and len(tables["local"]) == 2
    jobs = json.loads((tmp_path / "slurm" / "sweep.json").read_text())["runs"]
    assert {each["executor"] for run in jobs for each in run["attempts"]} == {"slurm"}
    losses_of = [row["metrics"]["validation/loss"]["mean"] for row in tables["local"]]
    assert len({*losses_of}) == 2  # the rows differ, so equal tables say something
