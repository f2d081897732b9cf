"""The marks of a row say what the arrays say, on rows written by hand."""

import numpy as np
import pytest

from data import tokenizer as tokenizers
from models.sequence import Sequence
from objectives.batch import Batch
from tools import marks

PIECES = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[EOS]", "the", "riv", "##er", "runs", "cold")
PAD, CLS, SEP, MASK, EOS, THE, RIV, ER, RUNS, COLD = range(10)


class Tokenizer:
    """Ten pieces, written as WordPiece writes them."""

    def special_ids(self):
        return {"size": 10, "pad": 0, "cls": 1, "sep": 2, "mask": 3, "eos": 4, "sentinels": (),
                "ordinary": ((5, 10),)}  # fmt: skip

    def piece(self, token):
        return PIECES[token] if token < len(PIECES) else ""

    def encode(self, text):
        return [THE]

    def decode(self, ids):
        return " ".join(PIECES[i] for i in ids).replace(" ##", "")


def sequence(tokens, segments=None, prefix=None, types=None, visibility="all"):
    tokens = np.array(tokens, np.int32)
    segments = (tokens > 0).astype(np.int32) if segments is None else np.array(segments, np.int32)
    return Sequence(tokens, segments, np.zeros_like(tokens), prefix, types, visibility)


def batch(inputs, targets, weights, indices=None, decoder=None):
    as_array = lambda x, kind: None if x is None else np.array(x, kind)  # noqa: E731
    return Batch(inputs, decoder, as_array(targets, np.int32), as_array(weights, np.float32),
                 as_array(indices, np.int32))  # fmt: skip


def drawn(row, labels=()):
    """The lines as 'name document│text'."""
    lines = marks.lines(row, marks.Pieces(Tokenizer()), labels)
    return [f"{name} {document}│{text.plain}" for name, document, text in lines]


def test_masked_replaced_and_kept_pieces_show_what_they_were():
    inputs = sequence([CLS, MASK, ER, COLD, RUNS, SEP, PAD, PAD])
    row = batch(inputs, [RIV, RUNS, RUNS, 0], [1, 1, 1, 0], [1, 3, 4, 0])
    assert drawn(row) == [
        "inputs 1│[CLS] [MASK]→riv·er cold→runs runs→= [SEP]",
        "inputs │2 of padding",
    ]
    (_, _, text), _ = marks.lines(row, marks.Pieces(Tokenizer()))
    styles = {text.plain[s.start : s.end]: s.style for s in text.spans}
    assert styles["[MASK]"] == marks.STYLES["masked"]
    assert styles["cold"] == marks.STYLES["replaced"]
    assert styles["runs"] == marks.STYLES["kept"]


def test_what_is_predicted_from_the_pieces_before_it_stands_in_brackets():
    inputs = sequence([THE, RIV, ER, EOS, COLD, RUNS], [1, 1, 1, 1, 2, 2], visibility="causal")
    row = batch(inputs, [RIV, ER, EOS, COLD, RUNS, EOS], [1, 1, 1, 0, 1, 1])
    assert drawn(row) == ["inputs 1│the ‹riv·er [EOS]›", "inputs 2│cold ‹runs›→[EOS]"]


def test_a_prefix_ends_at_its_bar_and_uncommon_weights_are_written():
    prefix = np.array([1, 1, 0, 0, 1], bool)
    inputs = sequence([THE, RIV, ER, RUNS, COLD], [1, 1, 1, 1, 2], prefix, visibility="prefix")
    row = batch(inputs, [ER, RUNS, 0], [1, 0.5, 0], [1, 2, 0])
    assert drawn(row) == ["inputs 1│the riv ‖·‹er›→runs×0.5 runs", "inputs 2│cold ‖"]


def test_predictions_stand_on_the_decoders_side_where_there_is_one():
    decoder = sequence([EOS, THE, RIV], visibility="causal")
    row = batch(sequence([RUNS, MASK]), [THE, RIV, ER], [1, 1, 1], decoder=decoder)
    assert drawn(row) == ["inputs 1│runs [MASK]", "decoder 1│[EOS] ‹the riv›→·er"]


def test_several_targets_of_one_position_and_labels_by_name():
    row = batch(sequence([THE, RUNS]), [RUNS, COLD, THE], [1, 1, 1], [0, 0, 1])
    assert drawn(row) == ["inputs 1│the→runs→cold runs→the"]
    assert drawn(batch(sequence([CLS, RUNS]), [1], [1], [0]), ("dry", "wet")) == [
        "inputs 1│[CLS]→wet runs"
    ]


def test_noise_words_are_pieces():
    row = batch(sequence([RIV, RUNS]), [RUNS, RIV], [1, 1], [0, 1])
    row = row.replace(noise=np.array([COLD, THE, COLD], np.int32))
    assert drawn(row) == ["inputs 1│riv→runs runs→riv", "noise │cold the cold"]


def test_fields_that_this_file_has_never_heard_of_are_shown(monkeypatch):
    types = np.array([0, 0, 1], np.int32)
    row = batch(sequence([THE, RUNS, COLD], types=types), [[1, 1], [2, 2]], [[1, 1], [1, 1]])
    assert drawn(row) == [
        "inputs 1│the runs cold", "inputs.types │0×2 1", "targets │1×2 2×2", "weights │1×4"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_pieces_joined_give_the_text_back(kind):
    text = "the river runs cold in winter and the rivers ran colder before"
    made = tokenizers.train([text] * 9, kind=kind, vocab_size=400, min_frequency=2)
    pieces = marks.Pieces(made)
    shown = "".join(
        ("" if joined else " ") + word for word, joined in map(pieces, made.encode(text))
    )
    assert shown.replace("␣", "").strip() == text
    assert pieces(made.special_ids()["mask"]) == ("[MASK]", False)
