"""A directory is written whole or not at all: a full disk or a read-only target is one line."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from training import paths
from training.config import ConfigError

# Words of the system's errors, which tensorstore (below Orbax) raises as ValueError, and their meaning.
_REASONS = {
    "No space left": "the disk is full",
    "RESOURCE_EXHAUSTED": "the disk is full",
    "File too large": "a file would be too large",
    "quota exceeded": "the disk quota is used up",
    "Read-only file system": "the file system is read-only",
    "Permission denied": "permission denied",
    "PERMISSION_DENIED": "permission denied",
}


@contextlib.contextmanager
def written_whole(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new directory to write to, which becomes `target` (missing or empty) when the block ends without
    an error; otherwise nothing is left.

    Raises ConfigError of one line if the file system refuses."""
    if paths.remote(str(target)):
        yield target
        return
    partial = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        os.replace(partial, target)
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        reason = next((reason for words, reason in _REASONS.items() if words in text), "")
        if not reason and (isinstance(error, ConfigError) or not isinstance(error, OSError)):
            raise
        raise ConfigError(
            f"cannot write {target} ({reason or text[:160]}); free disk space or choose another directory, "
            "then run it again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
