"""What tools/scoring.py keeps while it runs: finished results in FILE.partial, and progress."""

import json
import logging
import os
import sys
import time

from data.files import disk_errors
from training import logs, paths, preemption
from training.config import ConfigError

log = logging.getLogger("triptych")


class Results:
    """Results by item number, which FILE.partial keeps as they come.

    Attributes:
      known: {item number: result}.
      path: of the partial file; '' without --output, or where --output is a bucket, which cannot append.
    """

    SUFFIX = ".partial"

    def __init__(self, out: str, identity: dict, count: int):
        """Reads what an earlier command left. Raises ConfigError if it was of other data or another model."""
        self.known, self._stream = {}, None
        self.path = out + self.SUFFIX if out and not paths.remote(out) else ""
        if not self.path:
            return
        if os.path.exists(self.path):
            header, *lines = self._read()
            changed = [key for key in identity if header.get(key) != identity[key]]
            if changed:
                raise ConfigError(
                    f"{self.path} has results of an interrupted command with another {changed[0]} "
                    f"({_shown(header.get(changed[0]))}, now {_shown(identity[changed[0]])}): remove it, or "
                    "name another --output"
                )
            self.known = {line.pop("item"): line for line in lines}
        elif os.path.exists(out):
            self._read_finished(out, identity, count)
        if len(self.known) < count:
            with disk_errors(self.path):
                self._stream = open(self.path, "w", encoding="utf-8")  # noqa: SIM115  closed by close()
            self._write([identity, *({"item": n, **line} for n, line in self.known.items())])

    def _read(self):
        """The lines of the partial file; the last one may be incomplete."""
        with open(self.path, encoding="utf-8") as stream:
            for line in stream:
                try:
                    yield json.loads(line)
                except ValueError:
                    break

    def _read_finished(self, out, identity, count):
        """Takes over a finished file of the same command."""
        try:
            with open(out, encoding="utf-8") as stream:
                content = json.load(stream)
        except ValueError:
            content = None
        if not isinstance(content, dict) or content.get("identity") != identity:
            log.info(f"{out} exists and has other results: it is replaced at the end")
        elif len(content["items"]) == count:
            self.known = dict(enumerate(content["items"]))

    def add(self, found: dict[int, dict]) -> None:
        """Keeps the results of some items."""
        self.known |= found
        if self._stream:
            self._write({"item": n, **line} for n, line in found.items())

    def _write(self, lines):
        with disk_errors(self.path), preemption.deferred_interrupts():
            self._stream.write("".join(json.dumps(line) + "\n" for line in lines))
            self._stream.flush()

    def close(self):
        if self._stream:
            self._stream.close()


def _shown(value):
    return json.dumps(value)[:60]


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
