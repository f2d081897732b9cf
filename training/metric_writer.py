"""metrics.jsonl, TensorBoard events, Weights & Biases and the lock on a run directory, local or in a bucket.

metrics.jsonl has every update and evaluation once, whatever interrupted the run: a resumed run first
removes the lines after the restored step, and lines are on disk before a checkpoint counts their steps.
"""

import contextlib
import datetime
import fcntl
import hashlib
import io
import json
import logging
import math
import os
import platform
import sys
import time
import uuid

from training import paths, preemption
from training.config import ConfigError
from training.sharding import is_main_process

log = logging.getLogger("triptych")

ENDED = "ended.json"  # how the last start of a run ended; absent while it runs and after a kill


class MetricWriter:
    """Writes one run's metrics and holds the run's lock until `close`; idle except on the main process.

    In a bucket objects are replaced whole, so lines stay in memory until `flush`.

    Args:
      folder: run directory.
      tensorboard: also write event files.
      wandb: project of Weights & Biases to write to; '' for none.

    Raises ConfigError if another program is using the run directory.
    """

    def __init__(self, folder, tensorboard, wandb=""):
        self._folder, self._tensorboard, self._wandb = paths.of(folder), tensorboard, wandb
        self._path, self._is_remote = self._folder / "metrics.jsonl", paths.remote(folder)
        self._lock = self._file = self._events = self._wandb_run = None
        if is_main_process():
            self._lock = (_Claim if self._is_remote else FileLock)(self._folder)

    def open(self, step):
        """Opens the files; lines after `step` are removed, all of them for -1 (a new run)."""
        if self._lock is None:
            return
        (self._folder / ENDED).unlink(missing_ok=True)
        kept = lines_up_to(self._path, step) if self._path.exists() else ""
        if self._is_remote:
            self._file = io.StringIO()
            self._file.write(kept)
        else:
            paths.write_text(self._path, kept)
            self._file = self._path.open("a", encoding="utf-8")
        if self._tensorboard and self._is_remote:
            log.info("no TensorBoard events in a bucket: metrics.jsonl has the same numbers")
        elif self._tensorboard:
            self._events = _Events(self._folder, step + 1)
        if self._wandb:
            self._wandb_run = _start_wandb(self._folder, self._wandb)

    def write(self, step, split, values):
        """Appends one line {'step', 'split', **values}; `flush` puts it on disk."""
        if self._file is None:
            return
        with paths.naming(self._path):
            self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        if self._wandb_run is not None:
            named = {f"{split}/{name}": value for name, value in values.items()}
            self._wandb_run.log({"step": step, **named})
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._events.write(f"{split}/{name}", value, step)

    def write_text(self, step, name, text):
        """Writes Markdown to the event file; metrics.jsonl has numbers alone."""
        if self._events is not None:
            self._events.write_text(name, text, step)

    def flush(self):
        """Everything is on disk when this returns; called before each save.

        Raises ConfigError if another program has taken over a run in a bucket."""
        if self._file is None:
            return
        if not self._lock.is_held():
            raise ConfigError(
                f"another program has taken over {str(self._folder)!r}; this one ends without saving: keep "
                f"one of them, or choose another --workdir"
            )
        with paths.naming(self._path):
            self._file.flush()
            if self._is_remote:
                self._path.write_text(self._file.getvalue())
            else:
                os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()

    def close(self):
        """Writes the rest, closes the files and releases the lock."""
        if self._is_remote and self._lock is not None and self._lock.is_held():
            self.flush()
        if self._wandb_run is not None:
            self._wandb_run.finish()
        for file in (self._events, self._file):
            if file is not None:
                with contextlib.suppress(OSError):  # a full disk was reported when the write failed
                    file.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self._file is not None:
            with contextlib.suppress(OSError):
                paths.write_text(self._folder / ENDED, json.dumps(_ending(error)) + "\n")
        self.close()


def _ending(error):
    """The content of ended.json after an exception, None for none."""
    state = "failed"
    if error is None:
        state = "finished"
    elif isinstance(error, (preemption.Preempted, KeyboardInterrupt)):
        state = "preempted"
    message = " ".join(str(error).split())[:400] if state == "failed" else ""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"state": state, "time": now, "message": message}


def _start_wandb(folder, project):
    """The run of Weights & Biases that belongs to a run directory: the same one after a resume. Its group is
    the directory above, such as a sweep."""
    import wandb

    place, config = paths.absolute(folder), folder / "config.json"
    run = wandb.init(
        project=project, id=hashlib.sha256(str(place).encode()).hexdigest()[:16], resume="allow",
        name=place.name, group=place.parent.name, reinit="create_new",
        dir=None if paths.remote(folder) else str(place),
        config=json.loads(config.read_text(encoding="utf-8")) if config.exists() else {},
        settings=wandb.Settings(console="off"),
    )  # fmt: skip
    run.define_metric("*", step_metric="step")  # steps may be logged again after a resume
    return run


class _Events:
    """A TensorBoard event file. tensorboardX's SummaryWriter writes on a thread, and blocks the run forever
    once that thread has met a full disk; here an error reaches the run.

    TensorBoard hides the events of earlier files from `first_step` on."""

    def __init__(self, folder, first_step):
        # tensorboardX imports PyTorch where it is installed, which takes 1.4 s, for a type of its arguments.
        sys.modules.setdefault("torch", None)
        try:
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        finally:
            if sys.modules["torch"] is None:
                del sys.modules["torch"]

        self._path, self._event = folder / "events", Event
        self._scalar, self._text = summary.scalar, summary.text
        with paths.naming(self._path):
            self._writer = EventsWriter(str(self._path))
            self._add(first_step, file_version="brain.Event:2")
            self._add(first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, name, value, step):
        self._add(step, summary=self._scalar(name, value))

    def write_text(self, name, text, step):
        self._add(step, summary=self._text(name, text))

    def flush(self):
        with paths.naming(self._path):
            self._writer.flush()

    def close(self):
        self._writer.close()

    def _add(self, step, **content):
        with paths.naming(self._path):
            self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))


class FileLock:
    """A POSIX lock on `.lock`. Raises ConfigError if another program holds it."""

    def __init__(self, folder):
        self._file = (folder / ".lock").open("a+")  # a program that is refused leaves the content
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigError(
                f"another program is using {str(folder)!r}; wait for it to end, or choose another --workdir"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{platform.node()}\n")  # tools.watch looks for the lock on this host
        self._file.flush()

    def is_held(self):
        return True

    def release(self):
        self._file.close()


class _Claim:
    """Objects cannot be locked: a run in a bucket belongs to the program that claimed it last. An earlier
    one finds its claim replaced at its next flush and ends. A claim blocks nobody after its owner died.
    """

    def __init__(self, folder):
        self._path, self._token = folder / ".lock", uuid.uuid4().hex
        owner = {
            "token": self._token,
            "host": platform.node(),
            "process": os.getpid(),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        if self._path.exists():
            log.warning(f"{folder} is claimed by another program "
                        f"({self._path.read_text().strip()[:200]}): this one takes the run over, and "
                        f"the other ends at its next save if it still runs")  # fmt: skip
        self._path.write_text(json.dumps(owner) + "\n")

    def is_held(self):
        try:
            return json.loads(self._path.read_text())["token"] == self._token
        except (FileNotFoundError, json.JSONDecodeError):
            return False

    def release(self):
        if self.is_held():
            self._path.unlink(missing_ok=True)


def lines_up_to(path, step, after=-1):
    """The lines of steps after `after` up to `step` as one text, without lines that are incomplete."""
    kept = []
    for line in path.read_bytes().decode("utf-8-sig", errors="replace").split("\n"):
        try:
            if after < json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return "".join(kept)
