"""A directory is written whole or not at all: a full disk or a read-only target is one line."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from training import paths
from training.config import ConfigError

# tensorstore, below Orbax, raises ValueError with these words.
_SYSTEM_WORDS = ("No space left", "Read-only file system", "Permission denied", "quota exceeded",
                 "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "File too large")  # fmt: skip


@contextlib.contextmanager
def written_whole(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new directory to write to, whose content is at `target` when the block has ended without an
    error; otherwise nothing is left, and files that `target` had are as they were.

    Raises ConfigError of one line if the file system refuses."""
    if paths.remote(str(target)):
        yield target
        return
    partial = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        if target.is_dir():
            for file in partial.iterdir():
                os.replace(file, target / file.name)
        else:
            os.replace(partial, target)
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        words = [word for word in _SYSTEM_WORDS if word in text]
        if isinstance(error, ConfigError) or not (isinstance(error, OSError) or words):
            raise
        raise ConfigError(
            f"cannot write {target} ({words[0] if words else text[:160]}); free disk space or choose another "
            "directory, then run it again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
