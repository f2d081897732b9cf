"""This machine: N processes of one run on one coordinator over loopback, each with its log.

`python -m launch.local DIR [prepare]` is what the rendered launch runs: it ends all processes if one dies,
and forwards SIGTERM and Ctrl-C, so that all save and exit with 143.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from launch.job import Job, Rendering
from training import cli
from training.config import ConfigError

FLAGS = (
    ("--processes", {"type": int, "default": 1, "help": "processes of the run"}),
    ("--gpus_per_process", {"type": int, "default": 0, "help": "GPUs that each process sees; 0: all"}),
)  # fmt: skip
takes_arrays, is_remote, requires = False, False, ()
REPORT_SECONDS = 15.0  # after the first failure: the others name what they saw
SAVE_SECONDS = 600.0  # after SIGTERM


def render(job: Job, given) -> Rendering:
    if given.processes < 1 or given.gpus_per_process < 0:
        raise ConfigError("--processes and --gpus_per_process: expected at least 1 and 0")
    settings = {"processes": given.processes, "gpus_per_process": given.gpus_per_process,
                "prepare": given.processes > 1 and bool(job.prepare())}  # fmt: skip
    files = {
        "task.sh": job.script_here(),
        "local.json": json.dumps(settings, indent=2) + "\n",
    }
    folder = str(job.folder)
    program = [
        "env",
        f"PYTHONPATH={cli.ROOT}",
        str(job.python / "python"),
        "-m",
        "launch.local",
        folder,
    ]
    actions = {
        "submit": [program],
        "status": [[*program, "--status"]],
        "logs": [["bash", "-c", f"tail -n 20 {shlex.quote(folder)}/logs/*.log"]],
        "cancel": [[*program, "--cancel"]],
    }
    return Rendering(files, actions)


@dataclasses.dataclass
class Processes:
    """The processes of a launch while they run."""

    folder: pathlib.Path
    settings: dict
    running: dict = dataclasses.field(default_factory=dict)
    ended: dict = dataclasses.field(default_factory=dict)  # index: status
    stopping: bool = False

    def start(self):
        """Starts all of them."""
        count, share = self.settings["processes"], self.settings["gpus_per_process"]
        port = free_port()
        for index in range(count):
            own = {}
            if count > 1:
                own = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                       "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)}  # fmt: skip
            if share:
                first = index * share
                own["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(first, first + share)))
            log = self.log(index).open("ab")
            process = subprocess.Popen(
                [*orphans_end(), "bash", str(self.folder / "task.sh")], env=os.environ | own,
                stdout=log if index else subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C of the terminal reaches this program alone
            )  # fmt: skip
            self.running[index] = process
            if not index:
                echo = threading.Thread(target=_copy, args=(process.stdout, log), daemon=True)
                echo.start()

    def log(self, index):
        return self.folder / "logs" / f"process{index}.log"

    def wait(self) -> int:
        """Waits for all; returns the status of the launch: 0, 143 if all saved on SIGTERM, else 1."""
        deadline = None
        while self.running:
            for index, process in list(self.running.items()):
                status = process.poll()
                if status is not None:
                    self.ended[index] = 128 - status if status < 0 else status
                    del self.running[index]
                    self.record("running")
            failed = [index for index, status in self.ended.items() if status not in (0, 143)]
            if deadline is None and (failed or self.stopping):
                deadline = time.monotonic() + (SAVE_SECONDS if self.stopping else REPORT_SECONDS)
            if deadline is not None and time.monotonic() > deadline:
                self.send(signal.SIGKILL if self.stopping else signal.SIGTERM)
                self.stopping, deadline = True, time.monotonic() + REPORT_SECONDS
            time.sleep(0.1)
        return next((1 for s in self.ended.values() if s not in (0, 143)), max(self.ended.values()))

    def send(self, number):
        """Sends a signal to all that run."""
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def stop(self, number, frame):
        """SIGTERM to all; at the second signal SIGKILL."""
        os.write(2, b"launch: SIGTERM to all processes; they save and exit with 143\n")
        self.send(signal.SIGKILL if self.stopping else signal.SIGTERM)
        self.stopping = True

    def record(self, state):
        """Writes state.json."""
        found = {"state": state, "pid": os.getpid(), "ended": self.ended,
                 "running": {index: each.pid for index, each in self.running.items()}}  # fmt: skip
        part = self.folder / "state.json.part"
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        part.replace(self.folder / "state.json")


def _copy(source, log):
    """Process 0 is seen in the terminal too."""
    for line in iter(source.readline, b""):
        log.write(line)
        log.flush()
        with contextlib.suppress(OSError):
            os.write(1, line)


def orphans_end() -> list[str]:
    """A prefix with which a process gets SIGTERM if this program is killed, where util-linux has it."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def lock(folder):
    """The lock of a launch, None if another program has it."""
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def read_state(folder) -> dict:
    path = folder / "state.json"
    if not path.exists():
        raise ConfigError(f"{folder} was not started yet: python -m launch submit {folder}")
    return json.loads(path.read_text(encoding="utf-8"))


def describe(folder) -> str:
    """The line of `status`."""
    state = read_state(folder)
    if state["state"] == "running" and (held := lock(folder)):
        held.close()
        return "killed: the program that started the processes is gone; submit it again to resume"
    ended = ", ".join(f"process {i}: status {s}" for i, s in sorted(state["ended"].items()))
    running = ", ".join(f"process {i}: pid {p}" for i, p in sorted(state["running"].items()))
    return f"{state['state']} ({'; '.join(filter(None, (running, ended)))})"


def cancel(folder) -> str:
    state, held = read_state(folder), lock(folder)
    if held:
        held.close()
        return "nothing runs"
    os.kill(state["pid"], signal.SIGTERM)
    return f"SIGTERM to process {state['pid']}: the run saves and exits with 143"


def run(folder: pathlib.Path) -> int:
    """Runs the processes of a launch; returns its status."""
    held = lock(folder)
    if not held:
        raise ConfigError(f"the launch {folder} runs already: python -m launch status {folder}")
    settings = json.loads((folder / "local.json").read_text(encoding="utf-8"))
    (folder / "logs").mkdir(exist_ok=True)
    processes = Processes(folder, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, processes.stop)
    if settings["prepare"]:
        done = subprocess.run(["bash", str(folder / "task.sh"), "prepare"])
        if done.returncode or processes.stopping:
            return 143 if processes.stopping else done.returncode
    processes.start()
    processes.record("running")
    status = processes.wait()
    states = {0: "finished", 143: "stopped; submit it again to resume"}
    processes.record(states.get(status, "failed"))
    for index, ended in sorted(processes.ended.items()):
        if ended not in (0, 143):
            print(
                f"process {index} ended with status {ended}: {processes.log(index)}",
                file=sys.stderr,
            )
    return status


def main(argv):
    folder, *rest = argv
    folder = pathlib.Path(folder)
    if rest:
        print({"--status": describe, "--cancel": cancel}[rest[0]](folder))
        return
    status = run(folder)
    if status:
        sys.stdout.flush()
        raise SystemExit(status)


if __name__ == "__main__":
    cli.main(main, resumes=True)
