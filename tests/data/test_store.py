"""Rows of the token store against a plain list of documents with special tokens; refusals.

Rows cut documents and shards cut rows: the arithmetic must not lose a token.
"""

import json

import numpy as np
import pytest
from corpora import documents, num_shards, prepared, write

from data import writer
from data.special_tokens import SpecialTokenTemplate
from data.store import TokenStore

ENCODER = SpecialTokenTemplate((2,), (3,), (3,))
DECODER = SpecialTokenTemplate((), (4,), (3,))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of many small shards, and its documents tokenized one by one."""
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
    assert num_shards(store) > 5
    return store, [result.tokenizer.encode(text) for text in texts], texts, result.tokenizer


def stream_of(encoded, template):
    """The reference: lists, joined."""
    stream = []
    for document in encoded:
        stream += [*template.prefix, *document.tolist(), *template.suffix]
    return stream


def test_a_store_holds_its_documents_with_their_counts_and_places(made):
    store, encoded, texts, tokenizer = made
    assert (store.num_documents, store.num_tokens) == (40, sum(map(len, encoded)))
    assert store.num_bytes == sum(len(text.encode()) for text in texts)
    for number, expected in enumerate(encoded):
        assert np.array_equal(store.document(number), expected)
    assert np.array_equal(
        store.unigram_counts, np.bincount(np.concatenate(encoded), minlength=tokenizer.size)
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
@pytest.mark.parametrize(("template", "overlap"), [(ENCODER, 1), (DECODER, 0), (DECODER, 1)])
def test_rows_are_windows_of_the_stream(made, template, overlap, length):
    store, encoded, _, _ = made
    stream = stream_of(encoded, template)
    rows = store.rows(length, overlap, template)
    stride = length - overlap
    assert len(rows) == len(range(0, len(stream) - overlap, stride))
    starts = np.cumsum([0] + [len(e) + template.num_tokens for e in encoded])
    suffixes = starts[1:] - 1
    everything = rows.many(np.arange(len(rows)))
    assert everything.dtype == np.int32 and everything.shape == (len(rows), length)
    for row in range(len(rows)):
        start = row * stride
        expected = stream[start : start + length]
        if template.prefix and start not in starts and start not in suffixes:
            expected = [2, *expected[1:]]
        expected = expected + [0] * (length - len(expected))
        assert everything[row].tolist() == expected, row
    assert np.array_equal(rows[1 % len(rows)], everything[1 % len(rows)])


def test_rows_lose_no_token_and_predict_each_once(made):
    store, encoded, _, _ = made
    # Causal: the model reads all but the last token of a row and predicts all but the first.
    stream = stream_of(encoded, DECODER)
    rows = store.rows(17, 1, DECODER).many(np.arange(len(store.rows(17, 1, DECODER))))
    predicted = [t for row in rows for t in row[1:].tolist()]
    assert predicted[: len(stream) - 1] == stream[1:] and not any(predicted[len(stream) - 1 :])
    # Encoder: the token that a prefix replaced is the last one of the previous row.
    stream = stream_of(encoded, ENCODER)
    rows = store.rows(17, 1, ENCODER).many(np.arange(len(store.rows(17, 1, ENCODER))))
    kept = [rows[0, 0], *(t for row in rows for t in row[1:].tolist())]
    assert kept[: len(stream)] == stream


def test_a_row_does_not_depend_on_the_others_and_is_padding_after_the_end(made):
    store = made[0]
    rows = store.rows(31, 1, ENCODER)
    order = np.random.default_rng(0).permutation(len(rows) + 3)
    many = rows.many(order)
    for place, row in enumerate(order):
        expected = rows[row] if row < len(rows) else np.zeros(31)
        assert np.array_equal(many[place], expected)
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.parametrize("number", [1, 100, 1000, 10**9])
def test_the_first_tokens_are_the_first_rows(made, number):
    """As many rows as have `number` tokens, each predicted once; all rows if there are fewer tokens."""
    store = made[0]
    rows, all_rows = store.rows(31, 1, ENCODER, number), store.rows(31, 1, ENCODER)
    assert len(rows) == max(1, min(len(all_rows), -(-(number - 1) // 30)))
    assert np.array_equal(rows.many(np.arange(len(rows))), all_rows.many(np.arange(len(rows))))


def test_a_row_names_the_documents_it_shows(made):
    store, encoded, _, _ = made
    rows = store.rows(64, 1, ENCODER)
    starts = np.cumsum([0] + [len(e) + 2 for e in encoded])
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
        TokenStore.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"holds no finished token store: .*{again}"):
        TokenStore.open(copy("unfinished", leave_out=("store.json",)))
    with pytest.raises(ValueError, match=f"was made with tokenizer .*, expected ffff.*{again}"):
        TokenStore.open(copy("whole"), tokenizer="f" * 64)
    cut = copy("cut")
    shard = sorted(cut.glob("*.tokens"))[0]
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ValueError, match=f"{shard.name} has .* bytes, expected .*: .*{again}"):
        TokenStore.open(cut)
    shard.unlink()
    with pytest.raises(ValueError, match="has no bytes, expected"):
        TokenStore.open(cut)
    old = copy("old")
    metadata = json.loads((old / "store.json").read_text())
    (old / "store.json").write_text(json.dumps({**metadata, "format": 0}))
    with pytest.raises(ValueError, match="has store format 0"):
        TokenStore.open(old)
    (old / "store.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        TokenStore.open(old)
