"""Corpora: source specs, documents in files, and one line of error for every bad input.

Dividing a file for several processes must not change its documents.
"""

import sys

import pytest
from corpora import documents, write

from data import sources
from data.file_kinds import COMPRESSIONS, open_compressed
from data.files import expand


def texts(source, size=1 << 30):
    """The documents of a source whose files are divided into ranges of about `size` bytes."""
    found = []
    for file in range(len(source.files)):
        for file_range in source.ranges(file, size):
            text = ""
            for chunk in source.read(file_range):
                text += chunk.text
                if chunk.is_last:
                    found.append(text.strip("\r\n"))
                    text = ""
            assert not text
    return found


def resolve(spec, separator="blank_line", cache="", field="text"):
    return sources.resolve(spec, separator, field, str(cache), lambda line: None)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_spec_is_a_source_or_a_weighted_mixture():
    assert sources.parse("python_docs") == [(1.0, "python_docs")]
    mixture = ((3, "text:a/*"), (1.0, "tfds:b"))
    assert (
        sources.parse(mixture)
        == sources.parse(repr(mixture))
        == [
            (0.75, "text:a/*"),
            (0.25, "tfds:b"),
        ]
    )
    assert sources.parse("((0.7, 'python_docs'))") == [(1.0, "python_docs")]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "my/corpus.txt",
            r"is not a corpus \(did you mean text:my/corpus.txt\?\): choose python_docs",
        ),
        ("text:", "is not a corpus"),
        ("((0.7, text:a))", "is not a mixture: write it as"),
        ("(1.0)", "is not a mixture: write it as"),
        ("({[]: 1}, 'text:a')", "is not a mixture: write it as"),
        ('((0.7, "text:a"), "tfds:b")', r"needs \(weight, source\)"),
        ('(("text:a", 0.7), )', r"needs \(weight, source\)"),
        (((-1, "text:a"),), "weight of 'text:a' is -1: make it positive"),
        ((), "empty mixture"),
    ],
)
def test_a_malformed_spec_is_refused(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        sources.parse(spec)
    one_line(caught)


def test_patterns_have_stars_and_braces(tmp_path):
    for name in ("train.txt", "dev.txt", "test.txt", "sub/deep.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = lambda pattern: [p[len(str(tmp_path)) + 1 :] for p in expand(f"{tmp_path}/{pattern}")]  # noqa: E731
    assert names("{train,dev}.txt") == ["dev.txt", "train.txt"]
    assert names("**/*.txt") == ["dev.txt", "sub/deep.txt", "test.txt", "train.txt"]
    assert names("{t*,sub/*}.txt") == ["sub/deep.txt", "test.txt", "train.txt"]
    for nothing in ("*.md", "{a,b}.txt", "sub"):
        with pytest.raises(FileNotFoundError, match="no file matches") as caught:
            expand(f"{tmp_path}/{nothing}")
        one_line(caught)
    assert "sub/**" in str(caught.value)


@pytest.mark.parametrize("suffix", ["", *COMPRESSIONS])
def test_documents_are_divided_by_blank_lines_by_lines_or_by_files(tmp_path, suffix):
    for name, content in (("a", "\ufeffone\n two\n\n\n \nthree\r\n\r\nfour"), ("b", "\n\nfive\n")):
        with open_compressed(tmp_path / f"{name}.txt{suffix}", suffix, "wb") as stream:
            stream.write(content.encode())
    spec = f"text:{tmp_path}/*"
    assert texts(resolve(spec)) == ["one\n two", "three", "four", "five"]
    assert [t for t in texts(resolve(spec, "line")) if t.strip()] == [
        "one",
        " two",
        "three",
        "four",
        "five",
    ]
    by_file = texts(resolve(spec, "file"))
    assert len(by_file) == 2 and by_file[0].startswith("one") and by_file[1] == "five"


@pytest.mark.parametrize("separator", ["blank_line", "line"])
def test_dividing_a_file_changes_no_document(tmp_path, separator):
    between = "\n" if separator == "line" else "\n\n"
    made = documents(120)
    made[50] = " ".join(made)  # spans several ranges
    path = write(tmp_path / "a.txt", made, between)
    source = resolve(f"text:{path}", separator)
    assert texts(source) == made
    for size in (1, 37, 500, 5000, 10**9):
        ranges = source.ranges(0, size)
        assert texts(source, size) == made, size
        assert ranges[0].start == 0 and ranges[-1].end == -1
        assert all(a.end == b.start for a, b in zip(ranges, ranges[1:], strict=False))
    assert len(source.ranges(0, 500)) > 20


@pytest.mark.parametrize("separator", ["blank_line", "line", "file"])
def test_a_document_of_any_length_is_read_in_chunks(tmp_path, monkeypatch, separator):
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 50)
    long = "π🙂x " * 500  # the limit falls inside a character
    path = write(tmp_path / "a.txt", ["short", long.strip(), "end"])
    chunks = list(resolve(f"text:{path}", separator).read(sources.FileRange(0, 0, -1)))
    assert max(len(chunk.text.encode()) for chunk in chunks) <= 60
    assert "".join(chunk.text for chunk in chunks).split() == ("short " + long + "end").split()
    assert sum(chunk.consumed for chunk in chunks) in (path.stat().st_size, path.stat().st_size - 1)


def test_text_that_is_not_utf8_names_the_file_the_byte_and_the_remedy(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"one\n\ntwo\nna\xefve\n\nthree\n" + "ü".encode() * 100)
    for separator in ("blank_line", "line", "file"):
        with pytest.raises(
            ValueError, match="latin.txt is not UTF-8 at byte 11 .line 4.*iconv"
        ) as e:
            texts(resolve(f"text:{path}", separator))
        one_line(e)
    path.write_bytes(b"fine\n" * 20 + b"cut \xc3")
    with pytest.raises(ValueError, match="at byte 104 .line 21"):
        texts(resolve(f"text:{path}", "line"), size=30)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_truncated_or_damaged_compressed_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with open_compressed(path, suffix, "wb") as stream:
        stream.write("\n\n".join(documents(50)).encode())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"text, not compressed\n" * 9):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"a{suffix} is not a complete {suffix}") as caught:
            texts(resolve(f"text:{path}"))
        one_line(caught)


def test_without_the_package_a_zst_file_names_it(tmp_path, monkeypatch):
    (tmp_path / "a.zst").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "backports", None)
    with pytest.raises(ModuleNotFoundError, match="pip install backports.zstd") as caught:
        texts(resolve(f"text:{tmp_path}/a.zst"))
    one_line(caught)


def test_an_identity_is_of_the_contents_wherever_they_are(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.txt", documents(5))
    cache = tmp_path / "cache"
    here, there = (resolve(f"text:{tmp_path}/{f}/*").fingerprint(cache) for f in ("here", "there"))
    assert here == there
    write(tmp_path / "there" / "a.txt", documents(5, seed=1))
    assert resolve(f"text:{tmp_path}/there/*").fingerprint(cache) != here
    assert resolve(f"text:{tmp_path}/here/*", "line").fingerprint(cache) != here


def test_documents_are_in_validation_by_hash_and_copies_with_them():
    made = documents(2000)
    chosen = {text for text in made if sources.in_validation(text, 0.1)}
    assert 140 < len(chosen) < 260
    copies = {text for text in made if sources.in_validation("  " + text.upper() + "\n", 0.1)}
    assert chosen == copies
    assert chosen <= {text for text in made if sources.in_validation(text, 0.2)}  # by threshold
    assert not any(sources.in_validation(text, 0.0) for text in made)


def test_tfds_datasets_in_another_format_or_unknown_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="TFDS has no dataset 'nosuch'") as caught:
        resolve("tfds:nosuch/x")
    one_line(caught)
    import tensorflow_datasets as tfds

    class Other(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}

        def _info(self):
            features = tfds.features.FeaturesDict({"content": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((i, {"content": text}) for i, text in enumerate(documents(30)))

    builder = Other(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_dir=tmp_path / "downloads")
    spec = f"tfds:{builder.data_path}"
    with pytest.raises(ValueError, match="has no field 'text', but content: set data.text_field"):
        resolve(spec)
    source = resolve(spec, field="content")
    assert texts(source) == documents(30) == texts(source, size=100)
    assert len(source.ranges(0, 100)) > 3
    info = builder.data_path / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="tfds build .* --file_format=array_record") as caught:
        resolve(spec, field="content")
    one_line(caught)
