"""Tagging: what a batch holds, windows that change no prediction, scores of every word once, the files.

The tokenizer is a list of words; special tokens, lengths and positions are written out by hand.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import labeled_tasks
import numpy as np
import pytest
from labeled_tasks import ARCHITECTURES, CLS, EOS, LENGTH, PAD, SEP, START, WORDS, ids

import models
from data import tagged
from data import tokenizer as tokenizers
from data.examples import Examples
from data.labeled import LabeledSplits
from tasks import evaluate
from training import config as config_lib
from training.schema import FinetuneConfig

EMB_DIM = 16
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
TAGS = ("B-X", "I-X", "O")


def model_config(architecture, **fields):
    """States depend on the two tokens on each side alone (before, in a decoder), wherever they are."""
    sizes = {"num_layers": 1, "emb_dim": EMB_DIM, "num_heads": 2, "mlp_dim": 32, "vocab_size": 143,
             "max_length": 64, "init_std": 0.3, "positions": "rope", "sliding_window": 3}  # fmt: skip
    return models.ModelConfig(architecture=architecture, **{**sizes, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagged")
    tokenizers.of_words(WORDS).save(folder / "tokenizer.json")
    return folder


def tag(word):
    """w0 to w4 are B-X, w5 to w9 I-X, others O."""
    return TAGS[min(int(word[1:]) // 5, 2)]


def random_split(size, seed=0, longest=20):
    random = np.random.default_rng(seed)
    words = [random.choice(WORDS, random.integers(1, longest)).tolist() for _ in range(size)]
    return [(each, [tag(word) for word in each]) for each in words]


def load(folder, architecture, splits, batch=(16, 16), process=(0, 1), fields=(), **options):
    """The task of {split: [(words, tags)]}; batch: sizes for training and evaluation."""
    splits = {
        split: [dict(zip(("tokens", "tags"), row, strict=False)) for row in rows]
        for split, rows in splits.items()
    }
    model = model_config(architecture, **dict(fields))
    return labeled_tasks.load(folder, "tagging", model, splits, batch, process, **options)


SPLITS = {"train": random_split(24, 1, 6), "validation": random_split(11)}


@functools.cache
def started(folder, architecture):
    """(task, model, params): 24 sentences to learn from, 11 of up to 19 words to validate on."""
    task = load(folder, architecture, SPLITS)
    return task, *labeled_tasks.start(task)


@functools.cache
def compiled(folder, architecture):
    """Jitted (params, batch) -> (losses, outputs)."""
    task, model, _ = started(folder, architecture)
    return labeled_tasks.computing(task, model)


def scores_of(folder, task, params, split="validation"):
    """(summed losses, predictions, scores) of a split."""
    sums = []

    def predict(batch):
        with jax.numpy_dtype_promotion("strict"):
            losses, outputs = compiled(folder, task.model_config.architecture)(params, batch)
        assert float(task.loss_denominators(batch)["tagging"]) == losses["tagging"][1]
        sums.append(losses)
        return outputs

    predictions, scores = evaluate(task, split, predict)
    return jax.tree.map(lambda *x: float(np.sum(x)), *sums), predictions, scores


@pytest.mark.parametrize(
    ("architecture", "tokens", "begin"),
    [
        ("encoder", [CLS, *ids("w1 w6 w20"), SEP], 1),
        ("decoder", [*ids("w1 w6 w20"), EOS], 0),
        ("encoder_decoder", [*ids("w1 w6 w20"), EOS], 0),
    ],
)
def test_a_sentence_gets_its_special_tokens_and_a_target_per_word(
    folder, architecture, tokens, begin
):
    """Two sentences in a batch of three: the last row is padding."""
    rows = [(["w1", "w6", "w20"], ["B-X", "I-X", "O"]), (["w7"], ["O"])]
    task = load(folder, architecture, {"train": rows, "validation": rows}, batch=(2, 3))
    (batch,) = task.eval_inputs("validation")
    row = [*tokens, *[PAD] * (LENGTH - len(tokens))]
    np.testing.assert_array_equal(batch.inputs.tokens[0], row)
    np.testing.assert_array_equal(batch.inputs.segment_ids[0], np.array(row) != PAD)
    expected = np.zeros((3, LENGTH), int)
    expected[0, begin : begin + 3], expected[1, begin] = (0, 1, 2), 2
    np.testing.assert_array_equal(batch.targets, expected)
    weights = np.zeros((3, LENGTH))
    weights[0, begin : begin + 3], weights[1, begin] = 1, 1
    np.testing.assert_array_equal(batch.loss_weights, weights)
    assert not batch.inputs.segment_ids[2].any()
    assert batch.inputs.attention == ("causal" if architecture == "decoder" else "bidirectional")
    if architecture == "encoder_decoder":
        np.testing.assert_array_equal(batch.decoder_inputs.tokens, [[START], [START], [PAD]])
    else:
        assert batch.decoder_inputs is None


def test_an_encoder_decoder_is_read_at_its_encoder_and_its_decoder_gets_no_gradient(folder):
    task, model, params = started(folder, "encoder_decoder")

    def loss(params):
        return task.losses(model, params, task.train_inputs(0), None)["tagging"][0]

    grads = jax.jit(jax.grad(loss))(params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads["decoder"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["heads"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["encoder"]))
    ((_, counted, heads),) = task.flops_specs(params)
    assert "decoder" not in counted and heads == {"tagging": LENGTH}


def test_the_states_of_a_prompt_are_not_tagged(folder):
    task, _, _ = started(folder, "encoder_decoder")
    _, plain, params = started(folder, "encoder_decoder")
    model = models.build(task.model_config, models.ADAPTERS["prompt"](num_virtual_tokens=3))
    adapter = model.adapter.init(jax.random.key(0), params, model.config)
    adapted, batch = {**params, "adapter": adapter}, task.train_inputs(0)
    outputs = jax.eval_shape(lambda: task.outputs(model, adapted, batch))
    expected = jax.eval_shape(lambda: task.outputs(plain, params, batch))
    assert outputs == expected


@each_architecture
def test_a_windowed_tagger_equals_the_unwindowed(folder, architecture):
    """Every state depends on two tokens on each side: a window of 12 with 6 shared holds them."""
    _, _, params = started(folder, architecture)
    found = {}
    for length, stride in ((40, 0), (12, 6)):
        task = load(folder, architecture, SPLITS, max_seq_len=length, stride=stride)
        windows = task.encoded["validation"]
        assert windows.is_long.any() == (length == 12) == (len(windows) > 11)
        _, found[length], scores = scores_of(folder, task, params)
        found[length] |= scores
    for name, value in found[40].items():
        np.testing.assert_allclose(found[12][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@each_architecture
def test_where_both_fit_the_length_of_a_row_changes_nothing(folder, architecture):
    short = {"train": SPLITS["train"], "validation": SPLITS["train"]}
    _, _, params = started(folder, architecture)
    found = []
    for length in (LENGTH, 24):
        task = load(folder, architecture, short, max_seq_len=length)
        assert len(task.encoded["validation"]) == 24
        found.append(scores_of(folder, task, params)[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)


@each_architecture
def test_invariant_05_scores_count_every_word_once_whatever_the_batch(folder, architecture):
    task, _, params = started(folder, architecture)
    words = sum(len(each) for each, _ in SPLITS["validation"])
    assert len(task.encoded["validation"]) > 11 and words == task.encoded["validation"].labels.size
    found = []
    for size in (4, 16):
        sums, predictions, scores = scores_of(
            folder, dataclasses.replace(task, eval_batch_size=size), params
        )
        assert sums["accuracy"][1] == sums["tagging"][1] == words == predictions["tag"].size
        np.testing.assert_allclose(sums["accuracy"][0] / words, scores["accuracy"])
        np.testing.assert_allclose(sums["tagging"][0] / words, scores["loss"], rtol=1e-5)
        found.append(list(scores.values()))
    grouped = load(folder, architecture, SPLITS, batch=(8, 2), length_group_steps=3, max_seq_len=24)
    assert len({batch.inputs.tokens.shape for batch in grouped.eval_inputs("validation")}) > 1
    whole = load(folder, architecture, SPLITS, batch=(8, 16), max_seq_len=24)
    found += [list(scores_of(folder, each, params)[2].values()) for each in (grouped, whole)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[3], rtol=1e-5)


def test_invariant_01_processes_read_consecutive_shares_of_the_same_batch(folder):
    whole = load(folder, "encoder", SPLITS, batch=(8, 8), length_group_steps=2)
    parts = [
        load(folder, "encoder", SPLITS, batch=(8, 8), length_group_steps=2, process=(p, 2))
        for p in (0, 1)
    ]
    batches = [list(t.eval_inputs("validation")) + [t.train_inputs(3)] for t in (whole, *parts)]
    for expected, *shares in zip(*batches, strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *shares)
        jax.tree.map(np.testing.assert_array_equal, joined, expected)


def test_the_label_budget_counts_sentences_and_rows_are_windows(folder):
    splits = {"train": random_split(20, 3, 30), "validation": SPLITS["validation"]}
    task = load(folder, "encoder", splits, batch=(4, 4), num_train_examples=5)
    train = task.encoded["train"]
    assert len(task.examples) == 5 and train.num_examples == 20
    chosen = set(task.examples.tolist())
    assert len(task.rows) == sum(int(s) in chosen for s in train.sentences) > 5
    assert task.epoch_size == round(len(train) * 5 / 20)  # the mean, the same for every seed
    seen = []
    for step in range(len(task.rows)):
        for row, place in zip(
            task.train_inputs(step).inputs.tokens, task.provenance(step), strict=True
        ):
            sentence = place["documents"][0]["document"]
            assert sentence in chosen and place["row"] in np.flatnonzero(
                train.sentences == sentence
            )
            np.testing.assert_array_equal(row, train.tokens[place["row"]])
            seen.append(place["row"])
    assert sorted(seen) == sorted([*task.rows] * 4)  # four epochs
    lines = "\n".join(task.describe())
    assert "3 tags; 5 of 20 training examples, 11 validation" in lines
    count = train.is_long.sum()
    assert f"train: {count} of 20 sentences are longer than 6 tokens and are read in" in lines


@each_architecture
def test_the_head_learns_the_tags_of_words(folder, architecture):
    task, model, params = started(folder, architecture)
    init, step = labeled_tasks.adam(task, model)
    state = init(params)
    for number in range(60):
        _, params, state, _ = step(params, state, task.train_inputs(number), jax.random.key(number))
    scores = scores_of(folder, task, params, "train")[2]
    assert set(scores) == {"f1", "precision", "recall", "accuracy", "loss"}
    assert scores["accuracy"] > 0.9 and scores["f1"] > 0.8


def predictions_of(task, split, tags):
    numbers = np.array([task.label_names.index(tag) for tag in tags])
    sure = np.full(len(tags), 0.75, np.float32)
    return {"tag": numbers, "probability": sure, "loss": np.ones(len(tags), np.float32)}


def test_the_files_of_predictions(folder, tmp_path):
    rows = [(["w1", "a b"], ["B-X", "I-X"]), (["", "w1"], ["O", "B-X"])]
    splits = {"train": rows, "validation": rows, "test": [(row[0],) for row in rows]}
    task = load(folder, "encoder", splits)
    found = predictions_of(task, "validation", ["B-X", "O", "O", "B-X"])
    assert task.score("validation", found) == {
        "f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.75, "loss": 1.0,
    }  # fmt: skip
    task.write_predictions(tmp_path, "validation", found)
    written = (tmp_path / "predictions_validation.conll").read_text()
    assert written == "w1 B-X B-X\na_b I-X O\n\n_ O O\nw1 B-X B-X\n\n"
    lines = (tmp_path / "predictions_validation.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "id": 0, "words": ["w1", "a b"], "tags": ["B-X", "I-X"], "predictions": ["B-X", "O"],
        "probabilities": [0.75, 0.75], "row": 1,
    }  # fmt: skip
    report = (tmp_path / "report_validation.tsv").read_text()
    assert report == "type\tprecision\trecall\tf1\tsupport\nX\t0.5\t0.5\t0.5\t2\n"
    task.write_predictions(tmp_path, "test", found)
    assert task.score("test", found) == {}
    assert (tmp_path / "predictions_test.conll").read_text() == "w1 B-X\na_b O\n\n_ O\nw1 B-X\n\n"
    assert "tags" not in json.loads(
        (tmp_path / "predictions_test.jsonl").read_text().split("\n")[0]
    )
    assert not (tmp_path / "report_test.tsv").exists()


def test_texts_with_spans_are_predicted_as_spans(folder):
    task = load(folder, "encoder", SPLITS)
    texts = {"test": Examples({"text": ["w1, w2 w20", "w3"]})}
    config = config_lib.resolve(
        FinetuneConfig, {"init_from": "unused", "task": {"name": "tagging"}}
    )
    splits = LabeledSplits(texts, "none", TAGS)
    task = task.task.assemble(
        splits, config, task.model_config, folder / "tokenizer.json", lambda line: None
    )
    found = predictions_of(task, "test", ["B-X", "I-X", "B-X", "O", "B-X"])
    rows = list(task.prediction_rows("test", found))
    assert rows[0]["words"] == ["w1", ",", "w2", "w20"]
    spans = [{"start": 0, "end": 3, "label": "X"}, {"start": 4, "end": 6, "label": "X"}]
    assert rows[0]["spans"] == spans and "tags" not in rows[0]
    assert rows[1]["spans"] == [{"start": 0, "end": 2, "label": "X"}]


def test_the_metric_follows_the_scheme(folder):
    plain = [(["w1", "w2"], ["NOUN", "VERB"])] * 2
    splits = {"train": plain, "validation": plain}
    assert load(folder, "encoder", SPLITS).best_metric == "+f1"
    assert load(folder, "encoder", SPLITS, metric="recall").best_metric == "+recall"
    assert load(folder, "encoder", SPLITS, scheme="none").best_metric == "+accuracy"
    task = load(folder, "encoder", splits, metric="macro_f1")
    assert task.best_metric == "+macro_f1" and task.scheme == "none"
    found = task.score("validation", predictions_of(task, "validation", ["NOUN"] * 4))
    assert found == {"accuracy": 0.5, "macro_f1": pytest.approx(1 / 3), "loss": 1.0}


PLAIN = [(["w1", "w2"], ["N", "V"])]
ONE = [(["w1", "w6"], ["B-X", "O"])]


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ({"train": ONE, "validation": ONE}, {"metric": "macro_f1"}, "metric='macro_f1' is no score of tags"),
        ({"train": PLAIN, "validation": PLAIN}, {"metric": "f1"}, "scheme 'none': expected one of acc"),
        ({"train": ONE}, {}, "train has one distinct text"),
        ({"train": [(["w1"], ["O"])] * 3}, {}, "one tag alone, 'O'"),
        ({"train": ONE, "validation": [(["w1"], ["B-PER"])]}, {}, "use files of one set"),
        ({"train": ONE, "validation": ONE}, {"scheme": "bioes", "tag_column": "ner"}, "no column 'ner'"),
        ({"train": ONE, "validation": ONE}, {"token_column": ""}, "must name columns, not ''"),
        ({"train": ONE, "validation": ONE}, {"stride": 6}, "task.stride=6, but a window has 6 tokens"),
        ({"train": ONE, "validation": ONE}, {"num_train_examples": 9}, "but there are 1 labeled"),
        ({"train": ONE, "validation": ONE}, {"class_weights": (1.0,)}, "there are 2 classes"),
        ({"train": [([], [])], "validation": ONE}, {}, "has no value in column 'tokens'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_training(folder, splits, options, message):
    with pytest.raises(ValueError, match=message) as error:
        load(folder, "encoder", splits, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400


def test_odd_sentences_are_read(folder):
    long = ["w1"] * 100_000
    rows = [
        (["w1\t", '"w2"', "", "x" * 1000], ["B-X", "O", "O", "O"]),
        (long, ["O"] * len(long)),
    ]
    splits = {"train": rows, "validation": rows[:1], "test": rows}
    task = load(folder, "encoder", splits, max_seq_len=64)
    encoded = task.encoded["test"]
    np.testing.assert_array_equal(np.sort(encoded.words[encoded.words >= 0]), np.arange(100_004))
    lines = "\n".join(task.describe())
    assert "test: 1 of 2 sentences are longer than 62 tokens and are read in" in lines
    assert "validation: every sentence fits into 62 tokens" in lines
    assert "1 of 100,004 words have no token" in lines


def test_class_weights_and_smoothing_are_in_the_loss_alone(folder):
    task, model, params = started(folder, "encoder")
    (batch, *_) = task.eval_inputs("validation")
    weighted = dataclasses.replace(task, class_weights=(2.0, 0.0, 1.0), label_smoothing=0.3)
    with jax.numpy_dtype_promotion("strict"):
        found = jax.jit(lambda p: weighted.losses(model, p, batch, None))(params)
        plain = compiled(folder, "encoder")(params, jax.tree.map(jnp.asarray, batch))[0]
    counts = [(batch.loss_weights * (batch.targets == c)).sum() for c in range(3)]
    assert (
        found["tagging"][1]
        == 2 * counts[0] + counts[2]
        == weighted.loss_denominators(batch)["tagging"]
    )
    assert found["accuracy"] == plain["accuracy"] and found["tagging"][0] != plain["tagging"][0]
    balanced = load(folder, "encoder", SPLITS, class_weights="balanced").class_weights
    labels = [TAGS.index(t) for _, tags in SPLITS["train"] for t in tags]
    np.testing.assert_allclose(balanced, len(labels) / (3 * np.bincount(labels)))
    assert tagged.words_of(task.texts["train"]) == [words for words, _ in SPLITS["train"]]
