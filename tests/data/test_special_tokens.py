"""Special tokens, by hand: around a document, around a pair, and what truncation removes.

The same function serves pretraining, finetuning and generation.
"""

import numpy as np
import pytest

from data.special_tokens import (
    SpecialTokenTemplate,
    add_special_tokens,
    encode_example,
    template_for,
)

IDS = {"cls": 2, "sep": 3, "eos": 4}
ENCODER = SpecialTokenTemplate((2,), (3,), (3,))
DECODER = SpecialTokenTemplate((), (4,), (3,))


def test_each_architecture_has_its_template():
    assert template_for("encoder", IDS) == ENCODER
    assert template_for("decoder", IDS) == DECODER == template_for("encoder_decoder", IDS)
    with pytest.raises(ValueError, match="unknown architecture .rnn.: choose one of encoder"):
        template_for("rnn", IDS)
    with pytest.raises(ValueError, match="no cls token"):
        template_for("encoder", {"cls": -1, "sep": 3, "eos": 4})


def test_the_template_of_a_published_tokenizer_takes_precedence_and_documents_still_end():
    roberta = SpecialTokenTemplate((2,), (3,), (3, 3))
    llama = SpecialTokenTemplate((7,), (), (7,))
    bare = SpecialTokenTemplate((), (), (4,))
    assert template_for("encoder", IDS, roberta) == roberta
    assert template_for("encoder", IDS, roberta, True) == roberta
    assert template_for("decoder", IDS, llama) == llama
    ended = template_for("decoder", IDS, llama, documents=True)
    assert ended == SpecialTokenTemplate((7,), (4,), (7,))
    assert template_for("decoder", IDS, bare) == bare
    ended = template_for("decoder", IDS, bare, documents=True)
    assert ended == SpecialTokenTemplate((), (4,), (4,))
    assert template_for("encoder", IDS, bare) == ENCODER  # only a decoder reads a bare text
    assert template_for("encoder_decoder", IDS, bare) == DECODER
    with pytest.raises(ValueError, match="no eos token"):
        template_for("decoder", {"cls": 2, "sep": 3, "eos": -1}, llama, documents=True)
    pair = encode_example([10, 11, 12], [13, 14], roberta, 8)
    assert pair.tolist() == [2, 10, 11, 3, 3, 13, 14, 3]
    with pytest.raises(ValueError, match="the special tokens alone take 4"):
        encode_example([10], [11], roberta, 4)


@pytest.mark.parametrize(
    ("template", "expected"),
    [(ENCODER, [2, 10, 11, 3, 2, 12, 3, 2, 3]), (DECODER, [10, 11, 4, 12, 4, 4])],
)
def test_many_documents_get_the_special_tokens_of_each_alone(template, expected):
    tokens, lengths = np.array([10, 11, 12], np.uint16), np.array([2, 1, 0])
    together = add_special_tokens(tokens, lengths, template)
    assert together.dtype == np.int32
    assert together.tolist() == expected
    alone = [
        add_special_tokens(part, np.array([len(part)]), template)
        for part in (tokens[:2], tokens[2:], tokens[:0])
    ]
    assert np.concatenate(alone).tolist() == expected


def test_lengths_that_do_not_sum_to_the_tokens_are_refused():
    with pytest.raises(ValueError, match="lengths sum to 3, but there are 2"):
        add_special_tokens(np.arange(2), np.array([1, 2]), ENCODER)


def test_an_example_keeps_its_prefix_and_suffix_at_any_length():
    assert encode_example(range(10, 20), None, ENCODER, 5).tolist() == [2, 10, 11, 12, 3]
    assert encode_example(range(10, 20), None, DECODER, 5).tolist() == [10, 11, 12, 13, 4]
    assert encode_example([10], None, ENCODER, 5).tolist() == [2, 10, 3]
    with pytest.raises(ValueError, match="max_length is 2, but the special tokens alone take 2"):
        encode_example([10], None, ENCODER, 2)


@pytest.mark.parametrize(
    ("first", "second", "limit", "kept"),
    [(2, 3, 5, (2, 3)), (8, 3, 7, (4, 3)), (3, 8, 7, (3, 4)), (9, 9, 6, (3, 3)), (9, 9, 7, None)],
)
def test_pairs_lose_the_end_of_the_longer_text_first(first, second, limit, kept):
    a, b = list(range(10, 10 + first)), list(range(30, 30 + second))
    encoded = encode_example(a, b, ENCODER, limit + 3).tolist()
    assert encoded[0] == 2 and encoded[-1] == 3
    middle = encoded.index(3)
    left, right = encoded[1:middle], encoded[middle + 1 : -1]
    assert left == a[: len(left)] and right == b[: len(right)]
    assert len(encoded) == limit + 3
    if kept:
        assert (len(left), len(right)) == kept
    else:
        assert abs(len(left) - len(right)) == 1
