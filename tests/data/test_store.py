"""Rows of the token store against a plain list of framed documents; refusals.

Documents are cut by rows, rows by shards: the arithmetic must not lose a token anywhere.
"""

import json

import numpy as np
import pytest
from corpora import documents, prepared, write

from data import writer
from data.framing import Frame
from data.store import Store

ENCODER, DECODER = Frame((2,), (3,), (3,)), Frame((), (4,), (3,))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of many small shards, and its documents tokenised one by one."""
    folder = tmp_path_factory.mktemp("store")
    texts = documents(40)
    texts[7] = " ".join(texts) * 3  # much longer than a shard or a row
    write(folder / "a.txt", texts[:25])
    write(folder / "b.txt", texts[25:])
    before, writer.SHARD_TOKENS = writer.SHARD_TOKENS, 50
    try:
        result = prepared(folder, f"text:{folder}/*.txt", validation_fraction=0.0)
    finally:
        writer.SHARD_TOKENS = before
    store = result.train[0]
    assert len(store._metadata["shards"]) > 5
    return store, [result.tokenizer.encode(text) for text in texts], texts, result.tokenizer


def framed_stream(pieces, frame):
    """The reference: lists, joined."""
    stream = []
    for document in pieces:
        stream += [*frame.opening, *document.tolist(), *frame.closing]
    return stream


def test_a_store_holds_its_documents_with_their_counts_and_places(made):
    store, pieces, texts, tokenizer = made
    assert (store.documents, store.tokens) == (40, sum(map(len, pieces)))
    assert store.bytes == sum(len(text.encode()) for text in texts)
    for number, expected in enumerate(pieces):
        assert np.array_equal(store.document(number), expected)
    assert np.array_equal(
        store.unigram, np.bincount(np.concatenate(pieces), minlength=tokenizer.size)
    )
    assert store.index("bytes").tolist() == [len(text.encode()) for text in texts]
    named = [
        (store.files[f], n)
        for f, n in zip(store.index("files"), store.index("numbers"), strict=True)
    ]
    assert [(name[-5:], n) for name, n in named] == [
        *(("a.txt", i) for i in range(25)),
        *(("b.txt", i) for i in range(15)),
    ]


@pytest.mark.parametrize("length", [2, 7, 33, 4000])
@pytest.mark.parametrize(("frame", "overlap"), [(ENCODER, 1), (DECODER, 0), (DECODER, 1)])
def test_rows_are_windows_of_the_framed_stream(made, frame, overlap, length):
    store, pieces, _, _ = made
    stream = framed_stream(pieces, frame)
    rows = store.rows(length, overlap, frame)
    stride = length - overlap
    assert len(rows) == len(range(0, len(stream) - overlap, stride))
    openings = np.cumsum([0] + [len(p) + frame.extra for p in pieces])
    closings = openings[1:] - 1
    everything = rows.many(np.arange(len(rows)))
    assert everything.dtype == np.int32 and everything.shape == (len(rows), length)
    for row in range(len(rows)):
        start = row * stride
        expected = stream[start : start + length]
        if frame.opening and start not in openings and start not in closings:
            expected = [2, *expected[1:]]
        expected = expected + [0] * (length - len(expected))
        assert everything[row].tolist() == expected, row
    assert np.array_equal(rows[1 % len(rows)], everything[1 % len(rows)])


def test_rows_lose_no_token_and_predict_each_once(made):
    store, pieces, _, _ = made
    # Causal: a row of T+1 is read but for its last, and predicts all but its first.
    stream = framed_stream(pieces, DECODER)
    rows = store.rows(17, 1, DECODER).many(np.arange(len(store.rows(17, 1, DECODER))))
    predicted = [t for row in rows for t in row[1:].tolist()]
    assert predicted[: len(stream) - 1] == stream[1:] and not any(predicted[len(stream) - 1 :])
    # Encoder: what an opening replaced is the last token of the row before.
    stream = framed_stream(pieces, ENCODER)
    rows = store.rows(17, 1, ENCODER).many(np.arange(len(store.rows(17, 1, ENCODER))))
    kept = [rows[0, 0], *(t for row in rows for t in row[1:].tolist())]
    assert kept[: len(stream)] == stream


def test_a_row_is_the_same_alone_in_any_company_and_beyond_the_end(made):
    store = made[0]
    rows = store.rows(31, 1, ENCODER)
    order = np.random.default_rng(0).permutation(len(rows) + 3)
    many = rows.many(order)
    for place, row in enumerate(order):
        expected = rows[row] if row < len(rows) else np.zeros(31)
        assert np.array_equal(many[place], expected)
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_a_row_names_the_documents_it_shows(made):
    store, pieces, _, _ = made
    rows = store.rows(64, 1, ENCODER)
    starts = np.cumsum([0] + [len(p) + 2 for p in pieces])
    for row in range(len(rows)):
        low, high = row * 63, min(row * 63 + 64, starts[-1])
        shown = [d for d in range(40) if starts[d] < high and starts[d + 1] > low]
        found = rows.documents_of(row)
        assert [d for d, _, _ in found] == shown
        assert all(name.endswith("a.txt" if d < 25 else "b.txt") for d, name, _ in found)


def test_rows_that_would_lose_tokens_are_refused(made):
    store = made[0]
    with pytest.raises(ValueError, match="overlap of at least 1, not 0"):
        store.rows(16, 0, ENCODER)
    with pytest.raises(ValueError, match="cannot overlap by 16"):
        store.rows(16, 16, DECODER)


def test_a_store_that_is_unfinished_damaged_or_of_another_tokenizer_is_refused(made, tmp_path):
    source = made[0].path
    again = "python -m tools.prepare"

    def copy(name, leave_out=()):
        folder = tmp_path / name
        folder.mkdir()
        for path in source.iterdir():
            if path.name not in leave_out:
                (folder / path.name).write_bytes(path.read_bytes())
        return folder

    with pytest.raises(ValueError, match=f"does not exist: .*{again}"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"holds no finished token store: .*{again}"):
        Store.open(copy("unfinished", leave_out=("store.json",)))
    with pytest.raises(ValueError, match=f"was made with tokenizer .* is asked for: .*{again}"):
        Store.open(copy("whole"), tokenizer="f" * 64)
    with pytest.raises(ValueError, match="was made with fingerprint"):
        Store.open(tmp_path / "whole", fingerprint="f" * 64)
    cut = copy("cut")
    shard = sorted(cut.glob("*.tokens"))[0]
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ValueError, match=f"{shard.name} has .* bytes where .* belong: .*{again}"):
        Store.open(cut)
    shard.unlink()
    with pytest.raises(ValueError, match="has no bytes where"):
        Store.open(cut)
    old = copy("old")
    metadata = json.loads((old / "store.json").read_text())
    (old / "store.json").write_text(json.dumps({**metadata, "format": 0}))
    with pytest.raises(ValueError, match="has store format 0"):
        Store.open(old)
    (old / "store.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Store.open(old)
