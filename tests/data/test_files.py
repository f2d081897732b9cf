"""Files: a path that exists is that file, what a pattern leaves out, and what text is."""

import gzip

import pytest

from data.file_kinds import COMPRESSIONS, FileKind, identify, open_compressed
from data.files import expand, reading, reading_text


def names(folder, pattern, log=lambda line: None):
    return [path[len(str(folder)) + 1 :] for path in expand(f"{folder}/{pattern}", log)]


def test_a_path_that_exists_is_that_file_whatever_its_name(tmp_path):
    for name in (
        "run [2013]/a.txt",
        "run [2013]/b.txt",
        "[ab].txt",
        "a.txt",
        "{x,y}.txt",
        "run 2/a.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names(tmp_path, "run [2013]/a.txt") == ["run [2013]/a.txt"]
    assert names(tmp_path, "run [2013]/*.txt") == ["run [2013]/a.txt", "run [2013]/b.txt"]
    assert names(tmp_path, "run [2013]/{a,b}.txt") == ["run [2013]/a.txt", "run [2013]/b.txt"]
    assert names(tmp_path, "[ab].txt") == ["[ab].txt"] and names(tmp_path, "{x,y}.txt") == [
        "{x,y}.txt"
    ]
    assert names(tmp_path, "run [1-3]/a.txt") == ["run 2/a.txt"]
    assert names(tmp_path, "[a-c].txt") == ["a.txt"]


def test_a_pattern_leaves_out_copies_beside_the_data_and_says_so(tmp_path):
    for name in ("a.txt", "a.txt.bak", "a.txt~", "b.TXT.ORIG", "c.txt.swp", "d.txt.tmp"):
        (tmp_path / name).write_text("x")
    said = []
    assert names(tmp_path, "*", said.append) == ["a.txt"]
    assert len(said) == 1 and "a.txt.bak" in said[0] and "and 2 more" in said[0]
    assert names(tmp_path, "a.txt.bak") == ["a.txt.bak"]  # it was named
    with pytest.raises(FileNotFoundError, match="no file matches"):
        expand(f"{tmp_path}/d*")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(ValueError, match="a.txt and .*a.txt.gz, which look like one file"):
        expand(f"{tmp_path}/a.*")
    assert names(tmp_path, "a.txt.gz") == ["a.txt.gz"]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("name", ["a.txt", "A.TXT", "a", "a.txt.gz"])
def test_a_compression_is_known_by_its_first_bytes(tmp_path, suffix, name):
    path = tmp_path / name
    with open_compressed(path, suffix, "wb") as stream:
        stream.write(b"one\n")
    form = ".txt" if "." in name else ""
    assert identify(str(path)) == FileKind(suffix, form)
    with reading(str(path)) as (stream, _):
        assert stream.read() == b"one\n"
    path.write_text("BZh9 is text\n")  # the first letters of bzip2
    if name != "a.txt.gz":
        assert identify(str(path)) == FileKind("", form)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\rb\rc", [b"a\n", b"b\n", b"c"]),
        (b"a\r\rb\r", [b"a\n", b"\n", b"b\n"]),
        (b"a\rb\r\nc\r", [b"a\n", b"b\r\n", b"c\n"]),
        (b"a\rb\rc\n", [b"a\n", b"b\n", b"c\n"]),
        (b"a\r\nb\r\n", [b"a\r\n", b"b\r\n"]),
        (b"a\r\r\nb\r\r\n", [b"a\r\r\n", b"b\r\r\n"]),  # converted to CRLF twice
        (b"50 %\r100 %\nb\nc\n", [b"50 %\r100 %\n", b"b\n", b"c\n"]),
        (b"x" * 65_535 + b"\r" + b"y\r" * 9, [b"x" * 65_535 + b"\n"] + [b"y\n"] * 9),
        (b"x\r" * 99_999, [b"x\n"] * 99_999),
    ],
)
def test_lines_end_with_lf_crlf_or_in_old_files_with_cr(tmp_path, data, lines):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with reading_text(str(path)) as (stream, _):
        assert list(stream) == lines
        stream.seek(1)
        assert stream.read() == b"".join(lines)[1:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("日本語の文\n".encode("utf-16-le") * 40, "UTF-16 without a byte order mark.*-f utf-16le"),
        ("a text\n".encode("utf-16-be"), "UTF-16 without a byte order mark.*-f utf-16be"),
        ("a text\n".encode("utf-16"), "is UTF-16: convert it"),
        ("a text\n".encode("utf-32"), "is UTF-32: convert it"),
        ("a text\n".encode("utf-32-le"), "NUL byte at byte 1 .line 1"),
        (b"one\ntwo\0three\n", "NUL byte at byte 7 .line 2"),
        (b"text\n" * 100_000 + b"\0", "NUL byte at byte 500000 .line 100001"),
        (b"one\rtwo\rth\0ree\r", "NUL byte at byte 10 .line 3"),
        (b"x" * 257 + b"ustar", "tar archive: unpack it"),
        (b"\x80\x04\x95", "Python pickle"),
    ],
)
def test_what_is_not_text_is_refused_with_its_remedy(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"a.txt .*{message}") as caught:
        with reading_text(str(path)) as (stream, _):
            stream.read()
    assert "\n" not in str(caught.value)
    with reading(str(path)) as (stream, _):  # bytes are bytes
        assert stream.read() == data


def test_every_choice_of_braces_must_match_a_file(tmp_path):
    (tmp_path / "train.tsv").write_text("x")
    with pytest.raises(
        FileNotFoundError, match=r"tests.tsv', one of the choices of .*{train,tests}"
    ):
        expand(f"{tmp_path}/{{train,tests}}.tsv")
