"""Where commands run: pinned processes, and arrays of Slurm by submitit with stand-ins for its programs."""

import io
import json
import os
import sys
import time

import pytest
import rich.console
import sweeping

from sweeps import display, engine, executors, manifest, plan
from training import config as config_lib
from training.config import ConfigError

SBATCH = r"""#!/bin/sh
# Runs the tasks of an array, or the one job, at once in the background. A line of submitted.txt: how many
# tasks there are now, and how many have ended.
here=$(dirname "$0")
cp -n "$1" "$here/submitted.sh"
number=$(wc -l < "$here/submitted.txt")
ended=$(ls "$here"/../*/slurm/*/*_result.pkl 2> "$here/ls.txt" | wc -l)
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_NNODES=1 SLURM_NODEID=0
export SLURM_JOB_NODELIST=localhost
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$1")
echo "$((${last:-0} + 1)) $ended" >> "$here/submitted.txt"
job=$((700 + 100 * number))
if [ -z "$last" ]; then
  SLURM_JOB_ID=$job bash "$1" > "$here/$job.out" 2>&1 &
  echo Submitted batch job $job
  exit
fi
for task in $(seq 0 "$last"); do
  SLURM_JOB_ID=$((job + task)) SLURM_ARRAY_JOB_ID=$job SLURM_ARRAY_TASK_ID=$task \
    bash "$1" > "$here/$job.$task.out" 2>&1 &
done
echo Submitted batch job $job
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; shift; done
exec "$@"
"""
SACCT = "#!/bin/sh\necho 'JobID|State|NodeList'\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with stand-ins for sbatch, srun and sacct on the path."""
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "submitted.txt").touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_an_array_of_slurm_gives_the_table_of_this_machine(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(executors.Slurm, "wait_seconds", 0.2)
    file = sweeping.write(tmp_path, sweeping.PRETRAIN)
    options = "partition=gpu,gpus_per_node=1,timeout_min=90"
    found = sweeping.run(file, tmp_path / "array", executor="slurm", slurm=options, jobs=4)
    here = sweeping.run(file, tmp_path / "here")
    assert found["rows"] == here["rows"] and found["num_finished"] == 4
    submitted = (slurm / "submitted.sh").read_text().splitlines()
    for line in (
        "--array=0-3%4",
        "--partition=gpu",
        "--gpus-per-node=1",
        "--time=90",
        "--signal=USR2@120",
    ):
        assert f"#SBATCH {line}" in submitted
    assert sum(line.startswith("srun ") for line in submitted) == 1
    record = json.loads((tmp_path / "array" / "sweep.json").read_text())
    jobs = {each["attempts"][0]["job"] for each in record["runs"]}
    assert jobs == {"700_0", "700_1", "700_2", "700_3"}


def test_no_more_tasks_than_jobs_are_in_all_arrays_together(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(executors.Slurm, "wait_seconds", 0.2)
    stage = (
        'finetune("configs/finetune/classification.py", grid(seed=range(2)), '
        'init_from=train("configs/decoder.py", grid(seed=range(3))))'
    )
    file = sweeping.write(tmp_path, stage)
    found = sweeping.run(file, tmp_path / "array", executor="slurm", jobs=2, replicas=1)
    assert found["num_finished"] == 9
    submitted = 0
    for line in (slurm / "submitted.txt").read_text().splitlines():
        tasks, ended = map(int, line.split())
        submitted += tasks
        assert submitted - ended <= 2
    assert submitted == 9


def test_a_task_that_fails_in_an_array_is_reported(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(executors.Slurm, "wait_seconds", 0.2)
    monkeypatch.setenv("FAULTS", json.dumps({"lr=0.002,seed=0": "fail"}))
    file = sweeping.write(tmp_path, sweeping.PRETRAIN)
    with pytest.raises(ConfigError, match="1 of 4 runs failed"):
        sweeping.run(file, tmp_path / "array", executor="slurm")
    assert sweeping.run(file, tmp_path / "array", executor="slurm")["num_finished"] == 4


def test_queued_tasks_of_an_old_config_are_neither_adopted_nor_moved(
    tmp_path, slurm, monkeypatch, caplog
):
    (slurm / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 700\n")  # and starts none
    stage, workdir = 'train("configs/decoder.py", fixed(duration="{} steps"))', tmp_path / "runs"
    file = sweeping.write(tmp_path, stage.format(9))
    with sweeping.start(file, workdir, "--executor=slurm") as process:
        while not (workdir / "sweep.json").exists() or sweeping.states(workdir) != {
            "pretrain/decoder": "running"
        }:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        process.kill()
    with pytest.raises(ConfigError, match=r"a sweep with --executor=slurm .*\(scancel 700\)"):
        sweeping.run(file, workdir)
    changed = sweeping.write(tmp_path, stage.format(8))
    for flags, message in (({}, "stale"), ({"stale": "redo"}, r"still runs .*scancel 700\)")):
        with pytest.raises(ConfigError, match=message):
            sweeping.run(changed, workdir, executor="slurm", **flags)
    attempt = json.loads((workdir / "sweep.json").read_text())["runs"][0]["attempts"][0]
    assert executors.still_runs(attempt, workdir)
    for answer, queued in (
        ("echo 700 RUNNING", True),
        ("true", False),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", False),
        ("echo Unable to contact slurm controller >&2; exit 1", True),
    ):
        (slurm / "squeue").write_text(f"#!/bin/sh\n{answer}\n")
        (slurm / "squeue").chmod(0o755)
        assert executors.still_runs(attempt, workdir) == queued
    (slurm / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(slurm))
    again = sweeping.write(tmp_path, stage.format(9))
    assert sweeping.run(again, workdir)["num_finished"] == 1
    assert "no Slurm here, so task 700 of an earlier sweep counts as ended" in caplog.text


def test_without_slurm_or_submitit_the_error_says_what_is_missing(tmp_path, monkeypatch):
    file = sweeping.write(tmp_path, sweeping.PRETRAIN)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        with pytest.raises(ConfigError, match=r"install the extra \[slurm\]"):
            sweeping.run(file, tmp_path / "runs", executor="slurm")
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no srun here"):
        sweeping.run(file, tmp_path / "runs", executor="slurm")


def test_a_wrong_option_of_slurm_is_one_line(tmp_path, slurm):
    file = sweeping.write(tmp_path, sweeping.PRETRAIN)
    for options, message in (("partitoin=gpu", "partitoin"), ("gpu", "expected NAME=VALUE")):
        with pytest.raises(ConfigError, match=message) as error:
            sweeping.run(file, tmp_path / "runs", executor="slurm", slurm=options)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_signal_of_slurm_stops_the_command_once(tmp_path):
    code = (
        "import signal, sys, time\n"
        "count = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: count.append(1))\n"
        "print('ready', flush=True)\n"
        "while not count: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "sys.exit(140 + len(count))\n"
    )
    outer = (
        "import os, signal, sys, threading\n"
        "from sweeps import executors\n"
        "def signals():\n"
        "    import time\n"
        "    while 'ready' not in open(sys.argv[2]).read(): time.sleep(0.05)\n"
        "    for number in (signal.SIGUSR2, signal.SIGTERM): os.kill(os.getpid(), number); time.sleep(0.1)\n"
        "open(sys.argv[2], 'w')\n"
        "threading.Thread(target=signals).start()\n"
        "sys.exit(executors.run_command([sys.executable, '-c', sys.argv[1]], sys.argv[2]))\n"
    )
    words = [sys.executable, "-c", outer, code, str(tmp_path / "log")]
    done = sweeping.subprocess.run(words, cwd=sweeping.ROOT, timeout=300)
    assert done.returncode == 141


def test_slots_have_their_own_cores_or_device(monkeypatch):
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5})
        local = executors.Local(2, "cores")
        assert local._cores == [[0, 1], [2, 3, 5]]
        with pytest.raises(ConfigError, match="has 5 cores"):
            executors.Local(6, "cores")
        assert executors.Local(3).pin == "cores" and executors.Local(1).pin == "none"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert executors.Local(2, "gpu").variables(1) == {"CUDA_VISIBLE_DEVICES": "6"}
    with pytest.raises(ConfigError, match="has 2 devices"):
        executors.Local(3, "gpu")
    assert executors.Local(4, "tpu").variables(2)["TPU_VISIBLE_CHIPS"] == "2"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_process_runs_on_the_cores_of_its_slot(tmp_path):
    local = executors.Local(1, "cores")
    local._cores = [sorted(os.sched_getaffinity(0))[:1]]
    code = (
        "import os, sys, time\n"
        "end = time.monotonic() + 60\n"  # its parent sets the cores when it has started
        "while str(sorted(os.sched_getaffinity(0))) != sys.argv[1] and time.monotonic() < end:\n"
        "    time.sleep(0.01)\n"
        "print(sorted(os.sched_getaffinity(0)))"
    )
    command = [sys.executable, "-c", code, str(local._cores[0])]
    [started] = local.start([command], [tmp_path / "log"], [0])
    local._processes[started["pid"]].wait(300)
    assert (tmp_path / "log").read_text().strip() == str(local._cores[0])


def test_the_live_table_shows_step_metrics_and_the_time_left(tmp_path, monkeypatch):
    file = sweeping.write(tmp_path, sweeping.PRETRAIN)
    runs = plan.make_runs(config_lib.load_config_file(file, "get_sweep"))
    book = manifest.Manifest(tmp_path)
    book.plan(runs, {})
    log_file = tmp_path / "log"
    log_file.write_text(
        "compiling\nstep   1,200/2,400  loss 3.1    9,000 tok/s  eta 0:01:40\nnoise\n"
    )
    since = time.monotonic() - 100
    active = engine.Active(plan.Job((runs[0],)), {}, log_file, since, [])
    for run, state in zip(runs, ("running", "waiting", "waiting", "failed"), strict=True):
        book.records[run.folder]["state"] = state
    console = rich.console.Console(file=io.StringIO(), width=120)
    monkeypatch.setattr(time, "monotonic", lambda: since + 100)
    console.print(display.Display(runs, book, jobs=2, live=False).table([active], []))
    text = " ".join(console.file.getvalue().split())
    assert "pretrain/lr=0.001,seed=0 1,200/2,400 loss 3.1 9,000 tok/s eta 0:01:40 0:01:40" in text
    # 200 s a run: half of one and two more, two at a time.
    assert "1 running, 2 waiting, 1 failed; eta 0:04:10" in text
