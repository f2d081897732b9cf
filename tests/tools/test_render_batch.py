"""The marks of a row are those of its arrays, on rows written by hand."""

import jax
import numpy as np
import pytest

from data import tokenizer as tokenizers
from models.inputs import ModelInputs
from objectives.batch import Batch
from tools import render_batch

TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[EOS]", "the", "riv", "##er", "runs", "cold")
PAD, CLS, SEP, MASK, EOS, THE, RIV, ER, RUNS, COLD = range(10)


class Tokenizer:
    """Ten tokens, spelled as WordPiece spells them."""

    def special_ids(self):
        return {"size": 10, "pad": 0, "cls": 1, "sep": 2, "mask": 3, "eos": 4, "sentinels": (),
                "regular_token_ranges": ((5, 10),)}  # fmt: skip

    def token(self, index):
        return TOKENS[index] if index < len(TOKENS) else ""

    def encode(self, text):
        return [THE]

    def decode(self, ids):
        return " ".join(TOKENS[i] for i in ids).replace(" ##", "")


def make_inputs(
    tokens, segment_ids=None, prefix=None, token_type_ids=None, attention="bidirectional"
):
    tokens = np.array(tokens, np.int32)
    segment_ids = np.array(tokens > 0 if segment_ids is None else segment_ids, np.int32)
    positions = np.zeros_like(tokens)
    return ModelInputs(tokens, segment_ids, positions, prefix, token_type_ids, attention)


def make_row(inputs, targets, loss_weights, target_positions=None, **fields):
    if target_positions is not None:
        fields["target_positions"] = np.array(target_positions, np.int32)
    targets, loss_weights = np.array(targets, np.int32), np.array(loss_weights, np.float32)
    return Batch(inputs=inputs, targets=targets, loss_weights=loss_weights, **fields)


def render(row, label_names=()):
    """The lines as 'name document│text'."""
    name_of = label_names.__getitem__ if label_names else None
    lines = render_batch.render_row(row, render_batch.TokenText(Tokenizer()), name_of)
    return [f"{name} {document}│{text}" for name, document, text in lines]


def test_masked_replaced_and_kept_tokens_show_their_targets():
    inputs = make_inputs([CLS, MASK, ER, COLD, RUNS, SEP, PAD, PAD])
    row = make_row(inputs, [RIV, RUNS, RUNS, 0], [1, 1, 1, 0], [1, 3, 4, 0])
    assert render(row) == [
        "inputs 1│[CLS] [MASK]→riv·er cold→runs runs→= [SEP]",
        "inputs │2 padding",
    ]


def test_tokens_predicted_from_the_token_before_them_are_in_brackets():
    inputs = make_inputs([THE, RIV, ER, EOS, COLD, RUNS], [1, 1, 1, 1, 2, 2], attention="causal")
    row = make_row(inputs, [RIV, ER, EOS, COLD, RUNS, EOS], [1, 1, 1, 0, 1, 1])
    assert render(row) == ["inputs 1│the ‹riv·er [EOS]›", "inputs 2│cold ‹runs›→[EOS]"]


def test_a_prefix_ends_at_its_bar_and_uncommon_loss_weights_are_written():
    prefix = np.array([1, 1, 0, 0, 1], bool)
    inputs = make_inputs([THE, RIV, ER, RUNS, COLD], [1, 1, 1, 1, 2], prefix, attention="prefix")
    row = make_row(inputs, [ER, RUNS, 0], [1, 0.5, 0], [1, 2, 0])
    assert render(row) == ["inputs 1│the riv ‖·‹er›→runs×0.5 runs", "inputs 2│cold ‖"]


def test_predictions_are_shown_in_the_decoder_inputs_if_there_are_any():
    decoder_inputs = make_inputs([EOS, THE, RIV], attention="causal")
    row = make_row(
        make_inputs([RUNS, MASK]), [THE, RIV, ER], [1, 1, 1], decoder_inputs=decoder_inputs
    )
    assert render(row) == ["inputs 1│runs [MASK]", "decoder_inputs 1│[EOS] ‹the riv›→·er"]


def test_several_targets_of_one_position_and_labels_by_name():
    row = make_row(make_inputs([THE, RUNS]), [RUNS, COLD, THE], [1, 1, 1], [0, 0, 1])
    assert render(row) == ["inputs 1│the→runs→cold runs→the"]
    row = make_row(make_inputs([CLS, RUNS]), [1], [1], [0])
    assert render(row, ("dry", "wet")) == ["inputs 1│[CLS]→wet runs"]


def test_negative_samples_are_shown_as_tokens():
    negatives = np.array([COLD, THE, COLD], np.int32)
    row = make_row(make_inputs([RIV, RUNS]), [RUNS, RIV], [1, 1], [0, 1], negatives=negatives)
    assert render(row) == ["inputs 1│riv→runs runs→riv", "negatives │cold the cold"]


def test_fields_without_a_place_in_the_text_are_shown_as_numbers():
    inputs = make_inputs([THE, RUNS, COLD], token_type_ids=np.array([0, 0, 1], np.int32))
    row = make_row(inputs, [[1, 1], [2, 2]], [[1, 1], [1, 1]], labels=np.int32(1))
    assert render(row) == [
        "inputs 1│the runs cold", "inputs.token_type_ids │0×2 1", "targets │1×2 2×2",
        "loss_weights │1×4", "labels │1",
    ]  # fmt: skip


def test_a_terminal_colors_targets_predictions_and_special_tokens():
    text = "[CLS] [MASK]→riv·er cold→runs ‹runs cold›"
    grid = render_batch.table([("inputs", "1", text), ("inputs", "", "2 padding")])
    colored, _ = grid.columns[2].cells
    assert colored.plain == text
    colors = {text[span.start : span.end]: span.style for span in colored.spans}
    assert colors == {
        "→riv·er": "bold yellow", "→runs": "bold yellow", "‹runs cold›": "cyan",
        "[CLS]": "magenta", "[MASK]": "magenta",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_words_of_all_tokens_are_the_text(kind):
    text = "the river runs cold in winter and the rivers ran colder before"
    tokenizer = tokenizers.train([text] * 9, type=kind, vocab_size=400, min_frequency=2)
    token_text = render_batch.TokenText(tokenizer)
    words = map(token_text, tokenizer.encode(text))
    shown = "".join(("" if continues else " ") + word for word, continues in words)
    assert shown.replace("␣", "").strip() == text
    special = tokenizer.special_ids()
    assert token_text(special["mask"]) == ("[MASK]", False)
    assert token_text(special["size"] + 1) == (f"⟨{special['size'] + 1}⟩", False)


def test_each_choice_of_a_question_is_a_sequence():
    both = [make_inputs([CLS, RUNS, SEP]), make_inputs([CLS, COLD, PAD])]
    inputs = jax.tree.map(lambda *x: np.stack(x), *both)
    row = make_row(inputs, [1], [1], [[0], [0]])
    assert render(row, ("first", "second")) == [
        "inputs[0] 1│[CLS] runs [SEP]", "inputs[1] 1│[CLS] cold", "inputs[1] │1 padding", "targets │1",
        "loss_weights │1", "target_positions │0×2",
    ]  # fmt: skip


def test_a_value_is_shown_as_a_number():
    row = Batch(
        inputs=make_inputs([CLS, RUNS]),
        targets=np.array([2.5], np.float32),
        loss_weights=np.ones(1, np.float32),
        target_positions=np.zeros(1, np.int32),
    )
    lines = render_batch.render_row(row, render_batch.TokenText(Tokenizer()), "{:g}".format)
    assert lines == [("inputs", "1", "[CLS]→2.5 runs")]
