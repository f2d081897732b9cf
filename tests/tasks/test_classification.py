"""Classification: what a batch is, law 5, and that a head learns, for the three architectures.

The tokenizer is a table of words; texts, frames and positions read are written out by hand.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import models
from data.framing import Frame, frame_for
from tasks import metrics
from tasks.batches import PADDING, evaluation_indices, indices_at
from tasks.classification import Classification, encode

SPECIAL = {
    'size': 40, 'pad': 0, 'unk': 1, 'cls': 2, 'sep': 3, 'eos': 4, 'mask': 5, 'start': 6,
    'modes': (), 'infill': (), 'sentinels': (), 'ordinary': ((10, 40),),
}  # fmt: skip
NAMES = ("bad", "good")
LENGTH, WIDTH = 8, 16
ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


class Words:
    """A tokenizer of words w10 .. w39."""

    def encode_batch(self, texts):
        return [np.array([int(word[1:]) for word in text.split()], np.int32) for text in texts]


def encoded(architecture, texts, pairs=None, labels=None, length=LENGTH):
    frame = frame_for(architecture, SPECIAL)
    return encode(texts, pairs, labels, Words(), frame, length, NAMES, SPECIAL["pad"])


def task_for(architecture, **changes):
    return Classification(architecture, 2, WIDTH, SPECIAL["pad"], SPECIAL["start"], **changes)


@functools.cache
def made(architecture):
    """(task, model, params, encoded of 11 random examples)."""
    random = np.random.default_rng(0)
    texts = [
        " ".join(f"w{n}" for n in random.integers(10, 40, random.integers(0, 9))) for _ in range(11)
    ]
    data = encoded(architecture, texts, labels=[NAMES[n] for n in random.integers(0, 2, 11)])
    model = models.build(models.ModelConfig(
        architecture=architecture, vocab_size=40, max_length=LENGTH, layers=1, width=WIDTH,
        heads=2, mlp_size=32, dropout=0.1, init_std=0.3,
    ))  # fmt: skip
    task = task_for(architecture)
    batch = task.batch(data, np.arange(2))
    params = jax.jit(model.init)(jax.random.key(0), batch.inputs, batch.decoder)["params"]
    params["heads"] = {"classification": task.head_parameters(jax.random.key(1))}
    return task, model, params, data


@functools.cache
def compiled(architecture):
    """Jitted (params, batch) -> (losses, logits); used at 16 rows but for one test."""
    task, model, _, _ = made(architecture)
    return jax.jit(lambda params, batch: (
        task.losses(model, params, batch, None), task.predictions(model, params, batch)
    ))  # fmt: skip


def evaluated(architecture, params, data, size=16):
    """(sums of the losses, labels' logits) of a split."""
    task = made(architecture)[0]
    sums, logits = [], []
    for indices in evaluation_indices(len(data), size):
        batch = task.batch(data, indices)
        with jax.numpy_dtype_promotion("strict"):
            losses, scores = compiled(architecture)(params, batch)
        assert float(task.weights(batch)["classification"]) == losses["classification"][1]
        sums.append(losses)
        logits.append(np.asarray(scores)[indices != PADDING])
    return jax.tree.map(lambda *x: float(np.sum(x)), *sums), np.concatenate(logits)


@pytest.mark.parametrize(
    "architecture, tokens, read, decoder",
    [
        ("encoder", [2, 11, 12, 3, 0, 0, 0, 0], 0, None),
        ("decoder", [11, 12, 4, 0, 0, 0, 0, 0], 2, None),
        ("encoder_decoder", [11, 12, 4, 0, 0, 0, 0, 0], 2, [6, 11, 12, 0, 0, 0, 0, 0]),
    ],
)
def test_a_single_text_is_framed_and_read_where_the_design_says(
    architecture, tokens, read, decoder
):
    data = encoded(architecture, ["w10", "w11 w12"], labels=["good", "bad"])
    batch = task_for(architecture).batch(data, np.array([1, PADDING, 0]))
    np.testing.assert_array_equal(batch.inputs.tokens[0], tokens)
    np.testing.assert_array_equal(batch.inputs.segments[0], np.array(tokens) > 0)
    np.testing.assert_array_equal(batch.inputs.positions[0][: sum(t > 0 for t in tokens)],
                                  np.arange(sum(t > 0 for t in tokens)))  # fmt: skip
    np.testing.assert_array_equal(batch.indices[:, 0], [read, 0, max(read - 1, 0)])
    np.testing.assert_array_equal(batch.targets[:, 0], [0, 0, 1])
    np.testing.assert_array_equal(batch.weights[:, 0], [1, 0, 1])
    assert not batch.inputs.tokens[1].any() and not batch.inputs.segments[1].any()
    assert batch.inputs.visibility == ("causal" if architecture == "decoder" else "all")
    if decoder is None:
        assert batch.decoder is None
    else:
        np.testing.assert_array_equal(batch.decoder.tokens[0], decoder)
        np.testing.assert_array_equal(batch.decoder.segments, batch.inputs.segments)
        np.testing.assert_array_equal(batch.decoder.positions, batch.inputs.positions)
        one = task_for(architecture, decoder_input="start").batch(data, np.array([1, PADDING, 0]))
        np.testing.assert_array_equal(one.decoder.tokens, [[6], [0], [6]])
        np.testing.assert_array_equal(one.decoder.segments, [[1], [0], [1]])
        np.testing.assert_array_equal(one.indices, [[0], [0], [0]])


def test_pairs_are_joined_by_sep_and_the_longer_text_is_cut_first():
    data = encoded("encoder", ["w11 w12 w13 w14 w15", ""], ["w21 w22", "w21"])
    np.testing.assert_array_equal(data.tokens[0], [2, 11, 12, 13, 3, 21, 22, 3])
    np.testing.assert_array_equal(data.types[0], [0, 0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.tokens[1], [2, 3, 21, 3, 0, 0, 0, 0])
    np.testing.assert_array_equal(data.types[1], [0, 0, 1, 1, 0, 0, 0, 0])
    assert data.cut == 1 and len(data) == 2 and (data.labels == -1).all()
    decoder = encoded("decoder", ["w11"], ["w21"])
    np.testing.assert_array_equal(decoder.tokens[0], [11, 3, 21, 4, 0, 0, 0, 0])
    batch = task_for("encoder", token_types=True).batch(data, np.array([0]))
    np.testing.assert_array_equal(batch.inputs.types, data.types[:1])
    assert task_for("encoder").batch(data, np.array([0])).inputs.types is None
    assert batch.weights.sum() == 0  # no labels


def test_the_second_text_begins_behind_a_separator_of_several_tokens():
    frame = Frame((2,), (3,), (3, 3))
    data = encode(["w11 w12"], ["w13"], None, Words(), frame, LENGTH, NAMES, 0)
    assert data.tokens[0, : data.lengths[0]].tolist() == [2, 11, 12, 3, 3, 13, 3]
    assert data.types[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 0] and data.cut == 0


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
def test_a_batch_of_short_examples_may_be_short(architecture):
    data = encoded(architecture, ["w11", "w12 w13"], labels=["bad", "good"])
    long, short = (task_for(architecture).batch(data, np.arange(2), w) for w in (None, 5))
    for whole, cut in zip(jax.tree.leaves(long), jax.tree.leaves(short), strict=True):
        assert cut.shape[1] <= 5 and np.array_equal(whole[:, : cut.shape[1]], cut)
        assert not whole[:, cut.shape[1] :].any() or whole.shape[1] == 1


def test_an_unknown_label_is_refused_in_one_line():
    with pytest.raises(ValueError, match="'ugly'.*bad, good") as error:
        encoded("encoder", ["w10", "w11"], labels=["good", "ugly"])
    assert "\n" not in str(error.value)


@each_architecture
def test_law_05_metrics_do_not_depend_on_the_batch_size(architecture):
    _, _, params, data = made(architecture)
    found = {}
    for size in (4, 16):
        total, logits = evaluated(architecture, params, data, size)
        scores = metrics.evaluate(data.labels, logits)
        found[size] = [total["classification"][0], *total["accuracy"], *scores.values()]
        assert total["accuracy"][1] == total["classification"][1] == len(data) == 11
        np.testing.assert_allclose(total["accuracy"][0] / len(data), scores["accuracy"])
        np.testing.assert_allclose(
            total["classification"][0] / len(data), scores["loss"], rtol=1e-5
        )
    np.testing.assert_allclose(found[4], found[16], rtol=1e-5)


@each_architecture
def test_the_whole_text_decides_and_its_padding_does_not(architecture):
    task, _, params, data = made(architecture)
    batch = task.batch(data, next(evaluation_indices(len(data), 16)))
    before = np.asarray(compiled(architecture)(params, batch)[1])[: len(data)]
    first = 1 if architecture == "encoder" else 0  # the first word
    for touched, place in ((data.lengths > 3, first), (data.lengths < LENGTH, LENGTH - 1)):
        tokens = batch.inputs.tokens.copy()
        tokens[:, place] = 10 + (tokens[:, place] + 7) % 30
        other = batch.replace(inputs=batch.inputs.replace(tokens=tokens))
        after = np.asarray(compiled(architecture)(params, other)[1])[: len(data)]
        moved = np.abs(after - before).max(1)[touched]
        assert touched.any() and ((moved > 1e-6).all() if place == first else (moved == 0).all())


@each_architecture
def test_the_head_learns_a_word_and_dropout_follows_the_key(architecture):
    task, model, params, _ = made(architecture)
    words = np.random.default_rng(1).integers(10, 40, (64, 4))
    texts = [" ".join(f"w{n}" for n in row) for row in words]
    labels = [NAMES[int(row[0] > 25)] for row in words]
    data = encoded(architecture, texts, labels=labels)
    tx = optax.adam(0.01)

    def mean(params, batch, key):
        total, weight = task.losses(model, params, batch, key)["classification"]
        return total / weight

    @jax.jit
    def step(params, state, batch, key):
        loss, grads = jax.value_and_grad(mean)(params, batch, key)
        updates, state = tx.update(grads, state)
        return loss, optax.apply_updates(params, updates), state

    state = tx.init(params)
    batch = task.batch(data, np.arange(16))
    a, b = (step(params, state, batch, jax.random.key(n))[0] for n in (0, 1))
    assert a != b
    before, _ = evaluated(architecture, params, data)
    for number in range(80):
        some = task.batch(data, indices_at(number, 16, 64, 0))
        _, params, state = step(params, state, some, jax.random.key(number))
    after, _ = evaluated(architecture, params, data)
    assert after["accuracy"][0] > 56
    assert after["classification"][0] < before["classification"][0] / 2


@pytest.mark.parametrize(
    ("name", "activation"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))]
)
def test_the_pooler_is_a_dense_layer_and_its_activation(name, activation):
    task = task_for("encoder", pooler=True, pooler_activation=name)
    head = task.head_parameters(jax.random.key(0))
    states = jnp.asarray(np.random.default_rng(0).normal(size=(3, WIDTH)), jnp.float32)
    pooled = activation(states @ head["pooler"]["kernel"] + head["pooler"]["bias"][None])
    by_hand = pooled @ head["output"]["kernel"] + head["output"]["bias"][None]
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(
            task.head().apply({"params": head}, states), by_hand, rtol=1e-4, atol=1e-6
        )
    assert set(task_for("encoder").head_parameters(jax.random.key(0))) == {"output"}


def test_the_mean_is_of_the_real_states_and_usual_for_an_encoder_decoder():
    usual = {a: task_for(a).reads_mean for a in ("encoder", "decoder", "encoder_decoder")}
    assert usual == {"encoder": False, "decoder": False, "encoder_decoder": True}
    assert task_for("decoder", reading="mean").reads_mean
    assert not task_for("encoder_decoder", reading="state").reads_mean
    task, model, params, data = made("encoder_decoder")
    batch = task.batch(data, np.array([0, 1, PADDING]))
    hidden = np.asarray(model.apply({"params": params}, batch.inputs, batch.decoder))
    lengths = data.lengths[:2]
    means = np.stack([hidden[i, :n].mean(0) for i, n in enumerate(lengths)])
    head = params["heads"]["classification"]["output"]
    with jax.numpy_dtype_promotion("strict"):
        found = task.predictions(model, params, batch)[:2]
    np.testing.assert_allclose(
        found, means @ np.asarray(head["kernel"]) + np.asarray(head["bias"]), rtol=1e-4, atol=1e-5
    )


def test_a_pooler_with_a_norm_has_no_biases_and_is_modernberts():
    task = task_for("encoder", pooler=True, pooler_activation="gelu", pooler_norm=True)
    params = task.head_parameters(jax.random.key(0))
    assert set(params) == {"pooler", "pooler_norm", "output"}
    assert set(params["pooler"]) == {"kernel"} and set(params["pooler_norm"]) == {"scale"}
    scale = np.linspace(0.5, 2.0, task.width).astype(np.float32)
    params["pooler_norm"] = {"scale": jnp.asarray(scale)}
    states = jax.random.normal(jax.random.key(1), (3, WIDTH))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        logits = task.head().apply({"params": params}, states)
    hidden = np.asarray(states) @ np.asarray(params["pooler"]["kernel"])
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / 2**0.5))
    hidden = hidden - hidden.mean(-1, keepdims=True)
    hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-5) * scale
    output = params["output"]
    expected = hidden @ np.asarray(output["kernel"]) + np.asarray(output["bias"])
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-5)
