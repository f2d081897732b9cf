"""Text of tokens as they come: whole characters, blanks as in the whole text, stop strings."""

import numpy as np
import pytest

from data import tokenizer as tokenizers
from data.text_stream import TextStream

TEXTS = [
    "The river bends, and the light isn't there.", "naïve café – 'quoted' text", "日本語 と 🙂👩‍👩‍👧 emoji",
    "a  b\n\n  c\td", "don't stop . now !",
]  # fmt: skip


@pytest.fixture(scope="module", params=["bpe", "wordpiece", "unigram"])
def tokenizer(request):
    return tokenizers.train(
        [text for text in TEXTS for _ in range(3)], type=request.param, vocab_size=480
    )


def streamed(tokenizer, ids, before=(), stop=()):
    stream = TextStream(tokenizer, before, stop)
    parts = [stream.add(token) for token in ids]
    return [*parts, stream.finish()], stream


@pytest.mark.parametrize("text", TEXTS)
def test_the_parts_are_whole_characters_and_join_to_the_decoded_text(tokenizer, text):
    ids = tokenizer.encode(text)
    parts, stream = streamed(tokenizer, ids)
    assert "".join(parts) == stream.text == tokenizer.decode(ids)
    assert not any("\ufffd" in part for part in parts) and stream.num_tokens == len(ids)


@pytest.mark.parametrize("text", TEXTS)
def test_a_continuation_has_the_blank_that_it_has_in_the_whole_text(tokenizer, text):
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    for cut in range(1, len(ids)):
        start = tokenizer.decode(ids[:cut])
        if start.endswith("\ufffd"):
            continue
        assert start + "".join(streamed(tokenizer, ids[cut:], ids[:cut])[0]) == whole


def test_special_tokens_have_no_text_and_take_no_blank(tokenizer):
    special = tokenizer.special_ids()
    first, second = (tokenizer.encode(word) for word in ("river", "light"))
    marks = [special["sentinels"][0]], [special["sentinels"][1], special["eos"]]
    ids = np.concatenate([marks[0], first, marks[1], second])
    parts, _ = streamed(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids, skip_specials=True)


@pytest.mark.parametrize("stop", ["light", "er bends, and the li", "r", "🙂", "café – 'qu"])
def test_a_stop_string_ends_the_text_wherever_tokens_are_split(tokenizer, stop):
    for text in TEXTS:
        ids = tokenizer.encode(text)
        whole = tokenizer.decode(ids)
        parts, stream = streamed(tokenizer, ids, stop=(stop, "never there"))
        expected, found, _ = whole.partition(stop)
        assert "".join(parts) == stream.text == expected
        assert stream.stopped == bool(found)
        if found:  # the tokens end with the one that completes the stop string
            read = [tokenizer.decode(ids[:n]) for n in range(len(ids) + 1)]
            assert stream.num_tokens == next(n for n, each in enumerate(read) if stop in each)
        else:
            assert stream.num_tokens == len(ids)


def test_what_may_become_a_stop_string_is_not_shown_before_it_is_decided():
    words = tokenizers.of_words(["a", "b", "c"])
    ids = words.encode("a b a c").tolist()
    stream = TextStream(words, stop=("b c", " a c"))
    assert [stream.add(token) for token in ids] == ["a", " ", "b", ""]
    assert stream.stopped and stream.text == "a b" and stream.num_tokens == 4
    stream = TextStream(words, stop=("b c",))
    assert [stream.add(token) for token in ids[:2]] == ["a", " "] and stream.finish() == "b"


def test_a_character_that_is_never_completed_comes_at_the_end():
    tokenizer = tokenizers.train(["x 🙂"] * 3, type="bpe", vocab_size=370)
    ids = tokenizer.encode("x🙂")
    parts, stream = streamed(tokenizer, ids[:-1])
    assert parts[0] == "x" and set(parts[1:-1]) <= {""} and parts[-1] == "\ufffd"
    assert stream.text == "x\ufffd"
