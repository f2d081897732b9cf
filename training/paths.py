"""Paths of run directories: a local folder, or gs://bucket/run through etils.epath.

The run directory, its checkpoints and its metrics open their paths here. An object store cannot rename
in one step, append or lock: this file and training/metric_writer.py work around that.
"""

import contextlib
import json
import os
import pathlib

from training.config import ConfigError


def read_object(path):
    """The JSON object in a file; {} if the file is missing, not written whole, or holds anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remote(path):
    """True for a URL."""
    return "://" in str(path)


def of(path):
    """A path as an object with pathlib's methods: pathlib.Path with ~ replaced, or epath.Path for gs://.

    Raises ConfigError for another scheme, or if gcsfs is not installed."""
    if not remote(path):
        return pathlib.Path(os.path.expanduser(path))  # a shell keeps the ~ of --workdir=~/run
    if not str(path).startswith("gs://"):
        raise ConfigError(
            f"the scheme of {str(path)!r} is not supported; expected gs://bucket/run or a path, such as "
            f"a mounted network folder"
        )
    import fsspec  # for URLs alone: it takes 0.2 s
    from etils import epath

    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError as error:
        raise ConfigError(
            f"{str(path)!r} needs gcsfs, which is not installed; install the extra [gcs]: "
            f"pip install -e '.[gcs]'"
        ) from error
    return epath.Path(path)


def make_directory(path, flag):
    """`of(path)`, made with its parents. Raises ConfigError, naming the flag, if it cannot be a directory."""
    folder = of(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--{flag}={str(path)!r} cannot be a directory ({error.strerror}: {error.filename}); choose a "
            f"path below a directory that you may write to"
        ) from error
    return folder


def absolute(path):
    """`of`, independent of the current directory."""
    return of(path) if remote(path) else of(path).absolute()


def same(path, other):
    """Whether both name the same file or directory, of this machine or in a bucket."""
    if remote(path) or remote(other):
        return str(of(path)) == str(of(other))
    return os.path.realpath(path) == os.path.realpath(other)


def write_text(path, text):
    """Writes a whole file, so that a reader sees the old or the new one, never a part.

    A local file is written under a temporary name and renamed; an object is replaced whole."""
    if remote(path):
        path.write_text(text)
        return
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with naming(path):
            temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path):
    """Gives an OSError the name of the file, which Python omits where a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
