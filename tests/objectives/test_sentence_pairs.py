"""Invariants 1, 5 and 10 for sentence pairs: plain loops over lists take the inputs apart again.

All tokens of a row are different, so the position of a text in its row is known.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import models
import objectives
from models.config import complete_config
from objectives.base import ObjectiveSpec
from objectives.vocabulary import Vocabulary

SEQ_LEN, NUM_ROWS = 24, 3000
VOCABULARY = Vocabulary(
    size=200, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 19)), regular_token_ranges=((19, 200),),
)  # fmt: skip
SPEC = ObjectiveSpec("encoder", VOCABULARY, SEQ_LEN)
each = pytest.mark.parametrize("name", ["next_sentence", "sentence_order"])


@functools.cache
def compiled(name, **hyperparameters):
    objective = objectives.build(name, hyperparameters)
    return objective, jax.jit(jax.vmap(functools.partial(objective.corrupt, SPEC)))


def corrupted(name, rows, seed=0, **hyperparameters):
    """The Batch of rows, in NumPy; always NUM_ROWS rows at once, so that there is one program."""
    rngs = jax.random.split(jax.random.key(seed), NUM_ROWS)
    padded = np.zeros((NUM_ROWS, 2 * SEQ_LEN), np.int32)
    padded[: len(rows)] = rows
    with jax.numpy_dtype_promotion("strict"):
        batch = compiled(name, **hyperparameters)[1](rngs, jnp.asarray(padded))
    return jax.tree.map(lambda x: np.asarray(x)[: len(rows)], batch)


def stream_rows(count, seed, shortest=0, longest=40, full=False):
    """Rows cut from a token stream; [CLS] [SEP] alone is a document, too."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, 2 * SEQ_LEN), np.int32)
    for row in rows:
        unused, tokens = random.permutation(np.arange(19, 200)).tolist(), []
        while len(tokens) < 80:
            size = int(random.integers(shortest, longest))
            tokens += [2, *[unused.pop() for _ in range(min(size, len(unused)))], 3]
        size = 2 * SEQ_LEN if full else int(random.integers(1, 2 * SEQ_LEN + 1))
        tokens = tokens[int(random.integers(20)) :][:size]
        row[: len(tokens)] = tokens
        row[0] = 2
    return rows


def documents_of(row):
    """The tokens of each document of a row, without special tokens."""
    documents = []
    for token in row[row > 0].tolist():
        if token == 2:
            documents.append([])
        elif token != 3:
            documents[-1].append(token)
    return [document for document in documents if document]


def unmasked_pair(batch, i):
    """(first text, second text) of row i without masks; also checks the rest of the inputs."""
    inputs = jax.tree.map(lambda x: x[i], batch.inputs)
    tokens, is_target = inputs.tokens.copy(), batch.loss_weights[i] > 0
    positions = batch.target_positions[i][is_target]
    assert len(set(positions.tolist())) == is_target.sum()
    tokens[positions] = batch.targets[i][is_target]
    assert np.isin(batch.targets[i][is_target], np.arange(19, 200)).all()
    shown = inputs.tokens[positions]
    assert ((shown == VOCABULARY.mask) | (shown >= 19)).all()
    used = int(inputs.segment_ids.sum())
    np.testing.assert_array_equal(inputs.segment_ids, np.arange(SEQ_LEN) < used)
    np.testing.assert_array_equal(inputs.positions, np.arange(SEQ_LEN) * inputs.segment_ids)
    assert not tokens[used:].any() and not inputs.token_type_ids[used:].any()
    if not used:
        return [], []
    first, second = np.flatnonzero(tokens == 3)
    assert tokens[0] == 2 and second == used - 1
    np.testing.assert_array_equal(inputs.token_type_ids[:used], np.arange(used) > first)
    assert is_target.sum() == max(1, round(0.15 * (used - 3)))
    return tokens[1:first].tolist(), tokens[first + 1 : second].tolist()


def locate(documents, text):
    """(document, start, end) of a text that is a contiguous part of one document."""
    for number, document in enumerate(documents):
        if text[0] in document:
            start = document.index(text[0])
            assert document[start : start + len(text)] == text
            return number, start, start + len(text)
    raise AssertionError(f"{text} is in no document")


@each
def test_invariant_10_both_texts_come_from_the_row_and_the_label_is_their_relation(name):
    rows = stream_rows(400, 0)
    batch = corrupted(name, rows)
    seen = set()
    for i, row in enumerate(rows):
        documents = documents_of(row)
        first, second = unmasked_pair(batch, i)
        label = int(batch.labels[i])
        if not any(len(document) > 1 for document in documents):
            assert label == -1 and not first and not second
            continue
        a, b = locate(documents, first), locate(documents, second)
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
        else:  # one document, all of which is in the pair
            assert follows and len(documents) == 1 == len(documents[0]) - len(first + second) + 1
    assert {(label, several) for label in (0, 1) for several in (True, False)} <= seen


@each
def test_half_of_the_labels_are_1_and_lengths_do_not_reveal_the_label(name):
    rows = stream_rows(NUM_ROWS, 1, shortest=3, full=True)
    batch = corrupted(name, rows, seed=1)
    usable = batch.labels >= 0
    assert usable.mean() > 0.9
    count = usable.sum()
    assert abs(batch.labels[usable].mean() - 0.5) < 5 * 0.5 / count**0.5
    inputs = batch.inputs
    second = inputs.token_type_ids[usable].sum(1) - 1
    both = inputs.segment_ids[usable].sum(1) - 3
    for sizes in (second, both - second, both):
        groups = np.digitize(sizes, [2, 4, 8, 12, 16, 20])
        table = np.histogram2d(batch.labels[usable], groups, (2, np.arange(8) - 0.5))[0]
        assert stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 1e-6


@each
def test_pairs_of_a_long_document_fill_the_row_and_are_cut_uniformly(name):
    row = np.r_[2, 19 : 19 + 2 * SEQ_LEN - 1].astype(np.int32)
    batch = corrupted(name, np.stack([row] * NUM_ROWS))
    most = SEQ_LEN - 3
    both = batch.inputs.segment_ids.sum(1) - 3
    first = both - (batch.inputs.token_type_ids.sum(1) - 1)
    assert first.min() == 1 and first.max() == most - 1 and both.min() >= 2
    if name == "sentence_order":  # the other text of next_sentence may be shorter
        full = both == most  # nine tenths, and one in most - 1 of the rest
        assert abs(full.mean() - 0.9 - 0.1 / (most - 1)) < 5 * 0.3 / NUM_ROWS**0.5
        inner = full & (first > 4) & (first < most - 4)  # cuts near the document's ends are rarer
        assert stats.chisquare(np.bincount(first[inner])[5:]).pvalue > 1e-6


@each
def test_invariant_05_a_row_of_padding_has_no_label_and_no_target(name):
    empty = corrupted(name, np.zeros((4, 2 * SEQ_LEN), np.int32))
    assert set(empty.labels.tolist()) == {-1} and not empty.loss_weights.any()
    assert not empty.inputs.tokens.any() and not empty.inputs.segment_ids.any()


@each
def test_invariant_01_a_pair_depends_only_on_its_rng_and_row(name):
    rows = stream_rows(NUM_ROWS, 2, shortest=5)
    rngs = jax.random.split(jax.random.key(0), NUM_ROWS)
    batch = corrupted(name, rows)
    reverse = compiled(name)[1](rngs[::-1], jnp.asarray(rows[::-1].copy()))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[::-1], b), reverse, batch)
    same = corrupted(name, np.stack([rows[0]] * 8), seed=4)
    assert len({tokens.tobytes() for tokens in same.inputs.tokens}) > 4


@pytest.mark.slow
def test_invariant_01_jitted_equals_eager():
    rows = stream_rows(1, 3, full=True)
    rng = jax.random.split(jax.random.key(0), NUM_ROWS)[0]
    eager = compiled("next_sentence")[0].corrupt(SPEC, rng, jnp.asarray(rows[0]))
    batch = corrupted("next_sentence", rows)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), eager, batch)


@functools.cache
def setup(name, mlm_loss_weight=1.0):
    """(objective, model, parameters, batch, jitted losses)."""
    objective = objectives.build(name, {"mlm_loss_weight": mlm_loss_weight})
    config = models.ModelConfig(num_layers=1, emb_dim=16, num_heads=2, mlp_dim=32, init_std=0.2)
    config = complete_config(config, VOCABULARY.size, SEQ_LEN, objective.num_token_types)
    model = models.build(config)
    rows = stream_rows(7, 5)
    rows[-1] = 0
    batch = corrupted(name, rows, mlm_loss_weight=mlm_loss_weight)
    params = jax.jit(functools.partial(objective.init, model))(jax.random.key(2), batch)
    return objective, model, params, batch, jax.jit(functools.partial(objective.losses, model))


@pytest.mark.parametrize("mlm_loss_weight", [1.0, 0.0])
def test_invariant_05_the_pair_loss_equals_its_recomputation(mlm_loss_weight):
    objective, model, params, batch, losses = setup("next_sentence", mlm_loss_weight)
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
    names = objective.loss_coefficients()
    assert {name: sums[name][1] for name in names} == objective.loss_denominators(batch)
    assert ("lm" in sums) == ("lm" in names) == bool(mlm_loss_weight)
    if mlm_loss_weight:
        assert sums["lm"][1] == sums["accuracy"][1] == batch.loss_weights.sum() > 0
    else:
        assert batch.targets.shape == (7, 0)
    # Every parameter gets a gradient: the tree has no unused head.
    total = lambda p: sum(losses(p, batch, None)[name][0] for name in names)  # noqa: E731
    gradient = jax.tree.leaves_with_path(jax.jit(jax.grad(total))(params))
    idle = [jax.tree_util.keystr(path) for path, value in gradient if not np.asarray(value).any()]
    assert idle == []


def test_token_types_change_the_loss_and_the_config_gets_their_number():
    _, model, params, batch, losses = setup("sentence_order")
    assert model.config.num_token_types == 2
    zeros = np.zeros_like(batch.inputs.token_type_ids)
    without = batch.replace(inputs=batch.inputs.replace(token_type_ids=zeros))
    difference = losses(params, batch, None)["pair"][0] - losses(params, without, None)["pair"][0]
    assert abs(float(difference)) > 1e-4
    with pytest.raises(ValueError, match="num_token_types=1.*2 token types.*set it to 0"):
        complete_config(models.ModelConfig(num_token_types=1), 200, SEQ_LEN, 2)


def test_rows_too_short_for_two_texts_and_impossible_shares_are_rejected():
    short = ObjectiveSpec("encoder", VOCABULARY, 4)
    with pytest.raises(ValueError, match="seq_len 4 is too short for sentence_order.*5 or more"):
        objectives.build("sentence_order").lengths(short)
    with pytest.raises(ValueError, match="sum to 1.2"):
        objectives.build("next_sentence", {"random_token_prob": 0.8, "keep_token_prob": 0.4})
