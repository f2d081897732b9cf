"""Laws 1, 5 and 10 for each objective on each architecture it fits, on rows of random documents.

The pairs come from the registry, so that a new objective is held to them without a line here.
Documents, rows and what must come out of them are made again by plain loops over lists.
"""

import functools
from collections import Counter

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from framed import INNER_SPECIAL, ORDINARY, VOCABULARY, documents_of, make_row

import objectives
from objectives.base import ARCHITECTURES, Objective, Setting
from objectives.named import NAMED
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary

ALL = [(a, name) for a, names in objectives.pairs_by_architecture().items() for name in names]
# What is read out of a batch is told here of those that share the cross entropy of its targets; the
# others have tests of their own.
PAIRS = [(a, name) for a, name in ALL if objectives.REGISTRY[name].losses is Objective.losses]
LENGTH, ROWS, MANY = 48, 4, 10_000
UNIGRAM = Unigram(np.isin(np.arange(VOCABULARY.size), ORDINARY))
# `make test` takes one pair for each way through the code, and every objective that is new here;
# `make test-all` those that are made of the same parts too.
FIRST = {
    ("encoder", "masked_lm"),
    ("encoder", "span_masked_lm"),
    ("decoder", "text_infilling"),
    ("encoder_decoder", "prefix_lm"),
    ("encoder_decoder", "span_corruption"),
}  # fmt: skip
KIN = {*NAMED, "denoising", "mixture", "ul2", "prefix_lm"}


def each_of(pairs):
    slow = [pytest.mark.slow]
    return pytest.mark.parametrize(
        "architecture, name",
        [pytest.param(a, n, marks=slow * (n in KIN and (a, n) not in FIRST)) for a, n in pairs],
    )


each_pair, each_of_all = each_of(PAIRS), each_of(ALL)
property_test = hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
MARKERS = {*VOCABULARY.sentinels, *VOCABULARY.infill, *VOCABULARY.modes, VOCABULARY.eos}


@functools.cache
def compiled(architecture, name, length=LENGTH):
    """(objective, setting, raw length, jitted corruption of a batch of rows)."""
    objective = objectives.build(name)
    setting = Setting(architecture, VOCABULARY, length, UNIGRAM)
    corrupt = functools.partial(objective.corrupt_batch, setting)
    return objective, setting, objective.shapes(setting).raw, jax.jit(corrupt)


def single_rows(batch, count):
    batch = jax.tree.map(np.asarray, batch)
    return [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(count)]


def corrupted(architecture, name, seed, rows):
    """The batches of single rows, as NumPy."""
    keys = jax.random.split(jax.random.key(seed), len(rows))
    with jax.numpy_dtype_promotion("strict"):
        batch = compiled(architecture, name)[3](keys, jnp.asarray(rows))
    return single_rows(batch, len(rows))


def segments_told(batch):
    """The document that each target belongs to."""
    if batch.decoder is not None:
        return batch.decoder.segments
    return batch.inputs.segments if batch.indices is None else batch.inputs.segments[batch.indices]


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


@each_pair
@hypothesis.given(drawn=some_rows)
@property_test
def test_law_10_inputs_and_targets_restore_the_row(architecture, name, drawn):
    """All of it, or its beginning where an end had to be cut off for want of room."""
    objective, setting, pairs = rows_and_batches(architecture, name, drawn)
    for row, batch in pairs:
        if objective.irreversible:
            with pytest.raises(NotImplementedError, match=objective.irreversible):
                objective.inverse(setting, batch)
            return
        restored = objective.inverse(setting, batch)
        assert restored.shape == row.shape and restored.dtype == np.int32
        tokens = restored[restored > 0]
        whole = row[row > 0]
        if len(tokens) and tokens[-1] == VOCABULARY.eos and tokens[-1] != row[len(tokens) - 1]:
            tokens = tokens[:-1]  # the [EOS] behind a cut
        np.testing.assert_array_equal(tokens, whole[: len(tokens)])
        # Only what marks a document may push its end out: three sentinels at most (PRE, SUF, MID).
        assert len(tokens) >= len(whole) - 3 * len(documents_of(row, architecture))


@each_pair
@hypothesis.given(drawn=some_rows)
@property_test
def test_law_10_nothing_crosses_a_document_and_no_special_id_is_touched(architecture, name, drawn):
    _, setting, pairs = rows_and_batches(architecture, name, drawn)
    for row, batch in pairs:
        documents = documents_of(row, architecture)
        told = batch.weights > 0
        shown, segments = batch.inputs.tokens, batch.inputs.segments
        assert segments.max(initial=0) <= len(documents)
        for number, document in enumerate(documents, 1):
            own = Counter(document)
            seen = shown[segments == number].tolist()
            typed = batch.targets[told & (segments_told(batch) == number)].tolist()
            # Targets are of this document, each piece at most as often as there.
            assert not (Counter(t for t in typed if t in ORDINARY) - own), (document, typed)
            assert set(typed) <= {*own, *MARKERS}
            # Special ids inside the text stand where they stood, in order.
            stay = [t for t in document if t in INNER_SPECIAL]
            left = [t for t in seen if t in INNER_SPECIAL]
            assert left == stay[: len(left)] or architecture == "decoder"
            assert not (Counter(left) - Counter({t: 2 * n for t, n in Counter(stay).items()}))
            # A random piece is an ordinary one; no padding is read; what frames the text frames it.
            known = {*own, *ORDINARY, *MARKERS, VOCABULARY.mask}
            assert set(seen) <= known and VOCABULARY.pad not in seen
        if architecture == "encoder":
            special = ~np.isin(row, ORDINARY)
            np.testing.assert_array_equal(shown[special], row[special])
            where = np.arange(len(row)) if batch.indices is None else batch.indices
            np.testing.assert_array_equal(batch.targets[told], row[where[told]])
            assert not special[where[told]].any()
        assert not shown[segments == 0].any()


@each_of([pair for pair in ALL if pair not in PAIRS])
@hypothesis.given(drawn=some_rows)
@property_test
def test_law_10_no_special_id_is_touched_where_the_loss_is_another_one(architecture, name, drawn):
    objective, setting, pairs = rows_and_batches(architecture, name, drawn)
    shapes, frame = objective.shapes(setting), {VOCABULARY.cls, VOCABULARY.sep, VOCABULARY.pad}
    for row, batch in pairs:
        shown, told = batch.inputs.tokens, batch.weights > 0
        assert shown.shape == (shapes.inputs,)
        assert batch.targets.shape == batch.weights.shape == (shapes.targets,)
        assert np.isin(batch.targets[told], ORDINARY).all()
        assert set(shown.tolist()) <= {*row.tolist(), *ORDINARY, *frame, VOCABULARY.mask}
        inner = (Counter(t for t in ids.tolist() if t in INNER_SPECIAL) for ids in (shown, row))
        assert not next(inner) - next(inner)
        assert not shown[batch.inputs.segments == 0].any()


@each_pair
def test_shapes_are_static_and_those_announced(architecture, name):
    objective, setting, raw, corrupt = compiled(architecture, name)
    shapes = objective.shapes(setting)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    batch = jax.eval_shape(corrupt, keys, jax.ShapeDtypeStruct((2, raw), jnp.int32))
    assert batch.inputs.tokens.shape == (2, shapes.inputs)
    assert shapes.inputs == LENGTH or (architecture == "encoder_decoder" and shapes.inputs < LENGTH)
    assert batch.targets.shape == batch.weights.shape == (2, shapes.targets)
    assert batch.targets.dtype == jnp.int32 and batch.weights.dtype == jnp.float32
    assert (batch.decoder is None) == (architecture != "encoder_decoder")
    predicted = (
        batch.indices if batch.indices is not None else (batch.decoder or batch.inputs).tokens
    )
    assert predicted.shape == batch.targets.shape
    assert f"{raw} raw" in objective.describe(setting)
    assert 0 < objective.targets_expected(setting) <= shapes.targets <= LENGTH


@functools.cache
def many_rows(architecture, name):
    """(rows, each of one long document, their Batch), as NumPy."""
    _, _, raw, corrupt = compiled(architecture, name)
    rows = np.random.default_rng(1).choice(ORDINARY, (MANY, raw)).astype(np.int32)
    if architecture == "encoder":
        rows[:, 0], rows[:, -1] = VOCABULARY.cls, VOCABULARY.sep
    batch = corrupt(jax.random.split(jax.random.key(2), MANY), rows)
    return rows, jax.tree.map(np.asarray, batch)


def assert_mean(found, expected, lower=0.0):
    """The mean of found [MANY] is the expected one, less `lower` at most, within 5 standard errors."""
    found = found.astype(np.float64)
    error = 5 * found.std() / len(found) ** 0.5 + 1e-6
    assert expected - lower - error < found.mean() < expected + error, (found.mean(), expected)


@each_pair
def test_law_10_as_many_targets_as_expected(architecture, name):
    objective, setting, _, _ = compiled(architecture, name)
    # The words of this vocabulary are long, three pieces in a budget of seven: one may not fit.
    lower = 1.5 if getattr(objective, "unit", "piece") == "word" else 0.0
    counts = many_rows(architecture, name)[1].weights.sum(1)
    assert_mean(counts, objective.targets_expected(setting), lower)


# name: (density; of the noise the shares that are seen no more, and that are seen as random pieces)
PUBLISHED = {
    "masked_lm": (0.15, 0.8, 0.1),  # Devlin et al. 2019, section 3.1
    "whole_word_masked_lm": (0.15, 0.8, 0.1),
    "span_corruption": (0.15, 1.0, 0.0),  # Raffel et al. 2020, sections 3.1.4 and 3.3
    "replace_spans": (0.15, 1.0, 0.0),
    "drop_spans": (0.15, 1.0, 0.0),
    "bert_style": (0.15, 0.9, 0.1),
    "mass_style": (0.15, 1.0, 0.0),
    "text_infilling": (0.3, 1.0, 0.0),  # Lewis et al. 2020, section 5.1
}


@each_of([(a, n) for a, n in PAIRS if n in PUBLISHED and a != "decoder"])
def test_law_10_the_inputs_lack_what_the_papers_take_away(architecture, name):
    density, hidden, random = PUBLISHED[name]
    rows, batch = many_rows(architecture, name)
    own = np.isin(rows, ORDINARY).sum(1)
    noise, lower = round(density * own[0]), 0.1 * (name == "whole_word_masked_lm")
    shown = batch.inputs.tokens
    assert_mean(own - np.isin(shown, ORDINARY).sum(1), hidden * noise, lower)
    if architecture == "encoder":  # where each token stands in its place
        other = np.isin(shown, ORDINARY) & (shown != rows)
        assert_mean(other.sum(1), random * noise * (1 - 1 / len(ORDINARY)), lower)


@each_of_all
def test_law_01_a_row_depends_on_its_key_and_not_on_its_neighbours(architecture, name):
    _, _, raw, corrupt = compiled(architecture, name)
    rows = np.stack([make_row(architecture, raw, [9, 20, 3, 30], i, i) for i in range(ROWS)])
    together = corrupted(architecture, name, 3, rows)
    # Another order of the rows, with their keys, is the same order of the batches.
    keys = jax.random.split(jax.random.key(3), ROWS)
    turned = single_rows(corrupt(keys[::-1], jnp.asarray(rows[::-1].copy())), ROWS)
    for one, other in zip(together, turned[::-1], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    # And another key draws otherwise, but for an objective without a choice.
    same = corrupted(architecture, name, 7, np.repeat(rows[:1], ROWS, axis=0))
    draws = {b"".join(leaf.tobytes() for leaf in jax.tree.leaves(b)) for b in same}
    assert len(draws) > 1 or name == "causal_lm"


def test_law_01_one_row_is_the_same_alone_eager_and_sharded():
    same_alone_eager_and_sharded(*PAIRS[0])


@pytest.mark.slow
@each_of_all
def test_law_01_every_row_is_the_same_alone_eager_and_sharded(architecture, name):
    same_alone_eager_and_sharded(architecture, name)


def same_alone_eager_and_sharded(architecture, name):
    objective, setting, raw, corrupt = compiled(architecture, name)
    rows = np.stack([make_row(architecture, raw, [9, 20, 3, 30], i, i) for i in range(ROWS)])
    expected, keys = corrupted(architecture, name, 3, rows), jax.random.split(jax.random.key(3), 4)
    alone = objective.corrupt(setting, keys[1], jnp.asarray(rows[1]))  # neither jitted nor vmapped
    jax.tree.map(np.testing.assert_array_equal, alone, expected[1])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        placed = jax.device_put(keys, split), jax.device_put(jnp.asarray(rows), split)
        for ours, theirs in zip(single_rows(corrupt(*placed), ROWS), expected, strict=True):
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@each_pair
def test_law_05_a_row_of_padding_has_no_target(architecture, name):
    objective, setting, raw, _ = compiled(architecture, name)
    batch, *_ = corrupted(architecture, name, 0, np.zeros((ROWS, raw), np.int32))
    assert batch.weights.sum() == 0 and batch.targets.sum() == 0
    assert batch.inputs.segments.sum() == 0 and batch.inputs.tokens.sum() == 0
    if not objective.irreversible:
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
        assert (batch.inputs.visibility == "all") == (architecture != "decoder")
        if batch.inputs.visibility == "prefix":  # what is told is not shown to what is before it
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
    for name in objectives.REGISTRY:
        objective = objectives.build(name)
        for architecture in ARCHITECTURES:
            if architecture in objective.architectures:
                objectives.check(objective, architecture)
                continue
            with pytest.raises(ValueError) as error:
                objectives.check(objective, architecture)
            message = str(error.value)
            assert "\n" not in message and name in message
            assert objective.unfit[architecture] in message
            assert "encoder_decoder: " in message and "span_corruption" in message


def test_unknown_names_and_values_are_refused_in_one_line():
    for arguments, word in [
        (("maskd_lm",), "did you mean 'masked_lm'"),
        (("masked_lm", {"noise_densty": 0.2}), "did you mean 'noise_density'"),
        (("causal_lm", {"noise_density": 0.2}), "no hyperparameter 'noise_density'"),
        (("masked_lm", {"random": 0.95}), "expected at most 1"),
    ]:
        with pytest.raises(ValueError, match=word) as error:
            objectives.build(*arguments)
        assert "\n" not in str(error.value)


def test_rows_without_room_or_sentinels_are_refused():
    spans = objectives.build("span_corruption")
    with pytest.raises(ValueError, match="too short"):
        spans.shapes(Setting("encoder_decoder", VOCABULARY, 2))
    with pytest.raises(ValueError, match="max_spans=100"):
        spans.shapes(Setting("encoder_decoder", VOCABULARY, 2048))
    fewer = objectives.build("span_corruption", {"max_spans": 100})
    assert fewer.shapes(Setting("encoder_decoder", VOCABULARY, 2048)).raw == 2009
    words = objectives.build("whole_word_masked_lm")
    silent = Vocabulary(**{**vars(VOCABULARY), "joins": b""})
    with pytest.raises(ValueError, match="does not tell where words begin"):
        words.shapes(Setting("encoder", silent, 64))


def test_ordinary_ranges_must_be_apart():
    with pytest.raises(ValueError, match="apart"):
        Vocabulary(**{**vars(VOCABULARY), "ordinary": ((113, 150), (140, 200))})
