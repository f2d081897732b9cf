"""Files: patterns, compression, UTF-8, digests, the cache directory, atomic writes and locks.

Used by every other file of `data/`. Each error names the file and the remedy.
"""

import bz2
import contextlib
import errno
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
COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst")


def cache_directory(cache_dir: str) -> Path:
    """The directory of reproducible files: `cache_dir`, $TRIPTYCH_CACHE or ~/.cache/triptych."""
    chosen = cache_dir or os.environ.get("TRIPTYCH_CACHE", "") or "~/.cache/triptych"
    path = Path(chosen).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot create the cache directory {path} ({error.strerror}): set data.cache_dir or "
            "$TRIPTYCH_CACHE to a writable directory"
        ) from error
    return path


def expand(pattern: str) -> list[str]:
    """The sorted files that match a pattern with `*`, `?`, `[...]`, `**` and `{a,b}`, without repeats.

    Raises FileNotFoundError if no file matches.
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
            f"no file matches {pattern!r} (in {os.getcwd()}): {hint}and quote the pattern so that "
            "the shell does not expand it"
        )
    return sorted(files)


def compression_of(path: str) -> str:
    """'.gz', '.xz', '.bz2' or '.zst' by the file's name; '' for an uncompressed file."""
    suffix = os.path.splitext(path)[1]
    return suffix if suffix in COMPRESSIONS else ""


def open_compressed(file, compression: str, mode: str):
    """Opens a path or a binary file object through a compression ('' for none)."""
    if compression == ".zst":
        return _zstd().open(file, mode)
    return {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, "": open}[compression](file, mode)


def _zstd():
    """The module of Zstandard: the standard library's from Python 3.14 on, before that its backport."""
    try:
        from compression import zstd
    except ImportError:
        try:
            from backports import zstd
        except ImportError as error:
            raise ModuleNotFoundError(
                ".zst files need the package backports.zstd: run `pip install backports.zstd`"
            ) from error
    return zstd


@contextlib.contextmanager
def reading(path: str):
    """Opens a plain or compressed file; yields (stream, raw), where raw.tell() is the progress in bytes.

    Raises OSError or ValueError of one line that names the file if it cannot be read.
    """
    compression = compression_of(path)
    damaged = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
    if compression == ".zst":
        damaged += (_zstd().ZstdError,)
    elif compression == ".bz2":
        damaged += (OSError,)  # without an errno
    try:
        with open(path, "rb") as raw:
            if not compression:
                yield raw, raw
                return
            with open_compressed(raw, compression, "rb") as stream:
                yield stream, raw
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise type(error)(f"cannot read {path} ({error.strerror}): check the path") from error
    except damaged as error:
        if getattr(error, "errno", None) is not None:  # the disk, not the data
            raise
        raise ValueError(
            f"{path} is not a complete {compression} file ({error}): download or compress it again"
        ) from error


def utf8_error(path: str, offset: int) -> ValueError:
    """The error for invalid UTF-8 at byte `offset` of the uncompressed file, with its line number."""
    line, left = 1, offset
    with reading(path) as (stream, _):
        while left > 0 and (block := stream.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            left -= len(block)
    return ValueError(
        f"{path} is not UTF-8 at byte {offset} (line {line}): convert it, for example with "
        f"`iconv -f latin1 -t utf-8 {path} > new.txt`, or leave it out"
    )


def digest(*parts) -> str:
    """The hexadecimal digest of JSON-serializable parts. Every identity in `data/` is made here."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_hash(path: str) -> str:
    """The digest of a file's bytes on disk."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def write_atomically(path: str | Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that it is never half-written.

    An object of a bucket (gs://) is written directly: the bucket makes that atomic."""
    if "://" in str(path):
        epath.Path(path).write_bytes(data)
        return
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def replacing(path: str | Path, suffix: str = ""):
    """Yields a temporary path beside `path`, renamed to `path` on success and removed on failure."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}{suffix}")
    try:
        with disk_errors(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path):
    """Turns a failed write (full disk, size limit, permission) into an error of one line."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # already one line of ours
            raise
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if is_full else "make it writable"
        raise OSError(
            f"cannot write {path} ({error.strerror}): {remedy}, or name another place (data.cache_dir, "
            "$TRIPTYCH_CACHE, --workdir), then start again; finished work is kept"
        ) from error


@contextlib.contextmanager
def locked(path: Path, log):
    """Holds the lock file `path`; logs if it has to wait for another process."""
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
