"""Labels as words: the prompt, the words of each label, and predictions as the likeliest words."""

import functools

import jax
import labeled_tasks
import numpy as np
import pytest
from labeled_tasks import EOS, SEP, START, WORDS, ids

import models
from data import tokenizer as tokenizers
from generation import Generated
from tasks import evaluate, generated_texts

NAME = "text_to_text"
ROWS = [
    {"text": "w1 w2", "label": "no"}, {"text": "w3", "label": "yes"},
    {"text": "w4 w5 w6", "label": "no"}, {"text": "w2 w1", "label": "yes"},
]  # fmt: skip
SPLITS = {"train": ROWS, "validation": ROWS[:3]}
OPTIONS = {"verbalizers": (("no", "w10"), ("yes", "w11 w12")), "max_target_len": 4}
GENERATING = ("decoder", "encoder_decoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("words")


def load(folder, architecture="encoder_decoder", splits=SPLITS, batch=(2, 2), **options):
    return labeled_tasks.load(folder, NAME, architecture, splits, batch, **OPTIONS | options)


def test_training_reads_the_words_of_the_label_and_evaluation_those_of_each(folder):
    task = load(folder)
    batch = task.batch("train", np.array([0, 1]))
    np.testing.assert_array_equal(batch.targets[0], [*ids("w10"), EOS, 0])
    np.testing.assert_array_equal(batch.targets[1], [*ids("w11 w12"), EOS])
    first, second = task.eval_inputs("validation")
    assert first.targets.shape == (2, 2, 3)
    np.testing.assert_array_equal(first.targets[0], first.targets[1])
    np.testing.assert_array_equal(first.targets[0], batch.targets)
    np.testing.assert_array_equal(first.decoder_inputs.tokens[0, 1], [START, *ids("w11 w12")])
    np.testing.assert_array_equal(first.inputs.tokens[0, 0], first.inputs.tokens[0, 1])
    assert not second.loss_weights[1].any() and second.loss_weights[0].any()
    decoder = load(folder, "decoder").batch("train", np.array([1]))
    np.testing.assert_array_equal(decoder.inputs.tokens[0][:4], [*ids("w3"), SEP, *ids("w11 w12")])


@pytest.mark.parametrize("architecture", GENERATING)
def test_a_prediction_is_the_label_whose_words_are_likeliest(folder, architecture):
    task = load(folder, architecture)
    model = models.build(task.model_config)
    rngs = {"init": jax.random.key(0), "head": jax.random.key(1)}
    params = jax.jit(functools.partial(task.init, model=model))(rngs)
    outputs = jax.jit(functools.partial(task.outputs, model))
    losses = jax.jit(lambda params, batch: task.losses(model, params, batch, None))
    with jax.numpy_dtype_promotion("strict"):
        found, scores = evaluate(task, "validation", lambda batch: outputs(params, batch))
        # The loss of the right words is that of training.
        for row, label in enumerate([0, 1, 0]):
            total, weight = losses(params, task.batch("train", np.array([row])))[NAME]
            np.testing.assert_allclose(-found[row, label], total, rtol=1e-4)
            assert weight == [2, 3][label]
    assert found.shape == (3, 2)
    assert scores["accuracy"] == pytest.approx((found.argmax(1) == [0, 1, 0]).mean())
    assert [row["label"] for row in task.prediction_rows("validation", found)] == [
        "no",
        "yes",
        "no",
    ]
    if architecture == "decoder":
        by_token = load(folder, architecture, length_normalized=True)
        (batch, *_) = by_token.eval_inputs("validation")
        means = by_token.outputs(model, params, batch)
        np.testing.assert_allclose(means, found[:2] / np.array([2, 3]), rtol=1e-4)


@pytest.mark.parametrize("architecture", GENERATING)
def test_a_generated_label_is_the_prediction_and_other_words_are_wrong(
    folder, architecture, monkeypatch
):
    answers = ["w10", "w10 w1", "w10"]

    def generate(model, params, prompts, config, *, eos_ids, mesh):
        assert len(prompts) == 3 and config.num_beams == 1 and config.max_new_tokens == 4
        found = [np.array([*ids(text), EOS], np.int32) for text in answers]
        return [[Generated(each, np.zeros(len(each), np.float32), "stop", -1.0)] for each in found]

    monkeypatch.setattr(generated_texts, "generate", generate)
    task = load(folder, architecture, final_generation=True)
    assert [task.num_to_generate("validation", final) for final in (False, True)] == [0, 3]
    yes = np.array([[0.0, 1.0]] * 3, np.float32)  # the label whose words are likeliest
    found = task.with_generated(yes, task.generate("validation", None, None, None, True, 3))
    scores = task.score("validation", found)  # of the labels no, yes, no
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx(1 / 3)  # of no, yes, and other words
    assert scores["loss"] == task.score("validation", yes)["loss"]
    rows = list(task.prediction_rows("validation", found))
    assert [row["prediction"] for row in rows] == ["no", "", "no"]
    assert [row["generated"] for row in rows] == answers


@pytest.mark.parametrize("architecture", GENERATING)
def test_batches_of_similar_length_hold_the_same_prompts(folder, architecture):
    rows = [{"text": " ".join(["w1"] * n), "label": "ny"[n % 2]} for n in (1, 2, 3, 20, 21, 22)]
    splits = {"train": rows, "validation": rows}
    words = {"verbalizers": (("n", "w10"), ("y", "w11 w12")), "max_seq_len": 32}
    whole = load(folder, architecture, splits, **words)
    short = load(folder, architecture, splits, **words, length_group_steps=3)
    batches = list(short.eval_inputs("validation"))
    widths = [batch.inputs.tokens.shape[-1] for batch in batches]
    assert widths[0] < widths[-1] <= whole.full_shape[0]
    texts = [task.collect("validation", [b.inputs.segment_ids.sum((1, 2)) for b in task.eval_inputs(
        "validation")]) for task in (whole, short)]  # fmt: skip
    np.testing.assert_array_equal(*texts)


def test_packed_training_batches_have_the_same_losses(folder):
    """Of a decoder; in an encoder-decoder the words of one label fill a row of its decoder."""
    architecture = "decoder"
    texts = labeled_tasks.random_texts(40)
    rows = [{"text": text, "label": ("no", "yes")[n % 2]} for n, text in enumerate(texts)]
    splits = {"train": rows, "validation": rows[:5]}
    options = {"max_seq_len": 32}
    plain = load(folder, architecture, splits, (16, 4), **options)
    packed = load(folder, architecture, splits, (16, 4), **options, packing=True)
    model = models.build(plain.model_config)
    rngs = {"init": jax.random.key(0), "head": jax.random.key(1)}
    params = jax.jit(functools.partial(plain.init, model=model))(rngs)
    losses = jax.jit(lambda params, batch: plain.losses(model, params, batch, None))
    both = [task.train_inputs(0) for task in (plain, packed)]
    assert both[0].packing is None and both[1].packing.num_rows < 16
    one, other = (losses(params, batch) for batch in both)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), one, other)
    (batch, *_) = packed.eval_inputs("validation")
    assert batch.packing is None and batch.targets.ndim == 3


def test_a_prompt_names_columns_and_what_follows_the_last_one_is_never_cut(folder):
    rows = [{"a": "w1", "b": "w2 w3 w4 w5 w6 w7 w8", "label": label} for label in ("no", "yes")]
    task = load(folder, splits={"train": rows, "validation": rows}, prompt="w20 {a} w21 {b} w22")
    expected = [*ids("w20 w1 w21 w2 w3 w4 w22"), EOS]
    assert task.encoded["train"].tokens[0].tolist() == expected
    assert task.encoded["train"].num_truncated == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"prompt": "no column"}, "has no column in it: write {text}"),
        ({"prompt": "{text"}, "expected '}' before end of string; write {{ and }}"),
        ({"prompt": "{}"}, "expected names of columns in braces"),
        ({"prompt": "{text!r}"}, "expected names of columns in braces"),
        ({"prompt": "{text} {word}"}, "has no column 'word'.*set task.prompt to one of"),
        ({"prompt": "{text_pair}"}, "has {text_pair}: set task.text_pair_column"),
        ({"text_pair_column": "label"}, "has no {text_pair}: write it where"),
        ({"verbalizers": ("no", "yes")}, "expected pairs of a label and its words"),
        ({"verbalizers": (("noo", "w1"),)}, "has the label 'noo' .did you mean 'no'"),
        ({"verbalizers": (("no", "w1"), ("yes", "w1"))}, "'no' and 'yes' have the same words"),
        ({"verbalizers": (("no", " "),)}, "words are empty"),
        ({"verbalizers": ()}, "labels 'no' and 'yes' have the same tokens, as with unknown words"),
        ({"max_target_len": 2}, "'w11 w12' is longer than task.max_target_len=2"),
        ({"attention": "prefix"}, "task.attention='prefix' is an option of decoders"),
    ],
)
def test_words_that_say_nothing_are_refused(folder, options, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400


def test_an_encoder_is_refused(folder):
    tokenizers.of_words(WORDS).save(folder / "tokenizer.json")
    with pytest.raises(ValueError, match="which an encoder cannot: use task.name=classification"):
        load(folder, "encoder")
