"""Where a run lies: a folder of this machine, or gs://bucket/run through etils.epath.

The run directory, its checkpoints and its logs ask here; what an object store cannot do as a file
system does (rename in one go, append, lock) is decided here and in training/logs.py.
"""

import os
import pathlib

import fsspec
from etils import epath

from training.config import ConfigError


def remote(path):
    """True for a URL."""
    return "://" in str(path)


def of(path):
    """A path as an object with pathlib's methods: pathlib.Path, or epath.Path for gs://.

    Raises ConfigError for another scheme, and where the package that speaks gs:// is missing."""
    if not remote(path):
        return pathlib.Path(path)
    if not str(path).startswith("gs://"):
        raise ConfigError(
            f"{str(path)!r} has a scheme that is not supported; expected gs://bucket/run or a path, such "
            f"as a mounted network folder"
        )
    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError as error:
        raise ConfigError(
            f"{str(path)!r} needs gcsfs, which is not installed; install the extra [gcs]: "
            f"pip install -e '.[gcs]'"
        ) from error
    return epath.Path(path)


def absolute(path):
    """`of`, made independent of the current directory."""
    return of(path) if remote(path) else of(path).absolute()


def write_text(path, text):
    """Writes a whole file: a reader sees the old one or the new one, never half of it.

    Locally under a temporary name that is then renamed; an object of a bucket is replaced whole."""
    if remote(path):
        path.write_text(text)
        return
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
