"""Identifies a file: its compression, its format, and whether it is readable text.

By its first bytes, then by its name. data/files.py opens every file through this.
"""

import bz2
import codecs
import gzip
import lzma
import os
import re
import shlex
from dataclasses import dataclass

# Suffix -> the first bytes of such a file.
COMPRESSIONS = {
    ".gz": b"\x1f\x8b",
    ".xz": b"\xfd7zXZ\x00",
    ".bz2": b"BZh",  # then a digit and the first block, see `identify`
    ".zst": b"\x28\xb5\x2f\xfd",
}
_BZ2_START = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
_HEAD = 1 << 16  # bytes that decide about the encoding and the line ends,
_LONGEST_HEAD = 1 << 26  # or so many, for a line end among them

_PANDAS = "with pandas, {}(FILE).to_json('NEW.jsonl', orient='records', lines=True)"
_ICONV = "iconv -f {encoding} -t utf-8 {path} > NEW"
# Files other than text: (name, pattern of the first bytes, remedy).
NOT_TEXT = (
    ("UTF-32", rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "convert it: " + _ICONV),
    ("UTF-16", rb"\xff\xfe|\xfe\xff", "convert it: " + _ICONV),
    ("a zip archive, as spreadsheets (.xlsx, .ods) are too", rb"PK\x03\x04|PK\x05\x06",
     "unpack it, or export a spreadsheet as CSV in UTF-8"),
    ("a Parquet file", rb"PAR1", "convert it: " + _PANDAS.format("read_parquet")),
    ("an Arrow or Feather file", rb"ARROW1",
     "convert it: " + _PANDAS.format("read_feather")),
    ("a tar archive", rb"(?s).{257}ustar", "unpack it with tar -xf"),
    ("a 7z or RAR archive", rb"7z\xbc\xaf\x27\x1c|Rar!\x1a", "unpack it"),
    ("an old Office document", rb"\xd0\xcf\x11\xe0", "export it as CSV or text in UTF-8"),
    ("a PDF document", rb"%PDF-", "extract its text, for example with pdftotext"),
    ("an SQLite database", rb"SQLite format 3\x00", "export the table as CSV"),
    ("an HDF5 file", rb"\x89HDF", "export its text"),
    ("a NumPy file", rb"\x93NUMPY", "export its text"),
    ("a Python pickle", rb"\x80[\x02-\x05]", "export its text"),
    ("an image, a sound or a video",
     rb"(?s)\x89PNG|\xff\xd8\xff|GIF8|II\*\x00|MM\x00\*|RIFF.{4}(WAVE|WEBP|AVI )|ID3|OggS|fLaC|.{4}ftyp",
     "leave it out"),
    ("a program", rb"\x7fELF|MZ.\x00|\xca\xfe\xba\xbe|\xcf\xfa\xed\xfe|\x00asm", "leave it out"),
    ("an RTF document", rb"\{\\rtf", "export it as text in UTF-8"),
    ("a Git LFS pointer, not the data", rb"version https://git-lfs", "run git lfs pull"),
    ("compressed twice", rb"\x1f\x8b|\xfd7zXZ\x00|BZh[1-9]1AY&SY|\x28\xb5\x2f\xfd",
     "decompress it once"),
    ("compressed in another way (lz4, lzip, lzma, compress)",
     rb"\x04\x22\x4d\x18|LZIP\x01|\x5d\x00\x00|\x1f\x9d", "compress it with gzip, xz, bzip2 or zstd"),
)  # fmt: skip


@dataclass(frozen=True)
class FileKind:
    """compression: '.gz', '.xz', '.bz2', '.zst' or ''. format: the last other suffix, lowercase."""

    compression: str
    format: str


def identify(path: str) -> FileKind:
    """Identifies the compression by the first bytes, otherwise by the name, and the format by the name.

    Raises OSError if it cannot be opened.
    """
    with open(path, "rb") as stream:
        start = stream.read(10)
    named = compression_of(path)
    by_bytes = [
        suffix
        for suffix, magic in COMPRESSIONS.items()
        if start.startswith(magic) and (suffix != ".bz2" or _BZ2_START.match(start))
    ]
    stem = str(path)[: len(str(path)) - len(named)]
    return FileKind((by_bytes or [named])[0], os.path.splitext(stem)[1].lower())


def compression_of(name: str) -> str:
    """'.gz', '.xz', '.bz2' or '.zst' by the name of a file; '' for an uncompressed file."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in COMPRESSIONS else ""


def open_compressed(file, compression: str, mode: str):
    """Opens a path or a binary file object through a compression ('' for none)."""
    if compression == ".zst":
        return zstd().open(file, mode)
    return {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, "": open}[compression](file, mode)


def zstd():
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


def check_text(path: str, head: bytes) -> None:
    """Raises ValueError with the remedy if the first bytes (uncompressed) do not look like UTF-8 text."""
    names = {"path": shlex.quote(str(path))}
    for name, pattern, remedy in NOT_TEXT:
        if re.match(pattern, head):
            remedy = remedy.format(**names, encoding=name.lower())
            raise ValueError(f"{path} is {name}: {remedy}")
    even, odd = head[::2].count(0), head[1::2].count(0)
    one_sided = max(even, odd) >= 2 and min(even, odd) <= 0.1 * max(even, odd)
    encoding = "utf-16le" if odd > even else "utf-16be"
    is_text = _is_utf8(head, encoding)
    if one_sided and is_text and (max(even, odd) > len(head) / 8 or not _is_utf8(head)):
        remedy = _ICONV.format(**names, encoding=encoding)
        raise ValueError(f"{path} is UTF-16 without a byte order mark: convert it: {remedy}")


def _is_utf8(head, encoding="utf-8"):
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def ends_lines_with_cr(head: bytes) -> bool:
    """Whether most lines of a text end with a carriage return alone, as on old Macs."""
    return head.count(b"\r") - head.count(b"\r\n") > head.count(b"\n")


def read_head(stream) -> bytes:
    """The first bytes of a stream, at least its first line end; the stream is then at its start again."""
    head = stream.read(_HEAD)
    while (
        not re.search(rb"[\r\n]", head)
        and len(head) < _LONGEST_HEAD
        and (more := stream.read(1 << 20))
    ):
        head += more
    if head.endswith(b"\r"):
        head += stream.read(1)
    stream.seek(0)
    return head
