"""Laws 1, 5 and 10 for pairs of texts: what is read is taken apart again by plain loops over lists.

Every piece of a row is another one there, so that a text's place in its row is known.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import models
import objectives
from models.config import completed
from objectives.base import Setting
from objectives.vocabulary import Vocabulary

LENGTH, MANY = 24, 3000
VOCABULARY = Vocabulary(
    size=200, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 19)), ordinary=((19, 200),),
)  # fmt: skip
SETTING = Setting("encoder", VOCABULARY, LENGTH)
each = pytest.mark.parametrize("name", ["next_sentence", "sentence_order"])


@functools.cache
def compiled(name, **hyperparameters):
    objective = objectives.build(name, hyperparameters)
    return objective, jax.jit(jax.vmap(functools.partial(objective.corrupt, SETTING)))


def corrupted(name, rows, seed=0, **hyperparameters):
    """The Batch of rows, in NumPy; always MANY rows at once, so that there is one program."""
    keys = jax.random.split(jax.random.key(seed), MANY)
    whole = np.zeros((MANY, 2 * LENGTH), np.int32)
    whole[: len(rows)] = rows
    with jax.numpy_dtype_promotion("strict"):
        batch = compiled(name, **hyperparameters)[1](keys, jnp.asarray(whole))
    return jax.tree.map(lambda x: np.asarray(x)[: len(rows)], batch)


def stream_rows(count, seed, shortest=0, longest=40, whole=False):
    """Rows cut out of a framed stream; [CLS] [SEP] alone is a document too."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, 2 * LENGTH), np.int32)
    for row in rows:
        pieces, tokens = random.permutation(np.arange(19, 200)).tolist(), []
        while len(tokens) < 80:
            size = int(random.integers(shortest, longest))
            tokens += [2, *[pieces.pop() for _ in range(min(size, len(pieces)))], 3]
        size = 2 * LENGTH if whole else int(random.integers(1, 2 * LENGTH + 1))
        tokens = tokens[int(random.integers(20)) :][:size]
        row[: len(tokens)] = tokens
        row[0] = 2
    return rows


def documents_of(row):
    """The pieces of each document of a row, in lists."""
    found = []
    for token in row[row > 0].tolist():
        if token == 2:
            found.append([])
        elif token != 3:
            found[-1].append(token)
    return [document for document in found if document]


def taken_apart(batch, i):
    """(first text, second text) of row i with the masks undone, after a look at its frame."""
    inputs = jax.tree.map(lambda x: x[i], batch.inputs)
    tokens, told = inputs.tokens.copy(), batch.weights[i] > 0
    hidden = batch.indices[i][told]
    assert len(set(hidden.tolist())) == told.sum()
    tokens[hidden] = batch.targets[i][told]
    assert np.isin(batch.targets[i][told], np.arange(19, 200)).all()
    shown = inputs.tokens[hidden]
    assert ((shown == VOCABULARY.mask) | (shown >= 19)).all()
    used = int(inputs.segments.sum())
    np.testing.assert_array_equal(inputs.segments, np.arange(LENGTH) < used)
    np.testing.assert_array_equal(inputs.positions, np.arange(LENGTH) * inputs.segments)
    assert not tokens[used:].any() and not inputs.types[used:].any()
    if not used:
        return [], []
    first, second = np.flatnonzero(tokens == 3)
    assert tokens[0] == 2 and second == used - 1
    np.testing.assert_array_equal(inputs.types[:used], np.arange(used) > first)
    assert told.sum() == max(1, round(0.15 * (used - 3)))
    return tokens[1:first].tolist(), tokens[first + 1 : second].tolist()


def place_in(documents, text):
    """(document, first, behind) of a text that lies in one document as it is."""
    for number, document in enumerate(documents):
        if text[0] in document:
            start = document.index(text[0])
            assert document[start : start + len(text)] == text
            return number, start, start + len(text)
    raise AssertionError(f"{text} is in no document")


@each
def test_law_10_both_texts_are_of_the_row_and_the_label_says_how_they_lie(name):
    rows = stream_rows(400, 0)
    batch = corrupted(name, rows)
    seen = set()
    for i, row in enumerate(rows):
        documents = documents_of(row)
        first, second = taken_apart(batch, i)
        label = int(batch.labels[i])
        if not any(len(document) > 1 for document in documents):
            assert label == -1 and not first and not second
            continue
        a, b = place_in(documents, first), place_in(documents, second)
        follows = a[0] == b[0] and b[1] == a[2]
        seen.add((label, len(documents) > 1))
        if name == "sentence_order":
            assert label in (0, 1)
            assert follows == (label == 0)
            assert follows or (a[0] == b[0] and a[1] == b[2])
        elif label == 0:
            assert follows
        elif label == 1 and len(documents) > 1:
            assert a[0] != b[0]
        elif label == 1:
            assert not follows and (b[2] <= a[1] or b[1] > a[2])
        else:  # one document, all of which was read
            assert follows and len(documents) == 1 == len(documents[0]) - len(first + second) + 1
    assert {(label, many) for label in (0, 1) for many in (True, False)} <= seen


@each
def test_half_of_the_labels_are_of_either_kind_and_lengths_do_not_tell_which(name):
    rows = stream_rows(MANY, 1, shortest=3, whole=True)
    batch = corrupted(name, rows, seed=1)
    usable = batch.labels >= 0
    assert usable.mean() > 0.9
    count = usable.sum()
    assert abs(batch.labels[usable].mean() - 0.5) < 5 * 0.5 / count**0.5
    types, segments = batch.inputs.types[usable], batch.inputs.segments[usable]
    second, both = types.sum(1) - 1, segments.sum(1) - 3
    for sizes in (second, both - second, both):
        groups = np.digitize(sizes, [2, 4, 8, 12, 16, 20])
        table = np.histogram2d(batch.labels[usable], groups, (2, np.arange(8) - 0.5))[0]
        assert stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 1e-6


@each
def test_a_long_document_fills_the_room_and_the_cut_is_anywhere(name):
    row = np.r_[2, 19 : 19 + 2 * LENGTH - 1].astype(np.int32)
    batch = corrupted(name, np.stack([row] * MANY))
    room = LENGTH - 3
    pieces = batch.inputs.segments.sum(1) - 3
    first = pieces - (batch.inputs.types.sum(1) - 1)
    assert first.min() == 1 and first.max() == room - 1 and pieces.min() >= 2
    if name == "sentence_order":  # next_sentence's other text may have less room
        full = pieces == room  # nine tenths, and of the shorter ones one in room - 1
        assert abs(full.mean() - 0.9 - 0.1 / (room - 1)) < 5 * 0.3 / MANY**0.5
        inner = full & (first > 4) & (first < room - 4)  # near the document's ends cuts are rarer
        assert stats.chisquare(np.bincount(first[inner])[5:]).pvalue > 1e-6


@each
def test_law_05_a_row_of_padding_has_no_label_and_no_target(name):
    empty = corrupted(name, np.zeros((4, 2 * LENGTH), np.int32))
    assert set(empty.labels.tolist()) == {-1} and not empty.weights.any()
    assert not empty.inputs.tokens.any() and not empty.inputs.segments.any()


@each
def test_law_01_a_pair_depends_on_its_key_and_row_alone(name):
    rows = stream_rows(MANY, 2, shortest=5)
    keys = jax.random.split(jax.random.key(0), MANY)
    batch = corrupted(name, rows)
    turned = compiled(name)[1](keys[::-1], jnp.asarray(rows[::-1].copy()))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[::-1], b), turned, batch)
    same = corrupted(name, np.stack([rows[0]] * 8), seed=4)
    assert len({tokens.tobytes() for tokens in same.inputs.tokens}) > 4


@pytest.mark.slow
def test_law_01_jitted_and_eager_are_the_same():
    rows = stream_rows(1, 3, whole=True)
    key = jax.random.split(jax.random.key(0), MANY)[0]
    eager = compiled("next_sentence")[0].corrupt(SETTING, key, jnp.asarray(rows[0]))
    batch = corrupted("next_sentence", rows)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), eager, batch)


@functools.cache
def made(name, masked_lm=1.0):
    """(objective, model, parameters, batch, jitted losses)."""
    objective = objectives.build(name, {"masked_lm": masked_lm})
    config = models.ModelConfig(layers=1, width=16, heads=2, mlp_size=32, init_std=0.2)
    model = models.build(completed(config, VOCABULARY.size, LENGTH, objective.token_types))
    rows = stream_rows(7, 5)
    rows[-1] = 0
    batch = corrupted(name, rows, masked_lm=masked_lm)
    params = jax.jit(functools.partial(objective.initialise, model))(jax.random.key(2), batch)
    return objective, model, params, batch, jax.jit(functools.partial(objective.losses, model))


@pytest.mark.parametrize("masked_lm", [1.0, 0.0])
def test_law_05_the_pair_loss_recomputed_by_hand(masked_lm):
    objective, model, params, batch, losses = made("next_sentence", masked_lm)
    with jax.numpy_dtype_promotion("strict"):
        sums = jax.device_get(losses(params, batch, None))
    states = jax.jit(model.apply)({"params": params}, batch.inputs)
    states = np.asarray(states, np.float64)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["heads"]["pair"])
    pooled = np.tanh(states[:, 0] @ head["pooler"]["kernel"] + head["pooler"]["bias"])
    logits = pooled @ head["output"]["kernel"] + head["output"]["bias"]
    loss = hits = count = 0
    for label, row in zip(batch.labels, logits, strict=True):
        if label >= 0:
            loss += np.log(np.exp(row).sum()) - row[label]
            hits += row.argmax() == label
            count += 1
    assert 0 < count < len(logits)
    np.testing.assert_allclose(sums["pair"], (loss, count), rtol=1e-5)
    np.testing.assert_allclose(sums["pair_accuracy"], (hits, count))
    assert {name: sums[name][1] for name in objective.coefficients()} == objective.weights(batch)
    assert ("lm" in sums) == ("lm" in objective.coefficients()) == bool(masked_lm)
    if masked_lm:
        assert sums["lm"][1] == sums["accuracy"][1] == batch.weights.sum() > 0
    else:
        assert batch.targets.shape == (7, 0)
    # What is trained gets a gradient: no head stands in the tree for nothing.
    total = lambda p: sum(losses(p, batch, None)[name][0] for name in objective.coefficients())  # noqa: E731
    gradient = jax.tree.leaves_with_path(jax.jit(jax.grad(total))(params))
    idle = [jax.tree_util.keystr(path) for path, leaf in gradient if not np.asarray(leaf).any()]
    assert idle == []


def test_the_types_are_read_and_the_config_has_room_for_them():
    _, model, params, batch, losses = made("sentence_order")
    assert model.config.token_types == 2
    without = batch.replace(inputs=batch.inputs.replace(types=np.zeros_like(batch.inputs.types)))
    there, gone = losses(params, batch, None), losses(params, without, None)
    assert abs(float(there["pair"][0] - gone["pair"][0])) > 1e-4
    with pytest.raises(ValueError, match="token_types=1.*tells 2 types.*set it to 0"):
        completed(models.ModelConfig(token_types=1), 200, LENGTH, 2)


def test_rows_without_room_for_two_texts_and_impossible_shares_are_refused():
    short = Setting("encoder", VOCABULARY, 4)
    with pytest.raises(ValueError, match="length 4 is too short for sentence_order.*5 or more"):
        objectives.build("sentence_order").shapes(short)
    with pytest.raises(ValueError, match="sum to 1.2"):
        objectives.build("next_sentence", {"random": 0.8, "keep": 0.4})
