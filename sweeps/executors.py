"""Where the commands of a sweep run: as processes of this machine, or as arrays of Slurm.

An executor starts commands and says when they have ended; sweeps/engine.py decides which. A started
command is described by a dict that the manifest keeps, so that a later sweep finds one that still runs.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import shlex
import shutil
import signal
import subprocess

from training.config import ConfigError

log = logging.getLogger("triptych.sweeps")
ROOT = pathlib.Path(__file__).resolve().parents[1]
LARGEST_ARRAY = 1000  # Slurm's default
SLURM_FOLDER = "slurm"  # below the workdir of a sweep
PINS = ("auto", "none", "cores", "gpu", "tpu")


class Local:
    """Processes of this machine, `jobs` at a time, each with its own session, output in a log file.

    Args:
      jobs: processes at a time.
      pin: 'cores' gives each an equal part of the cores, 'gpu' and 'tpu' one device; 'none'; 'auto': cores
        if there are several jobs.
    """

    name = "local"
    wait_seconds = 0.2
    outlives = False  # whether commands stay when the sweep ends

    def __init__(self, jobs=1, pin="auto"):
        self.slots = self.capacity = jobs
        self.pin = pin
        if pin == "auto":
            self.pin = "cores" if jobs > 1 and hasattr(os, "sched_setaffinity") else "none"
        if self.pin == "cores":
            if not hasattr(os, "sched_setaffinity"):
                raise ConfigError("--pin=cores needs Linux; use --pin=none")
            cores = sorted(os.sched_getaffinity(0))
            if jobs > len(cores):
                raise ConfigError(
                    f"--jobs={jobs} with --pin=cores: this machine has {len(cores)} cores; use --pin=none or "
                    f"fewer jobs"
                )
            self._cores = [cores[slot * len(cores) // jobs : (slot + 1) * len(cores) // jobs]
                           for slot in range(jobs)]  # fmt: skip
        if self.pin == "gpu":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            self._devices = visible.split(",") if visible else [str(n) for n in range(jobs)]
            if jobs > len(self._devices):
                raise ConfigError(
                    f"--jobs={jobs} with --pin=gpu: CUDA_VISIBLE_DEVICES={visible} has "
                    f"{len(self._devices)} devices; use as many jobs"
                )
        self._processes = {}

    def variables(self, slot):
        """Environment variables of the process in a slot."""
        if self.pin == "gpu":
            return {"CUDA_VISIBLE_DEVICES": self._devices[slot]}
        if self.pin == "tpu":
            return {"TPU_VISIBLE_CHIPS": str(slot), "TPU_VISIBLE_DEVICES": str(slot),
                    "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}  # fmt: skip
        return {}

    def start(self, commands, log_files, slots):
        """Starts commands; returns a dict about each."""
        return [self._start(*each) for each in zip(commands, log_files, slots, strict=True)]

    def _start(self, command, log_file, slot):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.variables(slot)}
        with open(log_file, "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip
        if self.pin == "cores":  # before it starts threads
            os.sched_setaffinity(process.pid, self._cores[slot])
        self._processes[process.pid] = process
        return {"executor": self.name, "pid": process.pid, "slot": slot}

    def poll(self, started):
        """The exit status of a command, negative for a signal; None while it runs; 'unknown' if it has ended
        and an earlier sweep had started it."""
        process = self._processes.get(started["pid"])
        if process is not None:
            return process.poll()
        return None if self.runs(started) else "unknown"

    @staticmethod
    def runs(started):
        """Whether the process of an earlier sweep still runs."""
        try:
            os.kill(started["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # the number belongs to another user now
            return False
        return started["folder"] in _command_line(started["pid"])

    def stop(self, started):
        """Asks a command to save and end."""
        if self.poll(started) is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started["pid"], signal.SIGTERM)

    def describe(self):
        pinned = "" if self.pin == "none" else f", pinned to {self.pin}"
        return f"{self.slots} at a time on this machine{pinned}"


class Slurm:
    """Arrays of Slurm jobs, submitted by the package submitit.

    Args:
      folder: where submitit keeps its files.
      jobs: tasks that are queued or run at a time, in all arrays together.
      options: {'partition': ..., 'time': minutes, ...} of submitit, slurm_ in front of its own.
      cluster: 'slurm', or 'local' and 'debug', with which submitit runs the jobs itself.
    """

    name = "slurm"
    wait_seconds = 5.0
    outlives = True

    def __init__(self, folder, jobs=32, options=None, cluster="slurm"):
        self._submitit = _import_submitit()
        self.slots, self.folder, self.cluster = jobs, pathlib.Path(folder), cluster
        # Slurm limits the tasks of one array, and the runs that can start together are an array.
        self.capacity = min(jobs, LARGEST_ARRAY)
        if cluster == "slurm" and self._submitit.AutoExecutor.which() != "slurm":
            raise ConfigError(
                "--executor=slurm: there is no srun here; run it on a login node of the cluster"
            )
        if cluster != "slurm":
            self.wait_seconds = 0.2
        self._executor = self._submitit.AutoExecutor(
            folder=str(self.folder / "%j"), cluster=cluster
        )
        options = {"timeout_min": 24 * 60, **(options or {})}
        known = {
            key: options.pop(key) for key in ("name", "timeout_min", "nodes") if key in options
        }
        # The signal before the time limit reaches `run_command`; the next sweep submits the run again.
        path = f"export PYTHONPATH={shlex.quote(str(ROOT))}:$PYTHONPATH"
        parameters = {
            "slurm_array_parallelism": jobs,
            "slurm_signal_delay_s": 120,
            "slurm_setup": [path],
        }
        parameters |= {f"slurm_{key}": value for key, value in options.items()}
        try:
            self._executor.update_parameters(**{"name": "sweep", **known, **parameters})
        except (NameError, TypeError, ValueError) as error:
            raise ConfigError(f"--slurm: {' '.join(str(error).split())[:300]}") from error
        self._jobs = {}

    def start(self, commands, log_files, slots):
        """Submits commands as one array; returns a dict about each."""
        with self._executor.batch():
            jobs = [
                self._executor.submit(run_command, command, str(file))
                for command, file in zip(commands, log_files, strict=True)
            ]
        self._jobs |= {job.job_id: job for job in jobs}
        return [{"executor": self.name, "job": job.job_id, "cluster": self.cluster} for job in jobs]

    def poll(self, started):
        """As Local.poll; a task that Slurm ended has status -15."""
        job = self._job(started)
        if not job.done(force_check=True):
            return None
        if job.job_id not in self._jobs:
            return "unknown"
        try:
            return job.result()
        except Exception:  # noqa: BLE001  submitit raises what the task raised, or that it is lost
            return -int(signal.SIGTERM)

    def describe(self):
        return f"arrays of Slurm, {self.capacity} tasks at a time"

    def _job(self, started):
        return self._jobs.get(started["job"]) or _slurm_job(started, self.folder)


def still_runs(attempt, workdir):
    """Whether the command of an attempt in the manifest of `workdir` runs, or waits in a queue."""
    if "end" in attempt:
        return False
    if attempt["executor"] == Local.name:
        return Local.runs(attempt)
    if not (shutil.which("sbatch") and importlib.util.find_spec("submitit")):
        log.warning(f"no Slurm here, so task {attempt['job']} of an earlier sweep counts as ended")
        return False
    job = _slurm_job(attempt, workdir / SLURM_FOLDER)
    if job.done(force_check=True):
        return False
    return job.state != "UNKNOWN" or _is_queued(attempt["job"])


def _is_queued(job):
    """Whether squeue lists a job; True if it cannot say. sacct does not know a job without accounting, or
    after Slurm has purged its records."""
    if not shutil.which("squeue"):
        return True
    found = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True, check=False)
    return bool(found.stdout.strip()) or (
        found.returncode != 0 and "Invalid job id" not in found.stderr
    )


def stop_command(attempts):
    """The shell command that stops the commands of some attempts; of many, the first of them."""
    words = {}
    for each in attempts:
        name = "kill" if each["executor"] == Local.name else "scancel"
        words.setdefault(name, {})[str(each.get("pid") or each["job"])] = True
    lines = [
        [name, *list(found)[:10], *["..."][: len(found) > 10]] for name, found in words.items()
    ]
    return "; ".join(map(" ".join, lines))


def _slurm_job(started, folder):
    """The job of submitit that an earlier sweep submitted."""
    executor = _import_submitit().core.plugins.get_executors()[started["cluster"]]
    return executor.job_class(folder=folder / "%j", job_id=started["job"])


def run_command(command, log_file):
    """The task of an array: runs a command and returns its exit status. The signals of Slurm before the
    time limit, and of scancel, become one SIGTERM, at which a run saves."""
    with open(log_file, "ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        stop = functools.cache(lambda: process.terminate())
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: stop())
        return process.wait()


def parse_options(text):
    """'partition=gpu,timeout_min=60' -> {'partition': 'gpu', 'timeout_min': 60}. Raises ConfigError."""
    options = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                f"--slurm={text!r}: expected NAME=VALUE,..., such as partition=gpu,gpus_per_node=1"
            )
        options[name.strip()] = int(value) if value.isdigit() else value
    return options


def _import_submitit():
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            "--executor=slurm needs submitit, which is not installed; install the extra [slurm]: "
            "pip install -e '.[slurm]'"
        ) from error
    return submitit


def _command_line(pid):
    """The words of a process as one text, '' if it is gone."""
    try:
        file = pathlib.Path(f"/proc/{pid}/cmdline")
        if file.parent.parent.is_dir() and pathlib.Path("/proc/self").exists():
            return file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        words = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        return subprocess.run(words, capture_output=True, text=True).stdout
    except OSError:
        return ""
