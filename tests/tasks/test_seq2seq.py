"""Sequence-to-sequence: what a batch holds, exact scores, and that both architectures learn to copy.

The tokenizer is a list of words; special tokens, lengths and positions are written out by hand.
"""

import dataclasses
import functools
import math

import jax
import labeled_tasks
import numpy as np
import pytest
from labeled_tasks import CLS, EOS, FIRST, PAD, SEP, START, ids
from pairs import MODELS, load, tokenizer_folder, trained_on

from data.special_tokens import SpecialTokenTemplate, pair_templates
from tasks import evaluate

each_model = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer_folder(tmp_path_factory.mktemp("pairs"))


PAIRS = ["w1 w2", "w0"], ["w11 w12", "w11"]


def test_an_encoder_decoder_reads_the_source_and_generates_the_target(folder):
    task = load(
        folder, "encoder_decoder", {"train": PAIRS, "validation": PAIRS}, batch=(2, 3)
    )  # fmt: skip
    (batch,) = task.eval_inputs("validation")
    a, b = ids("w11 w12")
    np.testing.assert_array_equal(batch.inputs.tokens, [
        [*ids("w1 w2"), EOS, *[PAD] * 5], [FIRST, EOS, *[PAD] * 6], [PAD] * 8
    ])  # fmt: skip
    np.testing.assert_array_equal(batch.inputs.segment_ids.sum(1), [3, 2, 0])
    np.testing.assert_array_equal(batch.decoder_inputs.tokens, [
        [START, a, b, *[PAD] * 3], [START, a, *[PAD] * 4], [PAD] * 6
    ])  # fmt: skip
    np.testing.assert_array_equal(batch.decoder_inputs.segment_ids.sum(1), [3, 2, 0])
    np.testing.assert_array_equal(batch.decoder_inputs.positions[0], [0, 1, 2, 0, 0, 0])
    np.testing.assert_array_equal(batch.targets[:2], [
        [a, b, EOS, *[PAD] * 3], [a, EOS, *[PAD] * 4]
    ])  # fmt: skip
    np.testing.assert_array_equal(batch.loss_weights.sum(1), [3, 2, 0])
    assert batch.decoder_inputs.attention == "causal" and batch.target_positions is None


@pytest.mark.parametrize("attention", ["causal", "prefix"])
def test_a_decoder_reads_source_and_target_in_one_row_and_only_the_target_counts(folder, attention):
    task = load(folder, attention, {"train": PAIRS, "validation": PAIRS}, batch=(2, 3))
    (batch,) = task.eval_inputs("validation")
    a, b = ids("w11 w12")
    np.testing.assert_array_equal(batch.inputs.tokens, [
        [*ids("w1 w2"), SEP, a, b, *[PAD] * 9], [FIRST, SEP, a, *[PAD] * 11], [PAD] * 14
    ])  # fmt: skip
    np.testing.assert_array_equal(batch.inputs.segment_ids.sum(1), [5, 3, 0])
    np.testing.assert_array_equal(batch.inputs.positions[0], [0, 1, 2, 3, 4, *[0] * 9])
    np.testing.assert_array_equal(batch.target_positions, [[2, 3, 4, 0, 0, 0], [1, 2, 0, 0, 0, 0],
                                                           [0] * 6])  # fmt: skip
    np.testing.assert_array_equal(batch.targets[0], [a, b, EOS, PAD, PAD, PAD])
    np.testing.assert_array_equal(batch.loss_weights.sum(1), [3, 2, 0])
    assert batch.inputs.attention == attention
    if attention == "prefix":
        np.testing.assert_array_equal(batch.inputs.prefix.sum(1), [3, 2, 0])
        assert batch.inputs.prefix[0, :3].all()
    else:
        assert batch.inputs.prefix is None


def test_the_separator_is_that_of_the_template_or_the_end_token():
    special = {"cls": CLS, "sep": SEP, "eos": EOS, "start": START}
    found = pair_templates("decoder", special)
    assert found == (
        SpecialTokenTemplate((), (SEP,), (SEP,)),
        SpecialTokenTemplate((), (EOS,), ()),
    )  # fmt: skip
    llama = SpecialTokenTemplate((9,), (), ())
    source, target = pair_templates("decoder", special, llama)
    assert (source.prefix, source.suffix, target.prefix, target.suffix) == (
        (9,),
        (EOS,),
        (),
        (EOS,),
    )
    bart = SpecialTokenTemplate((9,), (EOS,), (EOS, EOS))
    assert pair_templates("encoder_decoder", special, bart) == (bart, bart)
    with pytest.raises(ValueError, match="no eos token"):
        pair_templates("decoder", {**special, "eos": -1}, llama)


@each_model
def test_a_prompt_keeps_what_follows_the_source_and_truncations_are_said(folder, kind):
    long = " ".join(["w5"] * 20)
    splits = {"train": ([long, "w1"], ["w2", long]), "validation": PAIRS}
    task = load(folder, kind, splits, (2, 2), prompt="w8 {source} w9")
    (batch,) = task.eval_inputs("train")
    end = EOS if kind == "encoder_decoder" else SEP
    expected = [*ids("w8"), *ids(long)[:5], *ids("w9"), end]
    np.testing.assert_array_equal(batch.inputs.tokens[0, :8], expected)
    np.testing.assert_array_equal(batch.inputs.tokens[1, :4], [*ids("w8 w1 w9"), end])
    np.testing.assert_array_equal(batch.targets[1], [*ids(long)[:5], EOS])
    lines = task.describe()
    assert any("1 of 2 train examples were truncated to 8 tokens" in line for line in lines)
    assert sum("1 of 2 train targets were truncated to 6 tokens" in line for line in lines) == 1
    # The truncated target has 5 of its 20 words: "w5 w5 w5 w5 w5".
    np.testing.assert_array_equal(task.encoded["train"].target_bytes, [2, 14])
    assert not any("validation" in line and "truncated" in line for line in lines)


@functools.cache
def compiled(folder, kind):
    """Jitted (params, batch) -> (losses, outputs)."""
    task, model, _ = trained_on(folder, kind)
    return labeled_tasks.computing(task, model)


def scores_of(folder, kind, params, size=16):
    """(summed losses, scores) of the validation split, evaluated in batches of `size`."""
    task, sums = dataclasses.replace(trained_on(folder, kind)[0], eval_batch_size=size), []

    def predict(batch):
        with jax.numpy_dtype_promotion("strict"):
            losses, outputs = compiled(folder, kind)(params, batch)
        assert float(task.loss_denominators(batch)["seq2seq"]) == losses["seq2seq"][1]
        sums.append(losses)
        return outputs

    outputs, scores = evaluate(task, "validation", predict)
    return jax.tree.map(lambda *x: float(np.sum(x)), *sums), outputs, scores


@each_model
def test_invariant_05_the_scores_are_exact_sums_over_tokens_whatever_the_batch(folder, kind):
    task, _, params = trained_on(folder, kind)
    tokens = int(task.encoded["validation"].target_lengths.sum())
    sums, outputs, scores = scores_of(folder, kind, params)
    assert outputs.shape == (11, 2) and sums["seq2seq"][1] == tokens
    np.testing.assert_allclose(sums["seq2seq"][0] / tokens, scores["loss"], rtol=1e-5)
    np.testing.assert_allclose(sums["accuracy"][0] / tokens, scores["accuracy"], rtol=1e-6)
    text = task.texts["validation"].get("target")
    size = sum(len(each.encode()) for each in text)
    bits = sums["seq2seq"][0] / math.log(2) / size
    np.testing.assert_allclose(scores["bits_per_byte"], bits, rtol=1e-5)
    np.testing.assert_allclose(scores["perplexity"], math.exp(scores["loss"]), rtol=1e-5)
    _, others, again = scores_of(folder, kind, params, 4)
    np.testing.assert_allclose(others, outputs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(list(again.values()), list(scores.values()), rtol=1e-5)
    rows = list(task.prediction_rows("validation", outputs))
    assert [row["id"] for row in rows] == list(range(11))
    np.testing.assert_allclose(sum(row["loss"] * row["tokens"] for row in rows), sums["seq2seq"][0],
                               rtol=1e-4)  # fmt: skip
    assert sum(row["correct"] for row in rows) == sums["accuracy"][0]


@each_model
def test_the_loss_is_that_of_the_whole_sequence_under_the_plain_logits(folder, kind):
    """The reference runs each example alone, and takes log softmax of all its logits."""
    task, model, params = trained_on(folder, kind)
    _, outputs, _ = scores_of(folder, kind, params)
    encoded = task.encoded["validation"]
    for example in range(3):
        batch = task.batch("validation", np.array([example]))
        hidden = model.apply({"params": params}, batch.inputs, batch.decoder_inputs)
        features = model.apply({"params": params}, hidden, method="lm_features")
        table, bias = model.apply({"params": params}, method="output_embedding")
        features, table, bias = (np.asarray(x, np.float64) for x in (features[0], table, bias))
        logits = (features @ table.T + bias)[:, :143]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        count = encoded.target_lengths[example]
        first = 0 if kind == "encoder_decoder" else encoded.lengths[example] - 1
        target = encoded.target_tokens[example, :count]
        loss = -log_p[np.arange(first, first + count), target].sum()
        np.testing.assert_allclose(outputs[example, 0], loss, rtol=1e-4)


@each_model
def test_invariant_08_a_later_token_of_the_target_never_changes_an_earlier_loss(folder, kind):
    """A source token does; in a prefix, its last token changes the states of the first."""
    task, model, params = trained_on(folder, kind)
    batch = task.batch("validation", np.arange(11))

    def states(batch):
        return np.asarray(
            model.apply({"params": params}, batch.inputs, batch.decoder_inputs), np.float32
        )

    before, encoded = states(batch), task.encoded["validation"]
    row = int(encoded.target_lengths.argmax())
    count, start = int(encoded.target_lengths[row]), int(encoded.lengths[row])
    side = "decoder_inputs" if kind == "encoder_decoder" else "inputs"
    # the last one that is read
    last = count - 1 if kind == "encoder_decoder" else start + count - 2

    def moved(side, place):
        read = getattr(batch, side)
        tokens = read.tokens.copy()
        tokens[row, place] = FIRST + (tokens[row, place] - FIRST + 7) % 30
        after = states(batch.replace(**{side: read.replace(tokens=tokens)}))
        return np.abs(after - before)[row].max(-1) > 1e-6

    assert not moved(side, last)[:last].any() and moved(side, last)[last]
    by_source = moved("inputs", start - 2)
    if kind == "causal":
        assert not by_source[: start - 2].any() and by_source[start - 2 : last].all()
    else:
        assert by_source[:last].all()


@pytest.mark.parametrize("kind", ["prefix", "encoder_decoder"])
def test_the_model_learns_to_copy_and_label_smoothing_changes_the_training_loss_alone(folder, kind):
    task, model, params = trained_on(folder, kind)
    smooth = trained_on(folder, kind, 0.1)[0]
    before = scores_of(folder, kind, params)[2]
    init, step = labeled_tasks.adam(smooth, model)
    state = init(params)
    for number in range(120):
        key = jax.random.key(number)
        loss, params, state, _ = step(params, state, smooth.train_inputs(number), key)
    after = scores_of(folder, kind, params)[2]
    assert after["accuracy"] > 0.85 > before["accuracy"] and after["loss"] < before["loss"] / 3
    assert loss > after["loss"]  # a smoothed loss has a floor


def test_a_test_split_without_targets_has_no_scores(folder):
    splits = {"train": PAIRS, "validation": PAIRS, "test": (["w3"], None)}
    task = load(folder, "causal", splits, (2, 2))
    (batch,) = task.eval_inputs("test")
    assert batch.loss_weights.sum() == 0 and task.score("test", np.zeros((1, 2))) == {}
    (row,) = task.prediction_rows("test", np.zeros((1, 2)))
    assert row == {"id": 0, "tokens": 0, "correct": "", "loss": ""}


ENCODER = {"model_fields": (("architecture", "encoder"),)}
BAD = {
    "an encoder": ("causal", PAIRS, ENCODER, "generates text, which an encoder cannot"),
    "prefix attention of an encoder-decoder": (
        "encoder_decoder", PAIRS, {"attention": "prefix"}, "is an option of decoders"),
    "no place in the prompt": ("causal", PAIRS, {"prompt": "w1"}, "contains {source} 0 times"),
    "a prompt that fills the source": (
        "causal", PAIRS, {"prompt": f"{' w1' * 8} {{source}}"}, "prompt alone takes 9 tokens"),
    "the same column twice": ("causal", PAIRS, {"target_column": "source"}, "name two columns"),
    "a column that is not there": (
        "causal", PAIRS, {"target_column": "targets"}, "has no column 'targets'.*'target'"),
    "an empty target": ("causal", (["w1", "w2"], ["w1", " "]), {}, "2 has no value in column 'target'"),
    "an empty source": ("causal", (["", "w2"], ["w1", "w1"]), {}, "1 has no value in column 'source'"),
    "lists": ("causal", ([["w1"], ["w2"]], ["w1", "w2"]), {}, "line 1, column 'source': it is a list"),
    "a model with too few positions": (
        "causal", PAIRS, {"max_target_len": 7, "model_fields": (("max_length", 14),)},
        "max_seq_len=8 and task.max_target_len=7, but .* 14 learned .*15 tokens"),
    "one row and no validation split": ("causal", (["w1"], ["w2"]), {}, "one distinct text"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(folder, tmp_path, case):
    kind, train, options, message = BAD[case]
    tokenizer_folder(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, kind, {"train": train}, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400


def test_long_and_odd_texts_are_pairs_like_any_other(folder):
    """100,000 words, tabs and quotes, a target of unknown words, and dropped rows."""
    texts = [" ".join(["w1"] * 100_000), 'w1\t"w2"', "w3", "w4"]
    splits = {"train": (texts, ["w1", "w2", "\u4e00", ""]), "validation": PAIRS}
    lines = []
    task = load(folder, "encoder_decoder", splits, (2, 2), missing="drop", log=lines.append)
    assert len(task.encoded["train"]) == 3 and any("1 of 4 train rows" in line for line in lines)
    assert task.encoded["train"].target_lengths.tolist() == [2, 2, 2]
    assert any("1 of 3 train examples were truncated to 8 tokens" in x for x in task.describe())
