"""Corpora as people have them, and what becomes of them: a table of cases, each with its right value.

Every case is a small input of a kind that was once read wrongly, or refused without a remedy.
"""

import bz2
import json
import random

import numpy as np
import pytest
import tokenizers
from corpora import documents, prepared, special_tokens, write
from published import sentencepiece, unigram_pieces
from tokenizers import models, pre_tokenizers

from data.tokenizer import SPECIALS, load, train
from huggingface.tokenizers import read_tokenizer
from training.schema import TokenizerConfig

TAGS = ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"]
HTML = [f"<s>old {i} price</s> new <pad> price <extra_id_0> [MASK] {i}" for i in range(40)]
THAI = "โลกฝนมากสวัสดีประเทศภาษาหนักไทยจำลองความรู้"


def unigram(folder):
    """T5's kind, as a tokenizer.json."""
    letters = "abcdefghijklmnopqrstuvwxyz<>/_[]MASK0123456789"
    tokens = [(tag, 0.0) for tag in TAGS]
    tokens += [(c, -5.0) for c in dict.fromkeys("▁" + letters)]
    inner = tokenizers.Tokenizer(models.Unigram(tokens, 2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.add_special_tokens(TAGS)
    inner.save(str(folder / "tokenizer.json"))


def words(folder):
    """WordPiece between blanks, whose vocabulary holds its special tokens as words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[EOS]", "[MASK]", "<pad>", "old", "price"]
    inner = tokenizers.Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(tokens[:6])
    inner.save(str(folder / "tokenizer.json"))


def spiece(folder):
    """A SentencePiece model, as a run keeps it."""
    sentencepiece(folder, unigram_pieces(), dummy=1, collapse=1)
    read_tokenizer(folder).save(folder / "tokenizer.json")


@pytest.mark.parametrize("make", [unigram, words, spiece])
def test_markup_in_a_corpus_ends_no_document_and_pads_nothing(tmp_path, make):
    make(tmp_path)
    write(tmp_path / "a.txt", HTML)
    made = prepared(
        tmp_path,
        f"text:{tmp_path}/a.txt",
        tokenizer=TokenizerConfig(path=str(tmp_path)),
        validation_fraction=0.0,
    )
    store, special = made.train[0], set(special_tokens(made.tokenizer).values())
    unknown = made.tokenizer.special_ids()["unk"]
    assert store.num_documents == len(HTML)
    for number in range(len(HTML)):
        assert not special.difference([unknown]) & set(store.document(number).tolist())
    if make is unigram:
        plain = made.tokenizer.decode(store.document(3)).replace("▁", " ").replace("  ", " ")
        assert "".join(plain.split()) == "".join(HTML[3].split())
    share = float(store.unigram_counts[unknown] / store.num_tokens)
    (line,) = made.describe_unknown()
    assert f"{share:.2%} of {store.num_tokens:,} tokens are unknown" in line
    assert line.startswith("warning: ") == (share > 0.01)


def test_a_script_without_spaces_has_no_unknown_words(tmp_path):
    draw = random.Random(0)
    syllables = [THAI[i : i + 4] for i in range(0, len(THAI), 4)]
    texts = ["".join(draw.choices(syllables, k=90)) for _ in range(60)]
    write(tmp_path / "a.txt", texts)
    made = prepared(
        tmp_path,
        f"text:{tmp_path}/a.txt",
        tokenizer=TokenizerConfig(type="wordpiece", vocab_size=400),
        validation_fraction=0.0,
    )
    assert made.tokenizer.decode(made.train[0].document(0)) == texts[0]
    assert "0.00% of" in made.describe_unknown()[0]
    assert (
        json.loads(made.tokenizer.to_library().to_str())["model"]["max_input_chars_per_word"] > 1e9
    )


def han_corpus():
    """900 characters; a few hundred of them make up 99.95 % of the text."""
    draw = random.Random(0)
    characters = [chr(0x4E00 + i) for i in range(900)]
    weights = [0.975**i for i in range(900)]
    return ["".join(draw.choices(characters, weights, k=80)) for _ in range(400)]


@pytest.mark.parametrize("type", ["wordpiece", "unigram"])
def test_a_vocabulary_that_cannot_hold_the_alphabet_drops_rare_characters(type):
    texts, lines = han_corpus(), []
    tokenizer = train(texts, type=type, vocab_size=500, log=lines.append)
    rare = [line for line in lines if "characters are rare and become [UNK]" in line]
    assert len(rare) == 1 and "tokenizer.character_coverage=0.9995" in rare[0]
    ids = np.concatenate(tokenizer.encode_batch(texts))
    assert 0 < (ids == 1).mean() <= 0.0007
    vocabulary = tokenizer.vocabulary()
    assert not any(token.startswith("##") for token in vocabulary)  # no character is kept twice
    lines.clear()
    all_kept = train(texts, type=type, vocab_size=2000, log=lines.append)
    assert 1 not in np.concatenate(all_kept.encode_batch(texts)) and "rare" not in str(lines)
    fewer = f"the corpus gives {all_kept.size} tokens, fewer than tokenizer.vocab_size=2000"
    assert lines == [fewer] * (all_kept.size < 2000)
    with pytest.raises(ValueError, match=r"vocab_size is 200, but the special tokens and the") as e:
        train(texts, type=type, vocab_size=200)
    needed = int(str(e.value).split(" need ")[1].split(":")[0])
    assert needed == tokenizer.size or type == "unigram"
    coverage = float(str(e.value).split("character_coverage to ")[1].split(",")[0])
    assert train(texts, type=type, vocab_size=200, character_coverage=coverage).size <= 200
    train(texts, type=type, vocab_size=needed)


def test_an_empty_or_tiny_corpus_gives_a_tokenizer_or_one_line():
    for type in ("bpe", "wordpiece", "unigram", "word"):
        for texts in (["a"], ["  "], [""], ["\x00\x01"], ["[MASK]" * 3]):
            lines = []
            size = train(texts, type=type, vocab_size=1000, log=lines.append).size
            assert lines == [
                f"the corpus gives {size} tokens, fewer than tokenizer.vocab_size=1000"
            ]
        with pytest.raises(ValueError, match="holds no document to train a tokenizer on"):
            train([], type=type, vocab_size=1000)


def test_a_vocabulary_that_the_corpus_cannot_fill_is_said_by_every_run(tmp_path):
    write(tmp_path / "a.txt", ["a b"] * 3)
    for _ in range(2):  # the second run finds the tokenizer in the cache
        lines = []
        prepared(
            tmp_path,
            f"text:{tmp_path}/a.txt",
            lines.append,
            vocab_size=500,
            validation_fraction=0.0,
        )
        assert lines.count("the corpus gives 370 tokens, fewer than tokenizer.vocab_size=500") == 1


# ---- JSON lines ----------------------------------------------------------------------------------

ROWS = [{"text": f'{text}\n\nmore "quoted" é', "id": i} for i, text in enumerate(documents(30))]


def rows_file(path, rows=ROWS):
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())
    return path


def decoded(made):
    store = made.train[0]
    return [made.tokenizer.decode(store.document(i)) for i in range(store.num_documents)]


def test_json_lines_are_documents_of_one_field(tmp_path, monkeypatch):
    from data import prepare as prepare_

    rows_file(tmp_path / "a.jsonl", [*ROWS[:20], {"text": ""}, *ROWS[20:]])
    source = f"jsonl:{tmp_path}/a.jsonl"
    made = prepared(tmp_path, source, validation_fraction=0.0)
    assert decoded(made) == [row["text"] for row in ROWS]
    monkeypatch.setattr(prepare_, "_MIN_ITEM_BYTES", 500)  # many ranges, the same documents
    again = prepared(
        tmp_path, source, validation_fraction=0.0, vocab_size=401, document_separator="file"
    )
    assert decoded(again) == decoded(made)
    renamed = [{"body": row["text"]} for row in ROWS]
    (tmp_path / "b").write_bytes(
        bz2.compress(rows_file(tmp_path / "b.jsonl", renamed).read_bytes())
    )
    (tmp_path / "b").rename(tmp_path / "b.jsonl.bz2")
    other = prepared(
        tmp_path, f"jsonl:{tmp_path}/b.jsonl.bz2", validation_fraction=0.0, text_field="body"
    )
    assert decoded(other) == decoded(made) and other.fingerprint != made.fingerprint


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.NDJSON", "a.txt"])
def test_json_lines_are_not_plain_text(tmp_path, name):
    rows_file(tmp_path / name)
    if name.endswith(".gz"):
        import gzip

        (tmp_path / name).write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    with pytest.raises(
        ValueError, match=f"{name} holds JSON lines, not plain text: use jsonl:"
    ) as e:
        prepared(tmp_path, f"text:{tmp_path}/{name}")
    assert "data.text_field" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', True),
        ('{"text": "a"}', True),
        ('[\n  {"text": "a"},\n  {"text": "b"}\n]\n', True),
        ('\ufeff{"text": "a"}\n', True),
        ('{"title": "front matter"}\n\nplain text\n', False),
        ('{"title": "front matter"}\nplain text\n', False),
        ("{not JSON}\nplain text\n", False),
        ("[1] a footnote\n", False),
        ("\n\nplain\n", False),
        ('\n\n{"text": "a"}\n', True),
        ('["a", "b"]\n', True),
        ('["a"] is a list\n', False),
        ('{\n "data": [\n  {"text": "a"}\n ]\n}\n', True),
        ('"Quoted," she said.\n', False),
        ("[" * 9000 + "\n", False),
        ('{"a":' * 9000 + "\n", False),
    ],
)
def test_plain_text_that_starts_like_json_is_read(tmp_path, content, refused):
    (tmp_path / "a.txt").write_text(content)
    if not refused:
        assert prepared(tmp_path, f"text:{tmp_path}/a.txt", validation_fraction=0.0).train
        return
    with pytest.raises(ValueError, match="a.txt holds JSON lines, not plain text: use jsonl:"):
        prepared(tmp_path, f"text:{tmp_path}/a.txt")


WRONG = {
    "not JSON": (b'{"text": "a"}\n{"text": "b"\n', "a.jsonl line 2 is not JSON"),
    "plain text": (b"one\ntwo\n", "a.jsonl line 1 is not JSON .*use text: for plain text"),
    "an array": (b'[{"text": "a"}]\n', r"line 1 is a JSON list, expected an object.*jq -c"),
    "another field": (b'{"content": "a"}\n', "line 1 has no 'text', but content: set data.text_field"),
    "null": (b'{"text": "a"}\n\n{"text": null}\n', "line 3 has text=null, which is not a text"),
    "nested": (b'{"text": ' + b"[" * 200000 + b"\n", "line 1 is not JSON"),
    "a number": (b'{"text": 3}\n', "line 1 has text=3, which is not a text"),
    "a NUL": (b'{"text": "a \\u0000"}\n', "line 1 has a NUL character in 'text'"),
    "a surrogate": (b'{"text": "a \\ud800"}\n', r"line 1 has an unpaired surrogate \(\\ud800\)"),
    "latin1": (b'{"text": "a"}\n{"text": "\xe9"}\n', "not UTF-8 at byte 24 .line 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_row_without_a_text_is_named(tmp_path, case):
    content, message = WRONG[case]
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        prepared(tmp_path, f"jsonl:{tmp_path}/a.jsonl")
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400


def test_a_byte_order_mark_is_not_text_of_a_row(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one two"}\n' * 2)
    (tmp_path / "loop").symlink_to(tmp_path)  # whose files are not read again
    made = prepared(tmp_path, f"jsonl:{tmp_path}/**/a.jsonl", validation_fraction=0.0)
    assert decoded(made) == ["one two"] * 2
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\n" * 2)
    made = prepared(tmp_path, f"text:{tmp_path}/a.txt", validation_fraction=0.0)
    assert decoded(made) == ["one"] * 2


@pytest.mark.parametrize("model", [models.WordLevel, models.WordPiece])
def test_the_unknown_token_is_that_of_the_model_whatever_its_name(tmp_path, model):
    def written(unknown):
        inner = tokenizers.Tokenizer(model({"[unk]": 0, "a": 1}, unk_token=unknown))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        inner.save(str(tmp_path / "tokenizer.json"))
        return load(tmp_path)

    tokenizer = written("[unk]")
    assert tokenizer.special_ids()["unk"] == 0 and tokenizer.encode("a b").tolist() == [1, 0]
    with pytest.raises(ValueError, match="tokenizer.json .*has no unknown token.* add one"):
        written("[UNK]")


def test_a_document_longer_than_a_chunk_has_the_tokens_of_the_whole(tmp_path, monkeypatch):
    """Chunks of a file end anywhere: in a word, between blanks, after a line end."""
    from data import sources, text_encoder

    monkeypatch.setattr(sources, "_CHUNK_BYTES", 200)
    monkeypatch.setattr(text_encoder, "_CHUNK", 60)
    long = "\n  ".join(documents(40)) + " " + THAI * 9 + "".join(SPECIALS[:9])
    write(tmp_path / "a.txt", ["short", long, "end"])
    for type in ("bpe", "wordpiece", "unigram"):
        made = prepared(
            tmp_path,
            f"text:{tmp_path}/a.txt",
            tokenizer=TokenizerConfig(type=type, vocab_size=500),
            validation_fraction=0.0,
        )
        whole = made.tokenizer._encoder._encode([long])[0]
        assert made.train[0].document(1).tolist() == whole.tolist()
