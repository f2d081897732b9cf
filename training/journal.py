"""metrics.jsonl and the claim on a run directory, for training/logs.py: on a file system, in a bucket.

Both keep the law of logs.py: lines beyond the restored step are cut, and none is lost that a checkpoint
counts as done.
"""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import platform
import uuid

from training import paths
from training.config import ConfigError

log = logging.getLogger("triptych")


def open_journal(folder):
    """The journal of a run directory; it holds the run's lock until `close`."""
    return (_Bucket if paths.remote(folder) else _File)(paths.of(folder))


class _File:
    """A POSIX lock on `.lock`, and a file that is appended to.

    Raises ConfigError if another program holds the lock."""

    def __init__(self, folder):
        self.path = folder / "metrics.jsonl"
        self._file = None
        self._lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ConfigError(
                f"another program is at work in {str(folder)!r}; wait for it, or choose another --workdir"
            ) from None

    def begin(self, step):
        """Keeps the lines of steps up to `step` and opens the file for more."""
        if self.path.exists():
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(up_to(self.path, step), encoding="utf-8")
            temporary.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, line):
        """Appends a line."""
        self._file.write(line)

    def flush(self):
        """On disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self):
        """Lets go of the file and of the run."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk was reported when the write failed
                self._file.close()
        self._lock.close()


class _Bucket:
    """Objects are replaced whole and cannot be locked, so lines wait in memory until `flush`, which comes
    before every save, and the run belongs to whoever claimed it last: an earlier program sees its
    claim gone at its next flush, writes nothing more and ends. No claim outlives its holder's death.
    """

    def __init__(self, folder):
        self.path, self._claim = folder / "metrics.jsonl", folder / ".lock"
        self._folder, self._lines, self._begun = folder, [], False
        self._token = uuid.uuid4().hex
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        holder = {
            "token": self._token,
            "host": platform.node(),
            "process": os.getpid(),
            "time": now,
        }
        if self._claim.exists():
            log.warning(f"{folder} was claimed and not let go ({self._claim.read_text().strip()[:200]}): "
                        f"this program takes it over; one that is still at work there will end")  # fmt: skip
        self._claim.write_text(json.dumps(holder) + "\n")

    def begin(self, step):
        """Keeps the lines of steps up to `step`."""
        if self.path.exists():
            self._lines = [up_to(self.path, step)]
        self._begun = True

    def write(self, line):
        """Keeps a line for the next flush."""
        self._lines.append(line)

    def flush(self):
        """Writes the whole object; raises ConfigError if another program has claimed the run."""
        if not self._ours():
            raise ConfigError(
                f"another program was started in {str(self._folder)!r} and has taken the run over; this "
                f"one ends without saving: keep one of them, or choose another --workdir"
            )
        self._lines = ["".join(self._lines)]
        self.path.write_text(self._lines[0])

    def close(self):
        """Writes what is left and gives the claim back, where it is still ours."""
        if self._ours():
            if self._begun:
                self.flush()
            self._claim.unlink(missing_ok=True)

    def _ours(self):
        try:
            return json.loads(self._claim.read_text())["token"] == self._token
        except (FileNotFoundError, json.JSONDecodeError):
            return False


def up_to(path, step):
    """The lines of steps up to `step` as one text; a torn last line goes too."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            break
    return "".join(kept)
