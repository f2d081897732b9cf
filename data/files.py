"""Files as the data room meets them: patterns, compression, UTF-8, the cache directory.

Below `data.sources` and `data.labelled`; every error names the file and what to do about it.
"""

import contextlib
import glob
import gzip
import hashlib
import json
import lzma
import os
import re
import time
import zlib
from pathlib import Path

from etils import epath

_BRACES = re.compile(r"\{([^{}]*)\}")


def cache_directory(cache_dir: str) -> Path:
    """The directory of what can be made again: `cache_dir`, $TRIPTYCH_CACHE or ~/.cache/triptych."""
    chosen = cache_dir or os.environ.get("TRIPTYCH_CACHE", "") or "~/.cache/triptych"
    path = Path(chosen).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"the cache directory {path} cannot be made ({error.strerror}): set data.cache_dir or "
            "$TRIPTYCH_CACHE to a directory that can be written"
        ) from error
    return path


def expand(pattern: str) -> list[str]:
    """Files that match a pattern with `*`, `?`, `[...]`, `**` and `{a,b}`, sorted, each once.

    Raises FileNotFoundError when there is none.
    """
    patterns = [os.path.expanduser(pattern)]
    while any(_BRACES.search(p) for p in patterns):
        patterns = [
            _BRACES.sub(lambda _, choice=choice: choice, p, count=1)
            for p in patterns
            for choice in (_BRACES.search(p).group(1).split(",") if _BRACES.search(p) else ("",))
        ]
    files = set()
    for each in patterns:
        files.update(f for f in glob.glob(each, recursive=True) if os.path.isfile(f))
    if not files:
        hint = (
            f"write {pattern.rstrip('/')}/** " if os.path.isdir(patterns[0]) else "check the path "
        )
        raise FileNotFoundError(
            f"no file matches {pattern!r} (from {os.getcwd()}): {hint}and quote the pattern "
            "so that the shell leaves it alone"
        )
    return sorted(files)


def compressed(path: str) -> bool:
    """Whether a file is read through gzip or xz, by its name."""
    return path.endswith((".gz", ".xz"))


@contextlib.contextmanager
def reading(path: str):
    """Opens a plain, .gz or .xz file for its bytes; yields (stream, raw), raw.tell() being progress.

    Raises OSError or ValueError of one line that names the file when it cannot be read.
    """
    try:
        with open(path, "rb") as raw:
            stream = raw
            if path.endswith(".gz"):
                stream = gzip.GzipFile(fileobj=raw)
            elif path.endswith(".xz"):
                stream = lzma.LZMAFile(raw)  # noqa: SIM115
            yield stream, raw
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a whole compressed file ({error}): fetch or compress it again"
        ) from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise type(error)(f"cannot read {path} ({error.strerror}): check the path") from error


def utf8_error(path: str, offset: int) -> ValueError:
    """The error for a byte that is not UTF-8 at `offset` of the (uncompressed) file, with its line."""
    line, left = 1, offset
    with reading(path) as (stream, _):
        while left > 0 and (block := stream.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            left -= len(block)
    return ValueError(
        f"{path} is not UTF-8 at byte {offset} (line {line}): convert it, for example "
        f"`iconv -f latin1 -t utf-8 {path} > new.txt`, or leave it out"
    )


def digest(*parts) -> str:
    """A hexadecimal digest of JSON-able parts: the one way identities are made from settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_hash(path: str) -> str:
    """The digest of a file's bytes as they lie on the disk."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def write_atomically(path: str | Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it: it is there whole, or not at all.

    An object of a bucket (gs://) is written whole as it is."""
    if "://" in str(path):
        epath.Path(path).write_bytes(data)
        return
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def disk_error(path, error: OSError) -> OSError:
    """One line for a write that failed (a full disk, a limit, a permission)."""
    wrapped = OSError(
        f"cannot write {path} ({error.strerror}): free some space or set data.cache_dir to "
        "another disk, then start again; what was finished is kept"
    )
    wrapped.errno = error.errno
    return wrapped


@contextlib.contextmanager
def locked(path: Path, log):
    """Holds the lock file `path` for one process at a time; a second one waits, and says so."""
    import filelock

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log(f"waiting for another process that holds {path}")
        started = time.monotonic()
        lock.acquire()
        log(f"waited {time.monotonic() - started:.0f} s")
    try:
        yield
    finally:
        lock.release()
