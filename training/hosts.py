"""The processes of a run join, and agree before the first update: on versions, config, data and checkpoint.

Each writes a report to the key-value store of JAX's coordinator, and reads the reports of the others. One
that differs, fails or dies is named in one line by all. Used by the entry files and by training/cli.py.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
import threading
import time

import jax
from jax._src import distributed  # its key-value store has no public name; Orbax uses it too

from training import config as config_lib
from training import run_directory
from training.config import ConfigError

log = logging.getLogger("triptych")

JOIN_SECONDS = 300  # for all processes to join; $TRIPTYCH_START_TIMEOUT
DEAD_SECONDS = 30  # without a heartbeat
_BEAT_SECONDS = 2.0
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
VARIABLES = "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID"


def join() -> None:
    """Joins the processes of a run; a single process needs nothing.

    TRIPTYCH_DISTRIBUTED=1 joins a cluster that JAX detects (TPU pods, Slurm, Open MPI, ...). Elsewhere
    `VARIABLES` describe it. Raises ConfigError for variables that describe none.
    """
    if jax.distributed.is_initialized():
        return
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if not address and os.environ.get("TRIPTYCH_DISTRIBUTED") != "1":
        if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
            log.warning(
                f"Slurm runs {os.environ['SLURM_NTASKS']} tasks of this program, which are not joined: set "
                "TRIPTYCH_DISTRIBUTED=1 to make them one run"
            )
        return
    seconds = _integer("TRIPTYCH_START_TIMEOUT", JOIN_SECONDS)
    given = {}
    if address:
        if not address.rpartition(":")[2].isdigit():
            raise ConfigError(
                f"JAX_COORDINATOR_ADDRESS={address!r} has no port; expected HOST:PORT"
            )
        number, index = _integer("JAX_NUM_PROCESSES"), _integer("JAX_PROCESS_ID")
        if not 0 <= index < number:
            raise ConfigError(
                f"JAX_PROCESS_ID={index} is not a process of JAX_NUM_PROCESSES={number}; expected 0 to "
                f"{number - 1}"
            )
        given = {"coordinator_address": address, "num_processes": number, "process_id": index}
    who = f"process {given['process_id']} of {given['num_processes']}" if given else "this process"
    where = f" at {address}" if address else ""
    log.info(f"{who} waits {seconds} s at most for the others{where} ($TRIPTYCH_START_TIMEOUT)")
    # JAX ends the program with a stack trace after its own timeout.
    alarm = threading.Timer(seconds, _give_up, (who, where, seconds))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(**given, initialization_timeout=seconds + 60)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"{who} cannot join the others{where} ({reason}): "
            + (
                "check the address, and that no other program uses its port"
                if address
                else f"JAX detects no cluster here for TRIPTYCH_DISTRIBUTED=1; set {VARIABLES}"
            )
        ) from error
    finally:
        alarm.cancel()
    board()
    if distributed.global_state.process_id:  # the first process logs, the others only warn
        log.setLevel(logging.WARNING)


def _integer(name, default=None):
    try:
        return int(os.environ[name] if default is None else os.environ.get(name, default))
    except (KeyError, ValueError):
        raise ConfigError(
            f"{name}={os.environ.get(name, '')!r} is not an integer; several processes need {VARIABLES}"
        ) from None


def _give_up(who, where, seconds):
    print(
        f"error: {who} waited {seconds} s{where}, and not all processes came: start all of them within this "
        f"time ($TRIPTYCH_START_TIMEOUT), with the same address, and open its port",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    os._exit(1)


class Board:
    """What the processes write for each other, in JAX's key-value store."""

    def __init__(self, client, process: int, count: int):
        self._client, self._process, self._count = client, process, count
        self._round, self._over = 0, None
        self.beat()

    def beat(self) -> None:
        """Sends a heartbeat every few seconds, and listens to the other processes, until `rest`."""
        if self._over is None:
            # process: (its last sign, when it came)
            self._started, self._heard = (
                time.monotonic(),
                {},
            )
            self._over = threading.Event()
            self._thread = threading.Thread(target=self._beat, args=(self._over,), daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """Ends the signs of life: the silence until the next `agree` is not death."""
        self._over.set()
        self._thread.join(timeout=10)
        self._over = None
        with contextlib.suppress(RuntimeError):
            self._write("beat", "")

    def _beat(self, over):
        number = 0
        while not over.wait(_BEAT_SECONDS * bool(number)):
            number += 1
            with contextlib.suppress(RuntimeError):  # the coordinator has ended
                self._write("beat", f"{time.time()}")
                self._listen()

    def _listen(self):
        for process, beat in self._read("beat").items():
            if beat != self._heard.get(process, ("",))[0]:  # '' of one that rests
                self._heard[process] = beat, time.monotonic()

    def _write(self, folder, value):
        self._client.key_value_set(
            f"triptych/{folder}/{self._process}", value, allow_overwrite=True
        )

    def _read(self, folder) -> dict[int, str]:
        found = self._client.key_value_dir_get(f"triptych/{folder}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}

    def agree(self, report: dict, details: dict) -> None:
        """Returns when all processes have called it with equal reports. Raises ConfigError, on all of them,
        if one differs, has failed, or sends no heartbeat.

        Args:
          report: {name: JSON value}.
          details: {name: value} to explain a difference with, such as the digest of each file.
        """
        self.beat()
        self._round += 1
        content = {"report": report, "details": details, "host": platform.node()}
        digest = hashlib.sha256(
            json.dumps(report, sort_keys=True, default=str).encode()
        ).hexdigest()
        self._write(f"{self._round}-report", json.dumps(content, default=str))
        self._write(f"{self._round}-digest", digest)  # after the report that it is about
        digests = self._wait()
        other = sorted(p for p, found in digests.items() if found != digests[0])
        if other:
            raise ConfigError(self._difference(other))

    def _wait(self):
        while True:
            digests = self._read(f"{self._round}-digest")
            missing = sorted({*range(self._count)} - digests.keys())
            if not missing:
                return digests
            for process, message in self._read("failed").items():
                raise ConfigError(f"process {process} stopped: {message}")
            self._listen()
            for process in missing:
                limit = DEAD_SECONDS if process in self._heard else JOIN_SECONDS
                _, heard = self._heard.get(process, ("", self._started))
                if time.monotonic() - heard > limit:
                    raise ConfigError(
                        f"process {process} of {self._count} has sent no heartbeat for {limit} s: it was "
                        "killed, or its host is not reachable; look at its log, and start all again"
                    )
            time.sleep(0.2)

    def _difference(self, other):
        """The line about processes that differ from process 0, equal on all."""
        reports = {p: json.loads(text) for p, text in self._read(f"{self._round}-report").items()}
        first, found = reports[0], reports[other[0]]
        changed = config_lib.difference(first["report"], found["report"])
        both = first["details"].keys() & found["details"].keys()
        pairs = [(name, first["details"][name], found["details"][name]) for name in sorted(both)]
        changed = [each for each in pairs if each[1] != each[2]] + changed
        shown = [
            f"{key.replace('of.', 'of ')[:90]} is {_short(there)}, not {_short(here)}"
            for key, here, there in changed[:2]
        ]
        more = f" (and {len(changed) - 2} more)" if len(changed) > 2 else ""
        others = f" (as do {len(other) - 1} others)" if len(other) > 1 else ""
        return (
            f"process {other[0]} on {found['host']} differs from process 0 on {first['host']}{others}: "
            f"{'; '.join(shown)}{more}; start all processes with the same command, data and versions"
        )

    def leave(self, message: str) -> None:
        """Tells the others why this process ends. The coordinator, whose end ends them, waits until they
        have read it, for 10 s at most."""
        with contextlib.suppress(RuntimeError):
            self._write("failed", message[:400])
            until = time.monotonic() + 10
            while not self._process and time.monotonic() < until:
                if len(self._read("failed")) == self._count:
                    return
                time.sleep(0.1)

    def failure(self) -> str:
        """What another process that ended has left, '' if there is none."""
        with contextlib.suppress(RuntimeError):
            for process, message in self._read("failed").items():
                return f"process {process} stopped: {message}"
        return ""


def _short(value):
    text = str(value)
    return repr(value) if len(text) <= 24 else repr(f"{text[:21]}...")


_board = None


def board() -> Board | None:
    """The board of a run of several processes that joined; None for a single one."""
    global _board
    state = distributed.global_state
    if _board is None and state.client is not None and state.num_processes > 1:
        _board = Board(state.client, state.process_id, state.num_processes)
    return _board


def check_config(config) -> None:
    """Raises ConfigError on all processes if they differ in the resolved config or in a version. Needs no
    device."""
    if board() is not None:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        board().agree({"config": config_lib.to_dict(config), "the version of": versions}, {})


def check_data(config, task, folders) -> None:
    """Raises ConfigError on all processes if they have other data, another model from init_from, or would
    resume from other checkpoints.

    Args:
      config: the config that the source of init_from resolved.
      task: the LoadedTask.
      folders: run directories.
    """
    if board() is not None:
        newest = {folder.name: run_directory.newest_checkpoint(folder) for folder in folders}
        contents = task.manifest().get("contents", {})
        board().agree(
            {
                "config": config_lib.to_dict(config),
                **task.identities,
                "the newest checkpoint of": newest,
            },
            {f"the content of {file}": digest for file, digest in contents.items()},
        )
        board().rest()


def leave(message: str, is_expected: bool) -> str:
    """Tells the other processes of a run why this one ends; returns the message to print: of an unexpected
    error, such as a lost connection, the message of the process that ended first."""
    if _board is None:
        return message
    message = message if is_expected else _board.failure() or message
    _board.leave(message)
    return message
