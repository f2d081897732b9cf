"""The file of --output: checked before any work, never overwritten, written in whole lines."""

import os
import sys
from collections.abc import Iterable

from data.files import disk_errors
from tasks import predictions
from training import paths, preemption
from training.config import ConfigError


def check_path(flag: str, path: str) -> None:
    """Raises ConfigError, before any work, for a local file that cannot be written; '' is no file."""
    if not path or paths.remote(path):
        return
    folder = paths.of(path).parent
    if not folder.is_dir():
        raise ConfigError(f"{flag}={path}: {str(folder)!r} is not a directory; create it")
    if os.path.isdir(path):
        raise ConfigError(f"{flag}={path}: it is a directory; name a file")


def check_new(path: str, files: Iterable[str] = (), remedy: str = "remove it") -> None:
    """Like check_path, and raises ConfigError for an --output that exists: its rows would be lost.

    files: that are read; remedy: what the message advises beside another name.
    """
    check_path("--output", path)
    if path and paths.of(path).exists():
        if not paths.remote(path) and any(os.path.samefile(path, file) for file in files):
            raise ConfigError(f"--output={path} is one of the files to read; name another")
        raise ConfigError(f"--output={path} exists; {remedy}, or name another file")


class Writer:
    """Writes rows to a file or to standard output, always as whole lines that are on disk at once.

    Args:
      path: the file; '': standard output.
      form: 'jsonl' or 'tsv'.
      count: items that the file has already; above 0 the rows are appended.

    Attributes:
      count: items written, also by earlier commands.
    """

    def __init__(self, path: str = "", form: str = "jsonl", count: int = 0):
        self.count, self._path, self._form, self._header = count, path, form, []
        self._mode, self._stream = "ab" if count else "wb", None

    def write(self, rows: Iterable[dict], num_items: int | None = None) -> None:
        """Appends the rows of `num_items` items (default: one row each)."""
        rows = list(rows)
        data = "".join(predictions.lines(rows, self._form, self._header)).encode()
        with disk_errors(self._path or "standard output"), preemption.deferred_interrupts():
            if self._stream is None:
                to_file = bool(self._path)
                self._stream = (
                    paths.of(self._path).open(self._mode) if to_file else sys.stdout.buffer
                )
            self._stream.write(data)
            self._stream.flush()
            self.count += len(rows) if num_items is None else num_items

    def close(self) -> None:
        """Closes the file."""
        if self._path and self._stream is not None:
            self._stream.close()
