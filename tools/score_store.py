"""What tools/scoring.py keeps while it runs: finished results in FILE.partial, and progress."""

import json
import logging
import os
import sys
import time

from data.files import disk_errors
from training import config as config_lib
from training import logs, paths, preemption
from training.config import ConfigError

log = logging.getLogger("triptych")
FOREIGN = "and has no results of this command; name another file, or remove it"


class Results:
    """Results by item number, which FILE.partial keeps as they come.

    Attributes:
      known: {item number: result}.
      path: of the partial file; '' without --output, or where --output is a bucket, which cannot append.
    """

    SUFFIX = ".partial"

    def __init__(self, out: str, identity: dict, count: int):
        """Reads what an earlier command left. Raises ConfigError if it was of other data, options or another
        model: neither file is replaced by other results."""
        self.known, self._stream, size = {}, None, 0
        self.path = out + self.SUFFIX if out and not paths.remote(out) else ""
        if self.path and os.path.exists(self.path):
            size = self._read(identity)
        elif out and paths.of(out).exists():
            content = read_finished(out)
            check_same(out, "results", content["identity"], identity)
            if len(content.get("items", ())) == count:
                self.known = dict(enumerate(content["items"]))
        if self.path and len(self.known) < count:
            with disk_errors(self.path):  # appended to: whatever happens, earlier results stay
                self._stream = open(self.path, "ab")  # noqa: SIM115  closed by close()
                self._stream.truncate(size)
            if not size:
                self._write([identity])

    def _read(self, identity):
        """Reads the partial file, and returns the bytes of its whole lines; the last may be incomplete."""
        with open(self.path, "rb") as stream:
            first, size = stream.readline(), 0
            for line in (first, *stream):
                try:
                    found = json.loads(line)
                except ValueError:
                    found = None
                if not isinstance(found, dict) or not line.endswith(b"\n"):
                    break
                if size:
                    self.known[found.pop("item")] = found
                else:
                    check_same(self.path, "results of an interrupted command", found, identity)
                size += len(line)
        if not size and not json.dumps(identity).encode().startswith(first):
            raise ConfigError(f"{self.path} exists {FOREIGN}")
        return size

    def add(self, found: dict[int, dict]) -> None:
        """Keeps the results of some items."""
        self.known |= found
        if self._stream:
            self._write({"item": n, **line} for n, line in found.items())

    def _write(self, lines):
        with disk_errors(self.path), preemption.deferred_interrupts():
            self._stream.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            self._stream.flush()

    def close(self):
        if self._stream:
            with disk_errors(self.path):  # a full disk: it tries again to write
                self._stream.close()


def read_finished(out: str) -> dict:
    """What --output holds of an earlier command. Raises ConfigError for a file of something else."""
    try:
        content = json.loads(paths.of(out).read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("identity"), dict):
        raise ConfigError(f"--output={out} exists {FOREIGN}")
    return content


def check_same(path: str, what: str, found: dict, identity: dict) -> None:
    """Raises ConfigError that names the first difference of two identities."""
    changed = {key: pair for key, *pair in config_lib.difference(found, identity)}
    for key in [*config_lib.flatten(identity), *sorted(changed)]:
        if key in changed:
            was, now = map(_shown, changed[key])
            raise ConfigError(
                f"{path} has {what} with another {key} ({was}, now {now}): remove it, or name another "
                "--output"
            )


def _shown(value):
    """The value, or the end of a long one: runs differ at the end of their path."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"...{text[-57:]}"


class Progress:
    """Items done, items per second, and the time left by the tokens to read."""

    def __init__(self, work: int, known: int, total: int):
        self.done = self.known = known
        self._total, self._work, self._at = total, max(1, work), 0
        self._first = None  # (time, items, work) after the first block, which compiles
        self._shown, self._is_terminal = time.monotonic(), os.isatty(2)
        self.rate = ""

    def add(self, items: int, work: int) -> None:
        """Counts finished items, and reports every few seconds."""
        self.done, self._at, now = self.done + items, self._at + work, time.monotonic()
        if self._first is None:
            self._first = now, self.done, self._at
        began, items, work = self._first
        if self.done > items and now > began:
            self.rate = f", {(self.done - items) / (now - began):,.1f} items/s"
        if now - self._shown < (0.5 if self._is_terminal else 10):
            return
        self._shown, text = now, f"{self.done:,} of {self._total:,} items{self.rate}"
        if self._at > work:
            left = (now - began) * (self._work - self._at) / (self._at - work)
            text += f"  eta {logs.format_duration(left)}"
        if self._is_terminal:
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)
        else:
            log.info(text)

    def close(self):
        """Clears the line of a terminal."""
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
