"""Classification: what a batch holds, that metrics do not depend on its size, and that a head learns.

The tokenizer is a list of words; special tokens, lengths and positions are written out by hand.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import labeled_tasks
import numpy as np
import pytest
from labeled_tasks import ARCHITECTURES, CLS, EOS, FIRST, LENGTH, PAD, SEP, START, WORDS, ids

import models
from data import tokenizer as tokenizers
from data.examples import Examples
from data.special_tokens import SpecialTokenTemplate
from huggingface.export_class import export_classes
from tasks import evaluate
from tasks.classification import Classification
from tasks.encoding import encode

EMB_DIM = 16
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def model_config(architecture, **fields):
    sizes = {"num_layers": 1, "emb_dim": EMB_DIM, "num_heads": 2, "mlp_dim": 32, "vocab_size": 143,
             "max_length": LENGTH, "dropout_rate": 0.1, "init_std": 0.3}  # fmt: skip
    return models.ModelConfig(architecture=architecture, **{**sizes, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labeled")
    tokenizers.of_words(WORDS).save(folder / "tokenizer.json")
    return folder


def load(folder, architecture, splits, batch=(16, 16), process=(0, 1), model_fields=(), **options):
    """The task of {split: (texts, [pairs,] labels)}; batch: sizes for training and evaluation."""
    written = {}
    for split, columns in splits.items():
        keys = ("text", "label") if len(columns) == 2 else ("text", "other", "label")
        rows = (dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True))
        written[split] = list(rows)
        options |= {"text_pair_column": "other"} if "other" in keys else {}
    model = model_config(architecture, **dict(model_fields))
    return labeled_tasks.load(folder, "classification", model, written, batch, process, **options)


def random_split(size, seed=0, longest=8):
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, random.integers(1, longest + 1))) for _ in range(size)]
    return texts, [("bad", "good")[n] for n in random.integers(0, 2, size)]


@functools.cache
def trained_on(folder, architecture):
    """(task, model, params) with 11 random validation examples and 64 to learn from.

    The label of a training example is whether its first word is among the last 14."""
    texts = [" ".join(row) for row in np.random.default_rng(1).choice(WORDS, (64, 4))]
    labels = [("bad", "good")[int(text.split()[0][1:]) > 15] for text in texts]
    task = load(
        folder, architecture, {"train": (texts, labels), "validation": random_split(11)}
    )  # fmt: skip
    return task, *labeled_tasks.start(task)


@functools.cache
def compiled(folder, architecture):
    """Jitted (params, batch) -> (losses, logits)."""
    task, model, _ = trained_on(folder, architecture)
    return labeled_tasks.computing(task, model)


def scores_of(folder, architecture, params, split, size=16):
    """(summed losses, logits, scores) of a split, evaluated in batches of `size`."""
    task = dataclasses.replace(trained_on(folder, architecture)[0], eval_batch_size=size)
    sums = []

    def predict(batch):
        with jax.numpy_dtype_promotion("strict"):
            losses, logits = compiled(folder, architecture)(params, batch)
        denominator = task.loss_denominators(batch)["classification"]
        assert float(denominator) == losses["classification"][1]
        sums.append(losses)
        return logits

    logits, scores = evaluate(task, split, predict)
    return jax.tree.map(lambda *x: float(np.sum(x)), *sums), logits, scores


TEXTS = ["w1 w2", "w0"], ["bad", "good"]


@pytest.mark.parametrize(
    ("architecture", "tokens", "position", "decoder_tokens"),
    [
        ("encoder", [CLS, *ids("w1 w2"), SEP], 0, None),
        ("decoder", [*ids("w1 w2"), EOS], 2, None),
        ("encoder_decoder", [*ids("w1 w2"), EOS], 2, [START, *ids("w1 w2")]),
    ],
)
def test_a_text_gets_the_special_tokens_of_its_architecture(
    folder, architecture, tokens, position, decoder_tokens
):
    """Two examples in a batch of three: the last row is padding."""
    task = load(folder, architecture, {"train": TEXTS, "validation": TEXTS}, batch=(2, 3))
    (batch,) = task.eval_inputs("validation")
    n = len(tokens)
    row = [*tokens, *[PAD] * (LENGTH - n)]
    np.testing.assert_array_equal(batch.inputs.tokens[0], row)
    np.testing.assert_array_equal(batch.inputs.segment_ids[0], np.array(row) != PAD)
    np.testing.assert_array_equal(batch.inputs.positions[0][:n], np.arange(n))
    np.testing.assert_array_equal(
        batch.target_positions[:, 0], [position, max(position - 1, 0), 0]
    )  # fmt: skip
    np.testing.assert_array_equal(batch.targets[:, 0], [0, 1, 0])
    np.testing.assert_array_equal(batch.loss_weights[:, 0], [1, 1, 0])
    assert not batch.inputs.tokens[2].any() and not batch.inputs.segment_ids[2].any()
    assert batch.inputs.attention == ("causal" if architecture == "decoder" else "bidirectional")
    if decoder_tokens is None:
        assert batch.decoder_inputs is None
        return
    generated = batch.decoder_inputs
    np.testing.assert_array_equal(generated.tokens[0][:n], decoder_tokens)
    assert not generated.tokens[0][n:].any() and generated.attention == "causal"
    np.testing.assert_array_equal(generated.segment_ids, batch.inputs.segment_ids)
    np.testing.assert_array_equal(generated.positions, batch.inputs.positions)
    task = load(
        folder, architecture, {"train": TEXTS, "validation": TEXTS}, batch=(2, 3), decoder_input="start"
    )  # fmt: skip
    (batch,) = task.eval_inputs("validation")
    np.testing.assert_array_equal(batch.decoder_inputs.tokens, [[START], [START], [PAD]])
    np.testing.assert_array_equal(batch.decoder_inputs.segment_ids, [[1], [1], [0]])
    np.testing.assert_array_equal(batch.target_positions, [[0], [0], [0]])


def test_pairs_are_joined_by_sep_and_the_longer_text_is_truncated_first(folder):
    pairs = ["w1 w2 w3 w4 w5", "w7"], ["w11 w12", "w11"], ["bad", "good"]
    unlabeled = (*pairs[:2], ["-1", "-1"])
    splits = {"train": pairs, "validation": pairs, "test": unlabeled}
    task = load(folder, "encoder", splits, (2, 2), model_fields=(("num_token_types", 2),))
    (batch,) = task.eval_inputs("test")
    a, b, c = ids("w1 w2 w3"), ids("w11 w12"), FIRST + 7
    np.testing.assert_array_equal(batch.inputs.tokens[0], [CLS, *a, SEP, *b, SEP])
    np.testing.assert_array_equal(batch.inputs.token_type_ids[0], [0, 0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(batch.inputs.tokens[1], [CLS, c, SEP, b[0], SEP, 0, 0, 0])
    np.testing.assert_array_equal(batch.inputs.token_type_ids[1], [0, 0, 0, 1, 1, 0, 0, 0])
    assert batch.loss_weights.sum() == 0 and task.score("test", np.zeros((2, 2))) == {}
    assert any("1 of 2 test examples were truncated to 8 tokens" in x for x in task.describe())
    (batch,) = load(folder, "encoder", splits, (2, 2)).eval_inputs("test")
    assert batch.inputs.token_type_ids is None
    (batch,) = load(folder, "decoder", splits, (2, 2)).eval_inputs("test")
    np.testing.assert_array_equal(batch.inputs.tokens[1], [c, SEP, b[0], EOS, 0, 0, 0, 0])


@pytest.mark.parametrize("separator", [(), (SEP,), (SEP, SEP)])
def test_the_second_text_starts_after_a_separator_of_any_length(separator):
    template = SpecialTokenTemplate((CLS,), (SEP,), separator)
    split = Examples({"text": ["w1 w2", ""], "text_pair": ["w3", "w3"]})
    data = encode(split, tokenizers.of_words(WORDS), template, LENGTH, (), PAD)
    for row, first in enumerate((ids("w1 w2"), [])):
        expected = [CLS, *first, *separator, *ids("w3"), SEP]
        assert data.tokens[row, : data.lengths[row]].tolist() == expected
        start = len(expected) - 2
        assert data.token_type_ids[row].tolist() == [0] * start + [1, 1] + [0] * (
            LENGTH - start - 2
        )
    assert data.num_truncated == 0 and (data.labels == -1).all()


def test_an_unknown_label_is_an_error_of_one_line():
    split = Examples({"text": ["w1", "w2"], "label": ["good", "ugly"]})
    template = SpecialTokenTemplate((CLS,), (SEP,), (SEP,))
    with pytest.raises(ValueError, match="'ugly'.*bad, good") as error:
        encode(split, tokenizers.of_words(WORDS), template, LENGTH, ("bad", "good"), PAD)
    assert "\n" not in str(error.value)


@each_architecture
def test_grouped_batches_are_short_and_hold_the_same_rows(folder, architecture):
    """Lengths 4, 10 and 21 with special tokens, padded to a multiple of 8 or to max_seq_len."""
    added = 2 if architecture == "encoder" else 1
    texts = [" ".join(["w1"] * (n - added)) for n in [4] * 20 + [10] * 20 + [21] * 8]
    splits = {"train": (texts, ["bad", "good"] * 24), "validation": TEXTS}
    options = {"batch": (4, 48), "max_seq_len": 20, "model_fields": (("max_length", 20),)}
    task = load(folder, architecture, splits, length_group_steps=12, **options)
    (whole,) = task.eval_inputs("train")
    widths = []
    for step in range(12):
        batch, rows = task.train_inputs(step), [row["row"] for row in task.provenance(step)]
        width = batch.inputs.tokens.shape[1]
        widths.append(width)
        for short, long in zip(jax.tree.leaves(batch), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(short, long[rows][:, : short.shape[1]])
        assert not whole.inputs.segment_ids[rows][:, width:].any()
    assert sorted(widths) == [8] * 5 + [16] * 5 + [20] * 2
    assert task.length_share == np.mean(widths) / 20
    assert task.tokens_per_step == round(4 * np.mean(widths))
    plain = load(folder, architecture, splits, **options)
    assert plain.train_inputs(3).inputs.tokens.shape == (4, 20) and plain.length_share == 1.0


def test_provenance_names_the_examples_of_a_step(folder):
    texts = [f"w{n} w{n + 1}" for n in range(10)]
    splits = {"train": (texts, ["bad", "good"] * 5), "validation": TEXTS}
    task = load(folder, "encoder", splits, batch=(4, 4), num_train_examples=6)
    assert task.epoch_size == 6 and len(set(task.examples)) == 6
    seen = []
    for step in range(3):
        rows = task.provenance(step)
        assert [row["number"] for row in rows] == [4 * step + i for i in range(4)]
        for row, tokens in zip(rows, task.train_inputs(step).inputs.tokens, strict=True):
            assert tokens[1:3].tolist() == ids(texts[row["row"]])
            assert row["source"] == task.task.source
            expected = {"document": row["row"], "file": "train", "number": row["row"]}
            assert row["documents"] == [expected]
            seen.append(row["row"])
    assert sorted(seen) == sorted([*task.examples, *task.examples])  # 12 rows: two epochs of 6


def test_invariant_01_processes_read_consecutive_shares_of_the_same_batch(folder):
    splits = {"train": random_split(20), "validation": random_split(5)}
    whole = load(folder, "encoder", splits, batch=(8, 8), length_group_steps=2)
    parts = [
        load(folder, "encoder", splits, batch=(8, 8), length_group_steps=2, process=(p, 2))
        for p in (0, 1)
    ]
    batches = [list(task.eval_inputs("validation")) + [task.train_inputs(3)]
               for task in (whole, *parts)]  # fmt: skip
    for expected, *shares in zip(*batches, strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *shares)
        jax.tree.map(np.testing.assert_array_equal, joined, expected)


@each_architecture
def test_invariant_05_metrics_do_not_depend_on_the_batch_size(folder, architecture):
    params = trained_on(folder, architecture)[2]
    found = {}
    for size in (4, 16):
        sums, _, scores = scores_of(folder, architecture, params, "validation", size)
        found[size] = [sums["classification"][0], *sums["accuracy"], *scores.values()]
        assert sums["accuracy"][1] == sums["classification"][1] == 11
        np.testing.assert_allclose(sums["accuracy"][0] / 11, scores["accuracy"])
        np.testing.assert_allclose(sums["classification"][0] / 11, scores["loss"], rtol=1e-5)
    np.testing.assert_allclose(found[4], found[16], rtol=1e-5)


@each_architecture
def test_the_whole_text_is_read_and_its_padding_is_not(folder, architecture):
    task, _, params = trained_on(folder, architecture)
    (batch,) = task.eval_inputs("validation")
    logits = compiled(folder, architecture)
    lengths = batch.inputs.segment_ids.sum(1)[:11]  # then padding rows
    before = np.asarray(logits(params, batch)[1])[:11]
    first = 1 if architecture == "encoder" else 0  # the first word
    for changed, place in ((lengths > 3, first), (lengths < LENGTH, LENGTH - 1)):
        tokens = batch.inputs.tokens.copy()
        tokens[:, place] = FIRST + (tokens[:, place] - FIRST + 7) % 30
        other = batch.replace(inputs=batch.inputs.replace(tokens=tokens))
        moved = np.abs(np.asarray(logits(params, other)[1])[:11] - before).max(1)[changed]
        assert changed.any() and ((moved > 1e-6).all() if place == first else (moved == 0).all())


@each_architecture
def test_the_head_learns_a_word_and_dropout_follows_the_key(folder, architecture):
    task, model, params = trained_on(folder, architecture)
    init, step = labeled_tasks.adam(task, model)
    state, before = init(params), scores_of(folder, architecture, params, "train")[0]
    batch = task.train_inputs(0)
    a, b = (step(params, state, batch, jax.random.key(n))[0] for n in (0, 1))
    assert a != b
    for number in range(80):
        _, params, state, _ = step(params, state, task.train_inputs(number), jax.random.key(number))
    after = scores_of(folder, architecture, params, "train")[0]
    assert after["accuracy"][0] > 56
    assert after["classification"][0] < before["classification"][0] / 2


def test_auto_pooling_is_cls_last_or_mean_and_another_must_fit(folder):
    splits = {"train": TEXTS, "validation": TEXTS}
    auto = [load(folder, architecture, splits).pooling for architecture in ARCHITECTURES]
    assert auto == ["cls", "last", "mean"]
    for architecture, pooling in (("decoder", "mean"), ("encoder_decoder", "last")):
        assert load(folder, architecture, splits, pooling=pooling).pooling == pooling
    for architecture, pooling in (("encoder", "last"), ("encoder_decoder", "cls")):
        with pytest.raises(ValueError, match=f"task.pooling='{pooling}' does not fit"):
            load(folder, architecture, splits, pooling=pooling)


def test_a_decoder_reads_both_ways_where_the_task_asks_for_it(folder):
    """Pretrained by mntp it can: its first state depends on later tokens. It is not exported, because
    published decoders are causal."""
    splits = {"train": TEXTS, "validation": TEXTS}
    _, model, params = trained_on(folder, "decoder")
    for attention, is_seen in (("causal", False), ("bidirectional", True)):
        task = load(folder, "decoder", splits, attention=attention)
        inputs = task.train_inputs(0).inputs
        assert inputs.attention == attention
        other = inputs.replace(tokens=np.where(inputs.positions == 1, FIRST + 9, inputs.tokens))
        hidden = [np.asarray(model.apply({"params": params}, x))[:, 0] for x in (inputs, other)]
        assert (np.abs(hidden[0] - hidden[1]).max() > 1e-3) == is_seen
        config = dataclasses.asdict(task.task)
        _, problems = export_classes(model.config, ("classification",), config)
        assert any("task.attention='bidirectional'" in line for line in problems) == is_seen
    for architecture in ("encoder", "encoder_decoder"):
        with pytest.raises(
            ValueError, match="task.attention='bidirectional' is an option of decoders"
        ):
            load(folder, architecture, splits, attention="bidirectional")


def test_mean_pooling_is_the_mean_of_the_states_that_are_not_padding(folder):
    task, model, params = trained_on(folder, "encoder_decoder")
    (batch,) = task.eval_inputs("validation")
    hidden = np.asarray(model.apply({"params": params}, batch.inputs, batch.decoder_inputs))
    lengths = batch.decoder_inputs.segment_ids.sum(1)[:11]
    means = np.stack([hidden[i, :n].mean(0) for i, n in enumerate(lengths)])
    head = params["heads"]["classification"]["output"]
    with jax.numpy_dtype_promotion("strict"):
        found = task.outputs(model, params, batch)[:11]
    expected = means @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def head_of(**options):
    """(head, its parameters) with the options of the task."""
    head = Classification.head_module(2, **dataclasses.asdict(Classification(**options)))
    return head, head.init(jax.random.key(0), jnp.zeros((1, EMB_DIM)))["params"]


def test_without_a_pooler_the_head_is_one_dense_layer():
    assert set(head_of()[1]) == {"output"} and set(head_of()[1]["output"]) == {"kernel", "bias"}
    assert set(head_of(head_bias=False)[1]["output"]) == {"kernel"}


@pytest.mark.parametrize(
    ("name", "activation"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))]
)
def test_the_pooler_is_a_dense_layer_and_its_activation(name, activation):
    head, params = head_of(pooler=True, pooler_activation=name)
    states = jnp.asarray(np.random.default_rng(0).normal(size=(3, EMB_DIM)), jnp.float32)
    pooled = activation(states @ params["pooler"]["kernel"] + params["pooler"]["bias"][None])
    by_hand = pooled @ params["output"]["kernel"] + params["output"]["bias"][None]
    with jax.numpy_rank_promotion("allow"):
        found = head.apply({"params": params}, states)
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-6)


def test_a_pooler_with_a_norm_has_no_biases_as_in_modernbert():
    head, params = head_of(pooler=True, pooler_activation="gelu", pooler_norm=True)
    assert set(params) == {"pooler", "pooler_norm", "output"}
    assert set(params["pooler"]) == {"kernel"} and set(params["pooler_norm"]) == {"scale"}
    scale = np.linspace(0.5, 2.0, EMB_DIM).astype(np.float32)
    params["pooler_norm"] = {"scale": jnp.asarray(scale)}
    states = jax.random.normal(jax.random.key(1), (3, EMB_DIM))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        logits = head.apply({"params": params}, states)
    hidden = np.asarray(states) @ np.asarray(params["pooler"]["kernel"])
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / 2**0.5))
    hidden = hidden - hidden.mean(-1, keepdims=True)
    hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-5) * scale
    output = params["output"]
    expected = hidden @ np.asarray(output["kernel"]) + np.asarray(output["bias"])
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-5)


@each_architecture
@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_packed_batches_have_the_logits_of_unpacked_ones(folder, architecture, pooling):
    _, model, params = trained_on(folder, architecture)
    splits = {"train": random_split(40, longest=4), "validation": random_split(5)}
    task = load(folder, architecture, splits, pooling=pooling, packing=True)
    plain = load(folder, architecture, splits, pooling=pooling)
    batches = [each.train_inputs(1) for each in (task, plain)]
    assert 0 < task.packed_rows < 16 == len(batches[0].targets)
    assert batches[0].packing is not None and batches[1].packing is None
    assert any("packed: 16 examples in" in line for line in task.describe())
    step = jax.jit(lambda batch: task.outputs(model, params, batch))
    packed, expected = map(step, batches)
    np.testing.assert_allclose(packed, expected, rtol=1e-4, atol=1e-5)
    long = {"train": ([" ".join(["w1"] * 8)] * 20, ["bad", "good"] * 10), "validation": TEXTS}
    task = load(folder, architecture, long, packing=True)
    assert task.packed_rows == 0 and task.train_inputs(0).packing is None
    assert any("packing saves no row" in line for line in task.describe())
    with pytest.raises(ValueError, match="both avoid padding"):
        load(folder, architecture, splits, packing=True, length_group_steps=2).task.check_model(
            model_config(architecture)
        )
