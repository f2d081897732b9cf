"""Laws 1, 5 and 10 for each objective on each architecture it fits, on rows of random documents.

Documents, rows and what must come out of them are made again here, by plain loops over lists.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from objectives.assemble import sides
from objectives.base import ARCHITECTURES, Objective, Setting
from objectives.vocabulary import Vocabulary

# Two ranges of ordinary pieces, with special ids below, between and above.
VOCABULARY = Vocabulary(
    size=210, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 113)),
    ordinary=((113, 150), (160, 200)),
)  # fmt: skip
ORDINARY = [*range(113, 150), *range(160, 200)]
INNER_SPECIAL = [VOCABULARY.unk, 150, 159, 200]  # may stand inside a document
PAIRS = [
    (architecture, name)
    for architecture, names in objectives.pairs_by_architecture().items()
    for name in names
    if objectives.REGISTRY[name].losses is Objective.losses  # others: tests of their own
]
LENGTH, ROWS = 48, 4
each_pair = pytest.mark.parametrize("architecture, name", PAIRS)
property_test = hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)


@functools.cache
def compiled(architecture, name, length=LENGTH):
    """(objective, setting, raw length, jitted corruption of a batch of rows)."""
    objective = objectives.build(name)
    setting = Setting(architecture, VOCABULARY, length)
    corrupt = functools.partial(objective.corrupt, setting)
    return objective, setting, objective.shapes(setting).raw, jax.jit(jax.vmap(corrupt))


def corrupted(architecture, name, seed, rows, length=LENGTH):
    """The batches of single rows, as NumPy."""
    keys = jax.random.split(jax.random.key(seed), len(rows))
    with jax.numpy_dtype_promotion("strict"):
        batch = compiled(architecture, name, length)[3](keys, jnp.asarray(rows))
    batch = jax.tree.map(np.asarray, batch)
    return [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(len(rows))]


def documents_of(row, architecture):
    """The documents of a row, as lists of tokens with their framing."""
    found, fresh = [], True
    for token in row.tolist():
        if token == VOCABULARY.pad:
            break
        if fresh or (architecture == "encoder" and token == VOCABULARY.cls):
            found.append([])
        found[-1].append(token)
        fresh = token == (VOCABULARY.sep if architecture == "encoder" else VOCABULARY.eos)
    return found


def make_row(architecture, raw, lengths, offset, seed):
    """A row of a framed stream: cut out from `offset`, padded where the stream has ended."""
    random = np.random.default_rng(seed)
    stream = []
    for length in lengths:
        pieces = random.choice(ORDINARY, length)
        inner = random.random(length) < 0.05
        pieces[inner] = random.choice(INNER_SPECIAL, inner.sum())
        encoder = architecture == "encoder"
        closing = VOCABULARY.sep if encoder else VOCABULARY.eos
        stream += [VOCABULARY.cls] * encoder + pieces.tolist() + [closing]
    offset %= len(stream)
    row = stream[offset : offset + raw]
    if architecture == "encoder":
        row[0] = VOCABULARY.cls
    return np.array(row + [VOCABULARY.pad] * (raw - len(row)), np.int32)


row_of = st.tuples(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(0, 30),
    st.integers(0, 2**31),
)
some_rows = st.tuples(st.integers(0, 1000), st.lists(row_of, min_size=ROWS, max_size=ROWS))


def rows_and_batches(architecture, name, drawn):
    objective, setting, raw, _ = compiled(architecture, name)
    seed, made = drawn
    rows = np.stack([make_row(architecture, raw, *one) for one in made])
    return objective, setting, zip(rows, corrupted(architecture, name, seed, rows), strict=True)


def kept(row, restored, architecture, name):
    """The row that was kept of it: all, but for span corruption of very short documents."""
    if name == "span_corruption" and architecture == "encoder_decoder":
        tokens = restored[restored > 0]
        if not np.array_equal(restored, row):  # cut short: its beginning, closed by an [EOS]
            assert tokens[-1] == VOCABULARY.eos
            return np.where(np.arange(len(row)) < len(tokens) - 1, row, 0), tokens[:-1]
    return row, restored


@each_pair
@hypothesis.given(drawn=some_rows)
@property_test
def test_law_10_inputs_and_targets_restore_the_row(architecture, name, drawn):
    objective, setting, pairs = rows_and_batches(architecture, name, drawn)
    for row, batch in pairs:
        restored = objective.inverse(setting, batch)
        assert restored.shape == row.shape and restored.dtype == np.int32
        whole, tokens = kept(row, restored, architecture, name)
        np.testing.assert_array_equal(tokens, whole[: len(tokens)])
        assert len(tokens) >= 0.5 * (row > 0).sum()


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_law_10_no_token_is_lost_where_documents_are_a_sentence_or_longer(architecture):
    raw, many = compiled(architecture, "span_corruption")[2], 256
    random = np.random.default_rng(5)
    rows = np.stack([
        make_row(architecture, raw, random.integers(12, 80, 6), random.integers(60), i)
        for i in range(many)
    ])  # fmt: skip
    objective, setting = compiled(architecture, "span_corruption")[:2]
    batches = [
        batch
        for i in range(0, many, ROWS)
        for batch in corrupted(architecture, "span_corruption", i, rows[i : i + ROWS])
    ]
    for row, batch in zip(rows, batches, strict=True):
        np.testing.assert_array_equal(objective.inverse(setting, batch), row)


@each_pair
@hypothesis.given(drawn=some_rows)
@property_test
def test_law_10_targets_never_cross_a_document(architecture, name, drawn):
    objective, setting, pairs = rows_and_batches(architecture, name, drawn)
    for row, batch in pairs:
        whole, _ = kept(row, objective.inverse(setting, batch), architecture, name)
        documents = documents_of(whole, architecture)
        if name in ("masked_lm", "causal_lm"):
            told = np.flatnonzero(batch.weights)
            read = told if batch.indices is None else batch.indices[told]
            flat = [n for n, document in enumerate(documents, 1) for _ in document]
            flat += [0] * (len(row) - len(flat))
            np.testing.assert_array_equal(batch.inputs.segments, flat[: setting.length])
            ahead = 1 if name == "causal_lm" else 0
            np.testing.assert_array_equal([flat[i + ahead] for i in read], np.array(flat)[read])
            np.testing.assert_array_equal(batch.targets[told], row[read + ahead])
            continue
        found = sides(setting, batch)
        for number, document in enumerate(documents[: len(found)]):
            given_side, told_side = found[number]
            both = sorted(t for t in given_side + told_side if t in ORDINARY)
            mine = sorted(t for t in document if t in ORDINARY)
            last = number == len(documents) - 1  # of which a decoder may leave one token unread
            assert both == mine or (last and name == "prefix_lm" and len(document) == 1)


@each_pair
@hypothesis.given(drawn=some_rows)
@property_test
def test_law_10_special_ids_are_never_touched(architecture, name, drawn):
    objective, setting, pairs = rows_and_batches(architecture, name, drawn)
    for row, batch in pairs:
        read, told = batch.inputs.tokens, batch.targets[batch.weights > 0]
        if name == "masked_lm":
            special = ~np.isin(row, ORDINARY)
            np.testing.assert_array_equal(read[special], row[special])
            assert np.isin(told, ORDINARY).all()
            changed = read[read != row]
            assert (np.isin(changed, ORDINARY) | (changed == VOCABULARY.mask)).all()
        elif name == "span_corruption":
            whole, _ = kept(row, objective.inverse(setting, batch), architecture, name)
            own = [*ORDINARY, *VOCABULARY.sentinels, VOCABULARY.eos]
            assert np.isin(told, own).all()
            given_tokens = np.concatenate([given for given, _ in sides(setting, batch)] or [[]])
            stay = [t for t in whole.tolist() if t not in ORDINARY and t not in (0, VOCABULARY.eos)]
            assert [t for t in given_tokens if t in INNER_SPECIAL] == stay


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
@hypothesis.given(drawn=some_rows)
@property_test
def test_law_10_sentinels_are_in_order_and_spans_apart(architecture, drawn):
    name = "span_corruption"
    _, setting, pairs = rows_and_batches(architecture, name, drawn)
    for _, batch in pairs:
        first = lambda side: [t for t in side if t in VOCABULARY.sentinels]  # noqa: E731
        found = sides(setting, batch)
        given_order = [t for given, _ in found for t in first(given)]
        told_order = [t for _, told in found for t in first(told)]
        assert given_order == told_order == list(VOCABULARY.sentinels[: len(given_order)])
        for given, told in found:
            assert not any(
                a in VOCABULARY.sentinels and b in VOCABULARY.sentinels
                for a, b in zip(given, given[1:], strict=False)
            )
            assert not told or told[0] in VOCABULARY.sentinels
            assert VOCABULARY.eos not in told[:-1]


@each_pair
def test_shapes_are_static_and_those_announced(architecture, name):
    objective, setting, raw, corrupt = compiled(architecture, name)
    shapes = objective.shapes(setting)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    batch = jax.eval_shape(corrupt, keys, jax.ShapeDtypeStruct((2, raw), jnp.int32))
    assert batch.inputs.tokens.shape == (2, shapes.inputs) == (2, LENGTH)
    assert batch.targets.shape == batch.weights.shape == (2, shapes.targets)
    assert batch.targets.dtype == jnp.int32 and batch.weights.dtype == jnp.float32
    assert (batch.decoder is None) == (architecture != "encoder_decoder")
    predicted = (
        batch.indices if batch.indices is not None else (batch.decoder or batch.inputs).tokens
    )
    assert predicted.shape == batch.targets.shape
    assert f"{raw} raw" in objective.describe(setting)
    assert 0 < objective.targets_expected(setting) <= shapes.targets


@each_pair
def test_law_01_a_row_depends_on_its_key_and_not_on_its_neighbours(architecture, name):
    raw = compiled(architecture, name)[2]
    rows = np.stack([make_row(architecture, raw, [9, 20, 3, 30], i, i) for i in range(ROWS)])
    together = corrupted(architecture, name, 3, rows)
    # Another order of the rows, with their keys, is the same order of the batches.
    keys = jax.random.split(jax.random.key(3), ROWS)
    batch = compiled(architecture, name)[3](keys[::-1], jnp.asarray(rows[::-1].copy()))
    for i in range(ROWS):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_array_equal(a[-1 - i], b), batch, together[i]
        )


@pytest.mark.parametrize("architecture, name", [PAIRS[0], PAIRS[-1]])
def test_law_01_jitted_and_eager_are_the_same(architecture, name):
    objective, setting, raw, _ = compiled(architecture, name)
    row = make_row(architecture, raw, [9, 20, 3, 30], 0, 0)
    jitted = corrupted(architecture, name, 3, np.stack([row] * ROWS))
    eager = objective.corrupt(
        setting, jax.random.split(jax.random.key(3), ROWS)[1], jnp.asarray(row)
    )
    jax.tree.map(np.testing.assert_array_equal, eager, jitted[1])


@each_pair
def test_law_01_another_key_draws_otherwise(architecture, name):
    if name == "causal_lm":
        return
    raw = compiled(architecture, name)[2]
    row = make_row(architecture, raw, [60], 0, 0)
    draws = corrupted(architecture, name, 7, np.stack([row] * ROWS))
    assert len({batch.targets.tobytes() for batch in draws}) > 1


@each_pair
def test_law_05_a_row_of_padding_has_no_target(architecture, name):
    objective, setting, raw, _ = compiled(architecture, name)
    batch, *_ = corrupted(architecture, name, 0, np.zeros((ROWS, raw), np.int32))
    assert batch.weights.sum() == 0 and batch.targets.sum() == 0
    assert batch.inputs.segments.sum() == 0 and batch.inputs.tokens.sum() == 0
    np.testing.assert_array_equal(objective.inverse(setting, batch), np.zeros(raw))


@each_pair
def test_segments_agree_on_both_sides_and_positions_restart(architecture, name):
    raw = compiled(architecture, name)[2]
    rows = np.stack([make_row(architecture, raw, [5, 9, 11, 2, 30], i, i) for i in range(ROWS)])
    for batch in corrupted(architecture, name, 0, rows):
        for side in filter(None, (batch.inputs, batch.decoder)):
            for number in range(1, side.segments.max() + 1):
                (place,) = np.nonzero(side.segments == number)
                np.testing.assert_array_equal(place, place[:1] + np.arange(len(place)))
                np.testing.assert_array_equal(side.positions[place], np.arange(len(place)))
        expected = {"encoder": "all", "encoder_decoder": "all", "decoder": "prefix"}[architecture]
        expected = "causal" if name == "causal_lm" else expected
        assert batch.inputs.visibility == expected
        if expected == "prefix":  # what is told is not shown to what comes before it
            told = batch.indices[batch.weights > 0] + 1
            assert not batch.inputs.prefix[told[told < LENGTH]].any()
        if batch.decoder is not None:  # and nothing is typed without an input to look at
            assert batch.decoder.visibility == "causal"
            typed = set(batch.decoder.segments.tolist()) - {0}
            assert typed and typed <= set(batch.inputs.segments.tolist())
            starts = batch.decoder.tokens[
                (batch.decoder.positions == 0) & (batch.decoder.segments > 0)
            ]
            assert set(starts.tolist()) == {VOCABULARY.start}


def test_a_pair_that_makes_no_sense_is_refused_with_those_that_do():
    for name, cls in objectives.REGISTRY.items():
        for architecture in ARCHITECTURES:
            if architecture in cls.architectures:
                objectives.check(objectives.build(name), architecture)
                continue
            with pytest.raises(ValueError) as error:
                objectives.check(objectives.build(name), architecture)
            message = str(error.value)
            assert "\n" not in message and name in message and cls.unfit[architecture] in message
            assert "encoder_decoder: prefix_lm, span_corruption" in message


def test_unknown_names_and_values_are_refused_in_one_line():
    for arguments, word in [
        (("maskd_lm",), "did you mean 'masked_lm'"),
        (("masked_lm", {"rte": 0.2}), "did you mean 'rate'"),
        (("causal_lm", {"rate": 0.2}), "none at all"),
        (("masked_lm", {"mask": 0.5}), "expected 1"),
    ]:
        with pytest.raises(ValueError, match=word) as error:
            objectives.build(*arguments)
        assert "\n" not in str(error.value)


def test_rows_without_room_or_sentinels_are_refused():
    spans = objectives.build("span_corruption")
    with pytest.raises(ValueError, match="too short"):
        spans.shapes(Setting("encoder_decoder", VOCABULARY, 2))
    with pytest.raises(ValueError, match="100 sentinels"):
        spans.shapes(Setting("encoder_decoder", VOCABULARY, 2048))


def test_ordinary_ranges_must_be_apart():
    with pytest.raises(ValueError, match="apart"):
        Vocabulary(**{**vars(VOCABULARY), "ordinary": ((113, 150), (140, 200))})
