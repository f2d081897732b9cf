"""Framing, by hand: what stands around a document, around a pair, and what is cut off.

The one function that pretraining, finetuning and generation share.
"""

import numpy as np
import pytest

from data.framing import Frame, frame, frame_example, frame_for

IDS = {"cls": 2, "sep": 3, "eos": 4}
ENCODER, DECODER = Frame((2,), (3,), (3,)), Frame((), (4,), (3,))


def test_each_architecture_has_its_frame():
    assert frame_for("encoder", IDS) == ENCODER
    assert frame_for("decoder", IDS) == DECODER == frame_for("encoder_decoder", IDS)
    with pytest.raises(ValueError, match="unknown architecture .rnn.: choose one of encoder"):
        frame_for("rnn", IDS)
    with pytest.raises(ValueError, match="no cls token"):
        frame_for("encoder", {"cls": -1, "sep": 3, "eos": 4})


def test_a_frame_of_the_tokenizers_own_goes_before_and_closes_documents():
    roberta, llama, bare = Frame((2,), (3,), (3, 3)), Frame((7,), (), (7,)), Frame((), (), (4,))
    assert frame_for("encoder", IDS, roberta) == frame_for("encoder", IDS, roberta, True) == roberta
    assert frame_for("decoder", IDS, llama) == llama
    assert frame_for("decoder", IDS, llama, documents=True) == Frame((7,), (4,), (7,))
    assert frame_for("decoder", IDS, bare) == bare
    assert frame_for("decoder", IDS, bare, documents=True) == Frame((), (4,), (4,))
    assert frame_for("encoder", IDS, bare) == ENCODER  # only a decoder reads a bare text
    assert frame_for("encoder_decoder", IDS, bare) == DECODER
    with pytest.raises(ValueError, match="no eos token"):
        frame_for("decoder", {"cls": 2, "sep": 3, "eos": -1}, llama, documents=True)
    assert frame_example([10, 11, 12], [13, 14], roberta, 8).tolist() == [
        2,
        10,
        11,
        3,
        3,
        13,
        14,
        3,
    ]
    with pytest.raises(ValueError, match="the frame alone takes 4"):
        frame_example([10], [11], roberta, 4)


@pytest.mark.parametrize(
    ("of", "expected"),
    [(ENCODER, [2, 10, 11, 3, 2, 12, 3, 2, 3]), (DECODER, [10, 11, 4, 12, 4, 4])],
)
def test_many_documents_are_framed_as_each_alone(of, expected):
    pieces, lengths = np.array([10, 11, 12], np.uint16), np.array([2, 1, 0])
    framed = frame(pieces, lengths, of)
    assert framed.dtype == np.int32
    assert framed.tolist() == expected
    alone = [
        frame(part, np.array([len(part)]), of) for part in (pieces[:2], pieces[2:], pieces[:0])
    ]
    assert np.concatenate(alone).tolist() == expected


def test_lengths_that_do_not_sum_to_the_pieces_are_refused():
    with pytest.raises(ValueError, match="lengths sum to 3, but there are 2"):
        frame(np.arange(2), np.array([1, 2]), ENCODER)


def test_an_example_keeps_its_opening_and_closing_however_short_the_room():
    assert frame_example(range(10, 20), None, ENCODER, 5).tolist() == [2, 10, 11, 12, 3]
    assert frame_example(range(10, 20), None, DECODER, 5).tolist() == [10, 11, 12, 13, 4]
    assert frame_example([10], None, ENCODER, 5).tolist() == [2, 10, 3]
    with pytest.raises(ValueError, match="max_length is 2, but the frame alone takes 2"):
        frame_example([10], None, ENCODER, 2)


@pytest.mark.parametrize(
    ("first", "second", "room", "kept"),
    [(2, 3, 5, (2, 3)), (8, 3, 7, (4, 3)), (3, 8, 7, (3, 4)), (9, 9, 6, (3, 3)), (9, 9, 7, None)],
)
def test_pairs_lose_the_end_of_the_longer_text_first(first, second, room, kept):
    a, b = list(range(10, 10 + first)), list(range(30, 30 + second))
    framed = frame_example(a, b, ENCODER, room + 3).tolist()
    assert framed[0] == 2 and framed[-1] == 3
    middle = framed.index(3)
    left, right = framed[1:middle], framed[middle + 1 : -1]
    assert left == a[: len(left)] and right == b[: len(right)]
    assert len(framed) == room + 3
    if kept:
        assert (len(left), len(right)) == kept
    else:
        assert abs(len(left) - len(right)) == 1
