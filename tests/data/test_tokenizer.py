"""Tokenizers: special ids, which text never gives; sizes; round trips; identities.

A corpus that writes about '[MASK]' must not mask anything.
"""

import numpy as np
import pytest
from corpora import documents, library_ids

from data.tokenizer import SPECIALS, Tokenizer, load, split_text, train

TYPES = ("bpe", "wordpiece", "unigram")
# Every special token is in the training text often enough to become a token.
SPELLED = [" ".join([token] * 5) + " " + "".join(SPECIALS) for token in SPECIALS] + [
    "</s> <pad>"
] * 50


@pytest.fixture(scope="module", params=TYPES)
def tokenizer(request):
    return train(documents(200) + SPELLED, type=request.param, vocab_size=500)


def test_the_special_tokens_come_first_in_their_order(tokenizer):
    ids = tokenizer.special_ids()
    names = ("pad", "unk", "cls", "sep", "eos", "mask", "start")
    assert [ids[name] for name in names] == [0, 1, 2, 3, 4, 5, 6]
    assert ids["modes"] == (7, 8, 9) and ids["infill"] == (10, 11, 12)
    assert ids["sentinels"] == tuple(range(13, 113))
    assert ids["size"] == tokenizer.size and ids["regular_token_ranges"] == ((113, tokenizer.size),)
    assert [tokenizer.token(i) for i in range(113)] == list(SPECIALS)


@pytest.mark.parametrize("type", TYPES)
def test_tokens_that_continue_a_word_differ_from_those_that_start_one(type):
    """Words are runs of letters and digits, as in BERT, for every type of tokenizer."""
    text = "unbelievable models (stop), it's\n snake_case x2  two"
    tokenizer = train([text] + documents(50), type=type, vocab_size=420, min_frequency=1)
    flags = tokenizer.special_ids()["word_continuation"]
    assert len(flags) == tokenizer.size and set(flags) <= {0, 1, 2, 3}
    words, before = [], 0
    for token in tokenizer.encode(text + " twostopunbelievable").tolist():
        if before >= 2 and flags[token] % 2:
            words[-1].append(token)
        else:
            words.append([token])
        before = flags[token]
    assert max(map(len, words)) > 1
    spelled = " ".join(tokenizer.decode(word) for word in words)
    # Byte-level BPE does not split a contraction, like GPT-2.
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
        "</s> <s> <pad> [MASK]" * 9000,  # long enough to be split
    ]
    for text, tokens in zip(texts, tokenizer.encode_batch(texts), strict=True):
        special = set(tokens.tolist()) & set(range(113)) - {1}  # a character can be unknown
        assert not special, (text[:40], special)
        assert np.array_equal(tokenizer.encode(text[:500]), tokenizer.encode_batch([text[:500]])[0])


def test_special_tokens_are_read_from_text_when_asked_to(tokenizer):
    tokens = tokenizer.encode("the [MASK] reads <extra_id_7>", specials=True).tolist()
    assert tokens.count(5) == 1 and tokens.count(20) == 1
    # Later calls without it are not affected.
    assert 5 not in tokenizer.encode("the [MASK] reads")


def test_a_saved_tokenizer_is_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint and again.size == tokenizer.size
    text = documents(1)[0] + " [MASK]"
    assert np.array_equal(again.encode(text), tokenizer.encode(text))
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("type", ("bpe", "wordpiece"))  # Unigram promises less
def test_the_same_text_gives_the_same_tokenizer(type):
    first, second = (train(documents(60), type=type, vocab_size=420) for _ in range(2))
    other = train(documents(60, seed=1), type=type, vocab_size=420)
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_wordpiece_spells_words_with_its_longest_tokens():
    tokenizer = train(["model models modelling"] * 9 + ["un"], type="wordpiece", vocab_size=200)
    spelled = [tokenizer.token(i) for i in tokenizer.encode("models, model")]
    assert spelled[0].startswith("model") and spelled[-1] == "model"
    # any order of characters
    assert [tokenizer.token(i) for i in tokenizer.encode("nu")] == [
        "n",
        "##u",
    ]
    assert tokenizer.decode(tokenizer.encode("un models")) == "un models"


def test_byte_level_text_round_trips_and_is_never_unknown():
    tokenizer = train(documents(50), type="bpe", vocab_size=400)
    for text in ("  two  blanks\n\tand a tab ", "Ω≈ç√ 漢字 🙂", "[MASK] </s>", "x" * 5000):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text and 1 not in tokens


def test_a_long_text_has_the_tokens_of_the_whole():
    tokenizer = train(documents(100), type="bpe", vocab_size=400)
    text = "\n\n  ".join(documents(300))
    assert "".join(split_text(text, 100)) == text
    assert max(map(len, split_text(text, 100))) <= 100
    whole = library_ids(tokenizer, text)
    parts = [i for part in split_text(text, 100) for i in tokenizer.encode(part)]
    assert parts == whole
    endless = "x" * 200_000
    assert tokenizer.decode(tokenizer.encode(endless)) == endless


def test_the_size_counts_every_token_and_is_not_exceeded():
    lines = []
    small = train(["a b"], type="bpe", vocab_size=1000, log=lines.append)
    assert small.size == 113 + 256
    assert lines == ["the corpus gives 369 tokens, fewer than tokenizer.vocab_size=1000"]
    assert train(documents(300), type="bpe", vocab_size=450).size == 450
    with pytest.raises(
        ValueError, match="vocab_size is 200, but .* 300 characters .* need 413: raise it"
    ):
        train([chr(0x4E00 + i) for i in range(300)], type="wordpiece", vocab_size=200)


def test_lowercasing_is_an_option():
    for type in TYPES:
        folded = train(documents(50), type=type, vocab_size=420, lowercase=True)
        assert folded.encode("THE Model").tolist() == folded.encode("the model").tolist()


def test_a_file_that_is_not_a_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*: set tokenizer.path"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match="is not a file of the tokenizers library") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="holds no document to train a tokenizer on"):
        train([], type="bpe", vocab_size=400)


def test_a_published_tokenizer_gives_the_ids_of_its_special_tokens():
    import tokenizers

    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"<pad>": 0, "a": 1, "b": 2, "</s>": 3}, []))
    inner.add_special_tokens(["<pad>", "</s>"])
    ids = Tokenizer(inner).special_ids()
    assert (ids["pad"], ids["eos"], ids["start"], ids["mask"]) == (0, 3, 0, -1)
    assert ids["regular_token_ranges"] == ((1, 3),) and ids["sentinels"] == ()
