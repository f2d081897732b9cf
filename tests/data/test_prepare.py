"""From a source to stores: the same store however it is made; resumed, locked, refused, disk full."""

import subprocess
import sys

import pytest
from corpora import ARGUMENTS, PATHS, documents, num_shards, prepared, write

from data import prepare as prepare_
from data import python_docs, sources, writer
from data.store import TokenStore
from training.schema import DataConfig, TokenizerConfig


def contents(store):
    documents = [store.document(i).tolist() for i in range(store.num_documents)]
    places = zip(store.index("files"), store.index("numbers"), strict=True)
    places = [(store.files[file], int(number)) for file, number in places]
    return store.fingerprint, documents, places, store.unigram_counts.tolist()


def test_the_store_is_the_same_in_one_process_and_in_several(
    tmp_path, corpus, small_items, monkeypatch
):
    alone = prepared(tmp_path, corpus, validation_fraction=0.1, workers=1)
    one = [contents(store) for store in (*alone.train, *alone.validation)]
    monkeypatch.setattr(prepare_, "_MIN_PARALLEL_BYTES", 0)
    (tmp_path / "cache" / "stores").rename(tmp_path / "before")
    lines = []
    many = prepared(tmp_path, corpus, lines.append, validation_fraction=0.1, workers=3)
    assert any("in 3 processes" in line for line in lines)
    assert [contents(store) for store in (*many.train, *many.validation)] == one
    assert many.fingerprint == alone.fingerprint
    # Every document is in one of the two splits, in the order of the files.
    made = [text for number in range(4) for text in documents(150, seed=number)]
    kept = [text for text in made if sources.in_validation(text, 0.1)]
    train, validation = many.train[0], many.validation[0]
    assert (train.num_documents, validation.num_documents) == (600 - len(kept), len(kept))
    rest = [text for text in made if text not in set(kept)]
    for store, texts in ((train, rest), (validation, kept)):
        for number in (0, 1, len(texts) // 2, len(texts) - 1):
            assert many.tokenizer.decode(store.document(number)) == texts[number]
            file, place = store.index("files")[number], int(store.index("numbers")[number])
            assert documents(150, seed=int(store.files[int(file)][-5]))[place] == texts[number]


def test_an_existing_store_is_opened_and_not_made_again(tmp_path, corpus):
    lines = []
    first = prepared(tmp_path, corpus, log=lines.append)
    assert any("tokenizing" in line for line in lines)
    lines.clear()
    second = prepared(tmp_path, corpus, log=lines.append, build=False)
    assert lines == [] and second.fingerprint == first.fingerprint
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    left = {path.name for path in (tmp_path / "cache" / "stores").rglob("*")}
    assert not {name for name in left if ".tmp" in name or ".partial" in name or ".index" in name}


def test_other_contents_settings_or_tokenizer_make_another_store(tmp_path, corpus):
    seen = {prepared(tmp_path, corpus).fingerprint}
    for settings in (
        {"validation_fraction": 0.2},
        {"document_separator": "line"},
        {"vocab_size": 390},
        {"tokenizer": TokenizerConfig(type="wordpiece", vocab_size=400)},
    ):
        seen.add(prepared(tmp_path, corpus, **settings).fingerprint)
    write(tmp_path / "0.txt", documents(150, seed=9))
    seen.add(prepared(tmp_path, corpus).fingerprint)
    assert len(seen) == 6


@pytest.mark.parametrize("file", [
    "train/offsets.bin", "train/store.json", "validation/bytes.bin", "train/unigram.bin",
    "train/files.json",
])  # fmt: skip
def test_a_damaged_store_is_made_again_by_the_command_that_its_error_names(tmp_path, corpus, file):
    settings = {"validation_fraction": 0.1}
    made = prepared(tmp_path, corpus, **settings)
    whole = [contents(store) for store in (*made.train, *made.validation)]
    damaged = made.train[0].path.parent / file
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.raises(ValueError, match="build it again with `python -m tools.prepare"):
        prepared(tmp_path, corpus, build=False, **settings)
    lines = []
    again = prepared(tmp_path, corpus, lines.append, **settings)  # as tools.prepare does
    assert any(str(damaged) in line and "is made again" in line for line in lines)
    assert [contents(store) for store in (*again.train, *again.validation)] == whole
    assert prepared(tmp_path, corpus, build=False, **settings).fingerprint == made.fingerprint


def test_one_process_of_several_is_refused_with_the_command(tmp_path, corpus):
    with pytest.raises(
        ValueError, match="tokenizer .* does not exist yet: run `python -m tools.prepare"
    ):
        prepared(tmp_path, corpus, build=False)
    made = prepared(tmp_path, corpus)
    made.tokenizer.save(tmp_path / "tokenizer.json")
    other = TokenizerConfig(path=str(tmp_path / "tokenizer.json"))
    assert prepared(tmp_path, corpus, tokenizer=other, build=False).fingerprint == made.fingerprint
    with pytest.raises(ValueError, match="token store .* does not exist yet"):
        prepared(tmp_path, corpus, build=False, tokenizer=other, validation_fraction=0.3)


def test_an_interrupted_store_resumes_where_it_was(tmp_path, corpus, small_items, monkeypatch):
    whole = [contents(s) for s in prepared(tmp_path, corpus).train]
    (tmp_path / "cache" / "stores").rename(tmp_path / "before")
    original, calls = writer.write_item, []

    def stops(source, tokenizer, item, *rest):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(item.number)
        original(source, tokenizer, item, *rest)

    monkeypatch.setattr(writer, "write_item", stops)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, corpus)
    stores = tmp_path / "cache" / "stores"
    partial = next(stores.glob("*.partial"))
    with pytest.raises(ValueError, match="holds no finished token store"):
        TokenStore.open(partial / "train")
    assert not [p for p in stores.iterdir() if p.is_dir() and p != partial]
    done = calls.copy()
    calls.clear()

    def counts(source, tokenizer, item, *rest):
        calls.append(item.number)
        original(source, tokenizer, item, *rest)

    monkeypatch.setattr(writer, "write_item", counts)
    lines = []
    again = prepared(tmp_path, corpus, log=lines.append)
    assert not set(done) & set(calls) and len(done) == 3 and calls
    assert any("3 of" in line and "are finished" in line for line in lines)
    assert [contents(s) for s in again.train] == whole


def test_two_processes_make_one_store_between_them(tmp_path, corpus):
    code = PATHS + (
        "from pathlib import Path; from corpora import prepared\n"
        "lines = []; found = prepared(Path(sys.argv[3]), sys.argv[4], log=lines.append)\n"
        'print(found.fingerprint, sum("tokenizing" in line for line in lines))'
    )
    command = [sys.executable, "-c", code, *ARGUMENTS, str(tmp_path), corpus]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0].split() for process in running]
    assert all(process.returncode == 0 for process in running)
    assert answers[0][0] == answers[1][0]
    assert sorted(count for _, count in answers) == ["0", "1"]


def test_a_full_disk_is_one_error_and_leaves_nothing_half_visible(tmp_path):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "a.txt", documents(4000, longest=200))
    code = PATHS + (
        "import resource\n"
        "from pathlib import Path; from corpora import prepared\n"
        "folder, source = Path(sys.argv[3]), sys.argv[4]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try:\n"
        "    prepared(folder, source)\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    source = f"text:{tmp_path}/a/*.txt"
    done = subprocess.run(
        [sys.executable, "-c", code, *ARGUMENTS, str(tmp_path), source],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "cannot write" in done.stdout and "File too large" in done.stdout
    assert "free some space" in done.stdout and done.stdout.count("\n") == 1
    stores = tmp_path / "cache" / "stores"
    assert not [p.name for p in stores.rglob("*") if ".tmp" in p.name or p.name == "store.json"]
    assert all(p.name.endswith((".partial", ".lock")) for p in stores.iterdir())
    # With enough space it is finished.
    assert prepared(tmp_path, source).train[0].num_documents > 3000


# ---- Worker processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\n \n\n\t\n"])
def test_an_empty_corpus_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match="holds no document") as caught:
        prepared(tmp_path, f"text:{tmp_path}/a.txt")
    assert "\n" not in str(caught.value)
    tokenizer = prepared_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="a.txt holds no document to train on"):
        prepared(tmp_path, f"text:{tmp_path}/a.txt", tokenizer=tokenizer)


def prepared_tokenizer(tmp_path):
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "b.txt", documents(20))
    made = prepared(tmp_path, f"text:{tmp_path}/other/b.txt")
    made.tokenizer.save(tmp_path / "other" / "tokenizer.json")
    return TokenizerConfig(path=str(tmp_path / "other"))


def test_a_very_long_document_is_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(writer, "_BATCH_CHARACTERS", 1 << 15)
    monkeypatch.setattr(writer, "SHARD_TOKENS", 10_000)
    long = " ".join(documents(4000))
    write(tmp_path / "a.txt", ["first words", long, "last words"])
    made = prepared(tmp_path, f"text:{tmp_path}/a.txt", validation_fraction=0.0)
    store = made.train[0]
    assert store.num_documents == 3 and num_shards(store) > 5
    assert made.tokenizer.decode(store.document(1)) == long
    assert store.index("bytes").tolist() == [11, len(long.encode()), 10]


def test_training_bytes_is_a_limit_on_bytes_for_every_file(tmp_path):
    """The first half of each file is in its half of the limit; a character has three bytes."""
    for name, characters in (("a", "一二"), ("b", "三四")):
        write(tmp_path / f"{name}.txt", ["".join(character * 200 for character in characters)])
    tokenizer = TokenizerConfig(type="wordpiece", vocab_size=400, training_bytes=1200)
    made = prepared(
        tmp_path, f"text:{tmp_path}/*.txt", tokenizer=tokenizer, validation_fraction=0.0
    )
    known = {made.tokenizer.token(i) for i in range(made.tokenizer.size)}
    assert known & set("一二三四") == set("一三")


def test_python_docs_and_a_mixture_with_it_are_prepared(tmp_path):
    library = tmp_path / "library" / "asyncio"
    library.mkdir(parents=True)
    texts = documents(300)
    (library / "a.py").write_text("".join(f"def f(): {text!r}\n" for text in texts))
    write(tmp_path / "a.txt", documents(30, seed=1))
    source = f"((0.2, 'python_docs:{tmp_path}/library'), (0.8, 'text:{tmp_path}/a.txt'))"
    made = prepared(tmp_path, source, validation_fraction=0.1)
    python, text = made.contents.values()  # of the text alone, for any tokenizer
    again = prepared(tmp_path, source, validation_fraction=0.1, vocab_size=390)
    assert [python, text] == list(again.contents.values()) and again.fingerprint != made.fingerprint
    _, fingerprint = python_docs.prepare(str(library.parent), str(tmp_path / "cache"))
    assert python == fingerprint
    assert made.weights == (0.2, 0.8) and len(made.train) == 2 and made.validation
    store = made.train[0]
    decoded = {made.tokenizer.decode(store.document(i)) for i in range(store.num_documents)}
    assert decoded < set(texts) and len(decoded) > 150


def test_the_config_refuses_impossible_values():
    with pytest.raises(ValueError, match="data.source is empty"):
        DataConfig(source=" ")
    with pytest.raises(
        ValueError, match="vocab_size is 200, but byte-level BPE needs at least 369"
    ):
        TokenizerConfig(vocab_size=200)
