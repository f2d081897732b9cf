"""Tokenizers: special ids, never out of text; sizes; round trips; identities.

A corpus that writes about '[MASK]' must not mask anything.
"""

import numpy as np
import pytest
from corpora import documents

from data.tokenizer import SPECIALS, Tokenizer, cut, load, train

KINDS = ("bpe", "wordpiece", "unigram")
# Every special token is in the training text often enough to be worth a piece.
SPELLED = [" ".join([token] * 5) + " " + "".join(SPECIALS) for token in SPECIALS] + [
    "</s> <pad>"
] * 50


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return train(documents(200) + SPELLED, kind=request.param, vocab_size=500)


def test_the_special_tokens_come_first_in_their_order(tokenizer):
    ids = tokenizer.special_ids()
    names = ("pad", "unk", "cls", "sep", "eos", "mask", "start")
    assert [ids[name] for name in names] == [0, 1, 2, 3, 4, 5, 6]
    assert ids["modes"] == (7, 8, 9) and ids["infill"] == (10, 11, 12)
    assert ids["sentinels"] == tuple(range(13, 113))
    assert ids["size"] == tokenizer.size and ids["ordinary"] == ((113, tokenizer.size),)
    assert [tokenizer.piece(i) for i in range(113)] == list(SPECIALS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_of_a_word_are_told_from_those_that_begin_one(kind):
    """Whole words are those of BERT, whatever the kind: runs of letters and digits."""
    text = "unbelievable models (stop), it's\n snake_case x2  two"
    tokenizer = train([text] + documents(50), kind=kind, vocab_size=420, min_frequency=1)
    joins = tokenizer.special_ids()["joins"]
    assert len(joins) == tokenizer.size and set(joins) <= {0, 1, 2, 3}
    words, before = [], 0
    for piece in tokenizer.encode(text + " twostopunbelievable").tolist():
        if before >= 2 and joins[piece] % 2:
            words[-1].append(piece)
        else:
            words.append([piece])
        before = joins[piece]
    assert max(map(len, words)) > 1
    spelled = " ".join(tokenizer.decode(word) for word in words)
    # Byte-level BPE keeps a contraction together where GPT-2 does.
    apart = "unbelievable models ( stop ) , it ' s snake _ case x2 two twostopunbelievable"
    assert " ".join(spelled.replace("'s", "' s").split()) == apart


def test_text_never_becomes_a_special_id(tokenizer):
    texts = [
        *SPECIALS,
        *(f"a{token}b" for token in SPECIALS),
        *(f"see {token}, {token}" for token in SPECIALS),
        *(token.lower() for token in SPECIALS),
        " ".join(SPECIALS),
        "".join(SPECIALS),
        "</s> <s> <pad> [MASK]" * 9000,  # long enough to be cut
    ]
    for text, pieces in zip(texts, tokenizer.encode_batch(texts), strict=True):
        special = set(pieces.tolist()) & set(range(113)) - {1}  # a character can be unknown
        assert not special, (text[:40], special)
        assert np.array_equal(tokenizer.encode(text[:500]), tokenizer.encode_batch([text[:500]])[0])


def test_special_tokens_are_read_from_text_when_asked_to(tokenizer):
    pieces = tokenizer.encode("the [MASK] reads <extra_id_7>", specials=True).tolist()
    assert pieces.count(5) == 1 and pieces.count(20) == 1
    # ... and asking once changes nothing afterwards.
    assert 5 not in tokenizer.encode("the [MASK] reads")


def test_a_saved_tokenizer_is_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint and again.size == tokenizer.size
    text = documents(1)[0] + " [MASK]"
    assert np.array_equal(again.encode(text), tokenizer.encode(text))
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("kind", ("bpe", "wordpiece"))  # Unigram promises less
def test_the_same_text_gives_the_same_tokenizer(kind):
    first, second = (train(documents(60), kind=kind, vocab_size=420) for _ in range(2))
    other = train(documents(60, seed=1), kind=kind, vocab_size=420)
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_wordpiece_spells_words_from_the_longest_pieces_it_has():
    tokenizer = train(["model models modelling"] * 9 + ["un"], kind="wordpiece", vocab_size=200)
    spelled = [tokenizer.piece(i) for i in tokenizer.encode("models, model")]
    assert spelled[0].startswith("model") and spelled[-1] == "model"
    assert [tokenizer.piece(i) for i in tokenizer.encode("nu")] == [
        "n",
        "##u",
    ]  # any order of characters
    assert tokenizer.decode(tokenizer.encode("un models")) == "un models"


def test_bytes_come_back_and_no_text_is_unknown():
    tokenizer = train(documents(50), kind="bpe", vocab_size=400)
    for text in ("  two  blanks\n\tand a tab ", "Ω≈ç√ 漢字 🙂", "[MASK] </s>", "x" * 5000):
        pieces = tokenizer.encode(text)
        assert tokenizer.decode(pieces) == text and 1 not in pieces


def test_a_long_text_has_the_pieces_of_the_whole():
    tokenizer = train(documents(100), kind="bpe", vocab_size=400)
    text = "\n\n  ".join(documents(300))
    assert "".join(cut(text, 100)) == text and max(map(len, cut(text, 100))) <= 100
    whole = tokenizer._plain.encode(text, add_special_tokens=False).ids
    parts = [i for part in cut(text, 100) for i in tokenizer.encode(part)]
    assert parts == whole
    endless = "x" * 200_000
    assert tokenizer.decode(tokenizer.encode(endless)) == endless


def test_the_size_counts_every_piece_and_is_not_exceeded():
    lines = []
    small = train(["a b"], kind="bpe", vocab_size=1000, log=lines.append)
    assert small.size == 113 + 256
    assert lines == ["the corpus gives 369 pieces, fewer than tokenizer.vocab_size=1000"]
    assert train(documents(300), kind="bpe", vocab_size=450).size == 450
    with pytest.raises(ValueError, match="raise tokenizer.vocab_size"):
        train([chr(0x4E00 + i) for i in range(300)], kind="wordpiece", vocab_size=200)


def test_lower_case_is_a_setting():
    for kind in KINDS:
        folded = train(documents(50), kind=kind, vocab_size=420, lowercase=True)
        assert folded.encode("THE Model").tolist() == folded.encode("the model").tolist()


def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*: give tokenizer.path"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match="is not a tokenizer of the tokenizers library") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="holds no document to train a tokenizer on"):
        train([], kind="bpe", vocab_size=400)


def test_a_foreign_tokenizer_says_which_tokens_it_has():
    import tokenizers

    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"<pad>": 0, "a": 1, "b": 2, "</s>": 3}, []))
    inner.add_special_tokens(["<pad>", "</s>"])
    ids = Tokenizer(inner).special_ids()
    assert (ids["pad"], ids["eos"], ids["start"], ids["mask"]) == (0, 3, 0, -1)
    assert ids["ordinary"] == ((1, 3),) and ids["sentinels"] == ()
