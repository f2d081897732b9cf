"""Files: patterns, reading bytes or text, digests, the cache directory, atomic writes and locks.

Used by every other file of `data/`. Each error names the file and the remedy.
"""

import contextlib
import errno
import glob
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shlex
import time
import zlib
from pathlib import Path

from etils import epath

from data.file_kinds import (
    check_text,
    compression_of,
    ends_lines_with_cr,
    identify,
    open_compressed,
    read_head,
    zstd,
)

_BRACES = re.compile(r"\{([^{}]*)\}")
# Copies that editors and people leave beside a file: a pattern does not read them.
LEFTOVERS = (".bak", ".backup", ".old", ".orig", ".swp", ".tmp", "~")


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


def expand(pattern: str, log=lambda line: None) -> list[str]:
    """The sorted files that match a pattern with `*`, `?`, `[...]`, `**` and `{a,b}`, without repeats.

    A path that exists is that file, whatever characters it has. `LEFTOVERS` that match a pattern are
    left out and logged. Raises FileNotFoundError if no file matches, or none matches one choice of the
    braces, ValueError if a pattern matches a file both plain and compressed.
    """
    pattern = os.path.expanduser(pattern)
    patterns = [pattern]
    while not os.path.isfile(pattern) and any(_BRACES.search(p) for p in patterns):
        patterns = [
            _BRACES.sub(lambda _, choice=choice: choice, p, count=1)
            for p in patterns
            for choice in (_BRACES.search(p).group(1).split(",") if _BRACES.search(p) else ("",))
        ]
    files = {p for p in patterns if os.path.isfile(p)}
    found = {p: glob.glob(_literal_start(p), recursive=True) for p in patterns}
    matched = {f for names in found.values() for f in names} - files
    leftovers = sorted(f for f in matched if f.lower().endswith(LEFTOVERS))
    if leftovers:
        log(
            f"not read, as copies beside the data: {', '.join(leftovers[:3])}"
            + (f" and {len(leftovers) - 3} more" if len(leftovers) > 3 else "")
        )
    matched = {f for f in matched - set(leftovers) if os.path.isfile(f)}
    # A link to a folder leads to the same files again.
    same = {(os.path.realpath(f), os.path.basename(f)): f for f in sorted(matched, reverse=True)}
    if again := len(matched) - len(same):
        log(f"not read again: {again:,} files of {pattern!r} that links lead to twice")
    matched = set(same.values())
    for path in sorted(matched):
        plain = path.removesuffix(compression_of(path))
        if plain != path and plain in matched:
            raise ValueError(
                f"{pattern!r} matches {plain} and {path}, which look like one file, plain and "
                "compressed: remove one, or write a pattern that matches one"
            )
    files |= matched
    if not files:
        hint = "check the path "
        if os.path.isdir(patterns[0]):
            hint = f"write {pattern.rstrip('/')}/** "
        elif "://" in pattern:
            hint = "copy the files to a disk of this machine "
        elif "," in pattern and "{" not in pattern:
            hint = "write several names as {a,b} "
        raise FileNotFoundError(
            f"no file matches {pattern!r} (in {os.getcwd()}): {hint}and quote the pattern so that "
            "the shell does not expand it"
        )
    if missing := [p for p in patterns if not found[p]]:
        raise FileNotFoundError(
            f"no file matches {missing[0]!r}, one of the choices of {pattern!r}: correct the name, or take "
            "it out of the braces"
        )
    return sorted(files)


def _literal_start(pattern: str) -> str:
    """The pattern with its first components escaped as far as they exist: `run [1]/*.txt` is a folder."""
    parts = pattern.split("/")
    for count in range(len(parts), 0, -1):
        start = "/".join(parts[:count])
        if start and os.path.lexists(start):
            return "/".join([glob.escape(start), *parts[count:]])
    return pattern


@contextlib.contextmanager
def reading(path: str):
    """Opens a plain or compressed file; yields (stream, raw), where raw.tell() is the progress in bytes.

    Raises OSError or ValueError of one line that names the file if it cannot be read.
    """
    damaged = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
    compression = ""
    try:
        compression = identify(path).compression
        if compression == ".zst":
            damaged += (zstd().ZstdError,)
        elif compression == ".bz2":
            damaged += (OSError,)  # without an errno
        with open(path, "rb") as raw:
            if not compression:
                yield raw, raw
                return
            if not os.path.getsize(path):
                raise EOFError("it is empty")
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


@contextlib.contextmanager
def reading_text(path: str):
    """As `reading`, for a file of text: every line of `stream` ends with b"\\n".

    A file whose lines end with a carriage return alone is read as if they ended with a line feed, byte
    for byte. Raises ValueError for a file that is not text (`file_kinds.NOT_TEXT`) or has a NUL byte.
    """
    with reading(path) as (stream, raw):
        head = read_head(stream)
        check_text(path, head)
        yield io.BufferedReader(_TextBytes(path, stream, ends_lines_with_cr(head)), 1 << 16), raw


class _TextBytes(io.RawIOBase):
    """The bytes of a stream, checked for NUL, with lone carriage returns as line feeds if `from_cr`."""

    def __init__(self, path, stream, from_cr):
        self._path, self._stream, self._from_cr = path, stream, from_cr

    def readable(self):
        return True

    def seekable(self):
        return self._stream.seekable()

    def seek(self, offset, whence=0):
        return self._stream.seek(offset, whence)

    def tell(self):
        return self._stream.tell()

    def readinto(self, buffer):
        data = self._checked(self._stream.read(max(1, len(buffer) - 1)))
        buffer[: len(data)] = data
        return len(data)

    def readall(self):
        return self._checked(self._stream.read())

    def _checked(self, data):
        if b"\0" in data:
            offset = self._stream.tell() - len(data) + data.index(b"\0")
            raise ValueError(
                f"{self._path} has a NUL byte at byte {offset} (line {line_at(self._path, offset)}): it "
                "is not UTF-8 text; convert it, or remove the byte with tr -d '\\000'"
            )
        if self._from_cr and b"\r" in data:
            if data.endswith(b"\r"):
                data += self._stream.read(1)
            data = re.sub(rb"\r(?!\n)", b"\n", data)
        return data


def line_at(path: str, offset: int) -> int:
    """The number of the line of byte `offset` of the uncompressed file."""
    with reading(path) as (stream, _):
        end = b"\r" if ends_lines_with_cr(read_head(stream)) else b"\n"
        line, left = 1, offset
        while left > 0 and (block := stream.read(min(left, 1 << 20))):
            line += block.count(end)
            left -= len(block)
    return line


def utf8_error(path: str, offset: int) -> ValueError:
    """The error for invalid UTF-8 at byte `offset` of the uncompressed file, with its line number."""
    return ValueError(
        f"{path} is not UTF-8 at byte {offset} (line {line_at(path, offset)}): convert it from its "
        "encoding, such as windows-1252, gb18030 or shift_jis: "
        f"`iconv -f ENCODING -t utf-8 {shlex.quote(str(path))} > NEW`, or leave it out"
    )


def text_lines(stream, name: str):
    """Yields (number from 1, text) of each line of a stream of bytes, without its end and a byte order mark.

    name: of the stream, for errors; it may be no file. Raises ValueError for a line that is not UTF-8."""
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name} is not UTF-8 at line {number} (byte {error.start} of it): convert it from its "
                "encoding, such as windows-1252: `iconv -f ENCODING -t utf-8`"
            ) from error
        yield number, text.removeprefix("\ufeff") if number == 1 else text


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
    except BrokenPipeError:  # nobody reads standard output: the program ends
        raise
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
