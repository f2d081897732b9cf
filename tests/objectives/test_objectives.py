"""Invariants 1, 5 and 10 of each objective on each of its architectures, on rows of random documents.

The pairs come from the registry, so a new objective is tested without a line here. Plain loops over
lists recompute the documents and the rows and check the batches against them.
"""

import functools
from collections import Counter

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documents import INNER_SPECIAL, REGULAR_TOKENS, VOCABULARY, documents_of, make_row

import objectives
from objectives.base import ARCHITECTURES, ObjectiveSpec
from objectives.lm_loss import LMLoss
from objectives.named import NAMED
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary

ALL = [(a, name) for a, names in objectives.names_by_architecture().items() for name in names]
# Tests of the targets cover the objectives with the default loss; the others have their own tests.
PAIRS = [
    (a, name) for a, name in ALL if isinstance(objectives.loss_of(objectives.build(name)), LMLoss)
]
LENGTH, ROWS, MANY = 48, 4, 10_000
UNIGRAM = Unigram(np.isin(np.arange(VOCABULARY.size), REGULAR_TOKENS))
# `make test` runs one pair per code path and every objective that is not in SIMILAR;
# `make test-all` runs all pairs.
FIRST = {
    ("encoder", "masked_lm"),
    ("encoder", "span_masked_lm"),
    ("decoder", "text_infilling"),
    ("decoder", "mntp"),
    ("encoder_decoder", "prefix_lm"),
    ("encoder_decoder", "span_corruption"),
}  # fmt: skip
SIMILAR = {*NAMED, "denoising", "mixture", "ul2", "hybrid", "prefix_lm"}


def each_of(pairs):
    slow = [pytest.mark.slow]
    return pytest.mark.parametrize(
        "architecture, name",
        [pytest.param(a, n, marks=slow * (n in SIMILAR and (a, n) not in FIRST)) for a, n in pairs],
    )


each_pair = each_of(PAIRS)
# The rows of a batch of the hybrid share a component: test_mixtures.py.
each_of_rows = each_of([pair for pair in ALL if pair[1] != "hybrid"])
property_test = hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
MARKERS = {*VOCABULARY.sentinels, *VOCABULARY.infill, *VOCABULARY.modes, VOCABULARY.eos}


@functools.cache
def compiled(architecture, name, length=LENGTH):
    """(objective, spec, raw length, jitted corruption of a batch of rows)."""
    objective = objectives.build(name)
    spec = ObjectiveSpec(architecture, VOCABULARY, length, UNIGRAM)
    corrupt = functools.partial(objective.corrupt_batch, spec)
    return objective, spec, objective.lengths(spec).raw, jax.jit(corrupt)


def single_rows(batch, count):
    batch = jax.tree.map(np.asarray, batch)
    return [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(count)]


def corrupted(architecture, name, seed, rows):
    """The batches of single rows, as NumPy."""
    rngs = jax.random.split(jax.random.key(seed), len(rows))
    with jax.numpy_dtype_promotion("strict"):
        batch = compiled(architecture, name)[3](rngs, jnp.asarray(rows))
    return single_rows(batch, len(rows))


def target_segment_ids(batch):
    """The document of each target."""
    if batch.decoder_inputs is not None:
        return batch.decoder_inputs.segment_ids
    segment_ids = batch.inputs.segment_ids
    return segment_ids if batch.target_positions is None else segment_ids[batch.target_positions]


row_of = st.tuples(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(0, 30),
    st.integers(0, 2**31),
)
some_rows = st.tuples(st.integers(0, 1000), st.lists(row_of, min_size=ROWS, max_size=ROWS))


def rows_and_batches(architecture, name, drawn):
    objective, spec, raw, _ = compiled(architecture, name)
    seed, arguments = drawn
    rows = np.stack([make_row(architecture, raw, *each) for each in arguments])
    return objective, spec, zip(rows, corrupted(architecture, name, seed, rows), strict=True)


@each_pair
@hypothesis.given(drawn=some_rows)
@property_test
def test_invariant_10_inputs_and_targets_reconstruct_the_row(architecture, name, drawn):
    """All of it, or its beginning where the end had to be cut."""
    objective, spec, pairs = rows_and_batches(architecture, name, drawn)
    for row, batch in pairs:
        if objective.not_invertible_because:
            with pytest.raises(NotImplementedError, match=objective.not_invertible_because):
                objective.reconstruct(spec, batch)
            return
        restored = objective.reconstruct(spec, batch)
        assert restored.shape == row.shape and restored.dtype == np.int32
        tokens = restored[restored > 0]
        whole = row[row > 0]
        if len(tokens) and tokens[-1] == VOCABULARY.eos and tokens[-1] != row[len(tokens) - 1]:
            tokens = tokens[:-1]  # the [EOS] after a cut
        np.testing.assert_array_equal(tokens, whole[: len(tokens)])
        # Only tokens added to a document displace the end.
        added = 3 if name == "fill_in_the_middle" else 0  # [PRE], [SUF], [MID]
        assert len(tokens) >= len(whole) - added * len(documents_of(row, architecture))


@each_pair
@hypothesis.given(drawn=some_rows)
@property_test
def test_invariant_10_nothing_crosses_a_document_and_special_ids_stay(architecture, name, drawn):
    _, _, pairs = rows_and_batches(architecture, name, drawn)
    for row, batch in pairs:
        documents = documents_of(row, architecture)
        is_target = batch.loss_weights > 0
        tokens, segment_ids = batch.inputs.tokens, batch.inputs.segment_ids
        assert segment_ids.max(initial=0) <= len(documents)
        for number, document in enumerate(documents, 1):
            own = Counter(document)
            inputs = tokens[segment_ids == number].tolist()
            in_document = target_segment_ids(batch) == number
            targets = batch.targets[is_target & in_document].tolist()
            # Targets are tokens of this document, each at most as often as in the document.
            assert not (Counter(t for t in targets if t in REGULAR_TOKENS) - own), (
                document,
                targets,
            )
            assert set(targets) <= {*own, *MARKERS}
            # Special ids inside the text keep their order. A decoder's inputs end with its targets,
            # which may hold them again; fill_in_the_middle exchanges the parts of the text.
            before = [t for t in document if t in INNER_SPECIAL]
            after = [t for t in inputs if t in INNER_SPECIAL]
            cuts = range(len(after) + 1) if architecture == "decoder" else [len(after)]
            if name == "fill_in_the_middle":
                assert not Counter(after) - Counter(before)
            else:
                assert any(
                    (after[:k], after[k:]) == (before[:k], before[: len(after) - k]) for k in cuts
                )
            # Random tokens are regular tokens, and no padding is inside a document.
            known = {*own, *REGULAR_TOKENS, *MARKERS, VOCABULARY.mask}
            assert set(inputs) <= known and VOCABULARY.pad not in inputs
        if architecture == "encoder":
            special = ~np.isin(row, REGULAR_TOKENS)
            np.testing.assert_array_equal(tokens[special], row[special])
            positions = batch.target_positions
            positions = np.arange(len(row)) if positions is None else positions
            np.testing.assert_array_equal(batch.targets[is_target], row[positions[is_target]])
            assert not special[positions[is_target]].any()
        assert not tokens[segment_ids == 0].any()


@each_of([pair for pair in ALL if pair not in PAIRS])
@hypothesis.given(drawn=some_rows)
@property_test
def test_invariant_10_objectives_with_their_own_loss_keep_special_ids(architecture, name, drawn):
    objective, spec, pairs = rows_and_batches(architecture, name, drawn)
    lengths = objective.lengths(spec)
    added = {VOCABULARY.cls, VOCABULARY.sep, VOCABULARY.pad, VOCABULARY.mask}
    for row, batch in pairs:
        tokens, is_target = batch.inputs.tokens, batch.loss_weights > 0
        assert tokens.shape == (lengths.inputs,)
        assert batch.targets.shape == batch.loss_weights.shape == (lengths.targets,)
        assert np.isin(batch.targets[is_target], REGULAR_TOKENS).all()
        assert set(tokens.tolist()) <= {*row.tolist(), *REGULAR_TOKENS, *added}
        after, before = (
            Counter(t for t in ids.tolist() if t in INNER_SPECIAL) for ids in (tokens, row)
        )
        assert not after - before
        assert not tokens[batch.inputs.segment_ids == 0].any()


@each_pair
def test_batches_have_the_static_lengths_of_the_objective(architecture, name):
    objective, spec, raw, corrupt = compiled(architecture, name)
    lengths = objective.lengths(spec)
    rngs = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    batch = jax.eval_shape(corrupt, rngs, jax.ShapeDtypeStruct((2, raw), jnp.int32))
    assert batch.inputs.tokens.shape == (2, lengths.inputs)
    assert lengths.inputs == LENGTH or (
        architecture == "encoder_decoder" and lengths.inputs < LENGTH
    )
    assert batch.targets.shape == batch.loss_weights.shape == (2, lengths.targets)
    assert batch.targets.dtype == jnp.int32 and batch.loss_weights.dtype == jnp.float32
    assert (batch.decoder_inputs is None) == (architecture != "encoder_decoder")
    predicting = batch.target_positions
    if predicting is None:
        predicting = (batch.decoder_inputs or batch.inputs).tokens
    assert predicting.shape == batch.targets.shape
    assert f"{raw} raw" in objective.describe(spec)
    assert 0 < objective.expected_num_targets(spec) <= lengths.targets <= LENGTH


@functools.cache
def many_rows(architecture, name):
    """(rows of one long document each, their Batch), as NumPy."""
    objective, spec, raw, corrupt = compiled(architecture, name)
    # the rows of a batch are of one component
    if getattr(objective, "sample_per", "row") == "batch":
        corrupt = jax.jit(jax.vmap(functools.partial(objective.corrupt, spec)))
    rows = np.random.default_rng(1).choice(REGULAR_TOKENS, (MANY, raw)).astype(np.int32)
    if architecture == "encoder":
        rows[:, 0], rows[:, -1] = VOCABULARY.cls, VOCABULARY.sep
    batch = corrupt(jax.random.split(jax.random.key(2), MANY), rows)
    return rows, jax.tree.map(np.asarray, batch)


def assert_mean(found, expected, lower=0.0):
    """The mean of found [MANY] is `expected`, or at most `lower` less, within 5 standard errors."""
    found = found.astype(np.float64)
    error = 5 * found.std() / len(found) ** 0.5 + 1e-6
    assert expected - lower - error < found.mean() < expected + error, (found.mean(), expected)


@each_pair
def test_invariant_10_rows_have_the_expected_number_of_targets(architecture, name):
    objective, spec, _, _ = compiled(architecture, name)
    # Words of this vocabulary have up to three tokens, and the budget is seven: one may not fit.
    lower = 1.5 if getattr(objective, "whole_word", False) else 0.0
    counts = many_rows(architecture, name)[1].loss_weights.sum(1)
    assert_mean(counts, objective.expected_num_targets(spec), lower)


# name: (noise density; share of the noise absent from the inputs; share replaced by random tokens)
PUBLISHED = {
    "masked_lm": (0.15, 0.8, 0.1),  # Devlin et al. 2019, section 3.1
    "whole_word_masked_lm": (0.15, 0.8, 0.1),
    "mntp": (0.15, 0.8, 0.1),
    "span_corruption": (0.15, 1.0, 0.0),  # Raffel et al. 2020, sections 3.1.4 and 3.3
    "replace_spans": (0.15, 1.0, 0.0),
    "drop_spans": (0.15, 1.0, 0.0),
    "bert_style": (0.15, 0.9, 0.1),
    "mass_style": (0.15, 1.0, 0.0),
    "text_infilling": (0.3, 1.0, 0.0),  # Lewis et al. 2020, section 5.1
}


@each_of([(a, n) for a, n in PAIRS if n in PUBLISHED and (a != "decoder" or n == "mntp")])
def test_invariant_10_the_inputs_lack_the_published_share_of_tokens(architecture, name):
    density, hidden, random = PUBLISHED[name]
    rows, batch = many_rows(architecture, name)
    own = np.isin(rows, REGULAR_TOKENS).sum(1)
    own_noise = own[0] - (name == "mntp")  # a row's first token is not predicted
    noise, lower = round(density * own_noise), 0.1 * (name == "whole_word_masked_lm")
    tokens = batch.inputs.tokens
    assert_mean(own - np.isin(tokens, REGULAR_TOKENS).sum(1), hidden * noise, lower)
    if architecture == "encoder" or name == "mntp":  # every token keeps its position
        replaced = np.isin(tokens, REGULAR_TOKENS) & (tokens != rows)
        expected = random * noise * (1 - 1 / len(REGULAR_TOKENS))
        assert_mean(replaced.sum(1), expected, lower)


@each_of_rows
def test_invariant_01_a_row_depends_on_its_rng_and_not_on_its_neighbors(architecture, name):
    _, _, raw, corrupt = compiled(architecture, name)
    rows = np.stack([make_row(architecture, raw, [9, 20, 3, 30], i, i) for i in range(ROWS)])
    together = corrupted(architecture, name, 3, rows)
    # Rows in reverse order, with their rngs, give the same batches in reverse order.
    rngs = jax.random.split(jax.random.key(3), ROWS)
    reverse = single_rows(corrupt(rngs[::-1], jnp.asarray(rows[::-1].copy())), ROWS)
    for first, second in zip(together, reverse[::-1], strict=True):
        jax.tree.map(np.testing.assert_array_equal, first, second)
    # Another rng gives another batch, unless the objective draws nothing.
    repeated = corrupted(architecture, name, 7, np.repeat(rows[:1], ROWS, axis=0))
    draws = {b"".join(leaf.tobytes() for leaf in jax.tree.leaves(b)) for b in repeated}
    assert (len(draws) == 1) == (name == "causal_lm")


def test_invariant_01_one_row_is_the_same_alone_eager_and_sharded():
    check_alone_eager_and_sharded(*PAIRS[0])


@pytest.mark.slow
@each_of_rows
def test_invariant_01_every_row_is_the_same_alone_eager_and_sharded(architecture, name):
    check_alone_eager_and_sharded(architecture, name)


def check_alone_eager_and_sharded(architecture, name):
    objective, spec, raw, corrupt = compiled(architecture, name)
    rows = np.stack([make_row(architecture, raw, [9, 20, 3, 30], i, i) for i in range(ROWS)])
    expected, rngs = corrupted(architecture, name, 3, rows), jax.random.split(jax.random.key(3), 4)
    alone = objective.corrupt(spec, rngs[1], jnp.asarray(rows[1]))  # neither jitted nor vmapped
    jax.tree.map(np.testing.assert_array_equal, alone, expected[1])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        placed = jax.device_put(rngs, split), jax.device_put(jnp.asarray(rows), split)
        for sharded, single in zip(single_rows(corrupt(*placed), ROWS), expected, strict=True):
            jax.tree.map(np.testing.assert_array_equal, sharded, single)


@each_pair
def test_invariant_05_a_row_of_padding_has_no_target(architecture, name):
    objective, spec, raw, _ = compiled(architecture, name)
    batch, *_ = corrupted(architecture, name, 0, np.zeros((ROWS, raw), np.int32))
    assert batch.loss_weights.sum() == 0 and batch.targets.sum() == 0
    assert batch.inputs.segment_ids.sum() == 0 and batch.inputs.tokens.sum() == 0
    if not objective.not_invertible_because:
        np.testing.assert_array_equal(objective.reconstruct(spec, batch), np.zeros(raw))


@each_pair
def test_segment_ids_agree_on_both_sides_and_positions_restart(architecture, name):
    raw = compiled(architecture, name)[2]
    rows = np.stack([make_row(architecture, raw, [5, 9, 11, 2, 30], i, i) for i in range(ROWS)])
    for batch in corrupted(architecture, name, 0, rows):
        inputs, decoder_inputs = batch.inputs, batch.decoder_inputs
        for side in filter(None, (inputs, decoder_inputs)):
            for number in range(1, side.segment_ids.max() + 1):
                (index,) = np.nonzero(side.segment_ids == number)
                np.testing.assert_array_equal(index, index[:1] + np.arange(len(index)))
                np.testing.assert_array_equal(side.positions[index], np.arange(len(index)))
        reads_both_ways = architecture != "decoder" or name == "mntp"
        assert (inputs.attention == "bidirectional") == reads_both_ways
        if inputs.attention == "prefix":  # targets are not visible to earlier positions
            index = batch.target_positions[batch.loss_weights > 0] + 1
            assert not inputs.prefix[index[index < LENGTH]].any()
        if decoder_inputs is not None:  # a document with targets has inputs
            assert decoder_inputs.attention == "causal"
            generated = set(decoder_inputs.segment_ids.tolist()) - {0}
            assert generated and generated <= set(inputs.segment_ids.tolist())
            first = (decoder_inputs.positions == 0) & (decoder_inputs.segment_ids > 0)
            assert set(decoder_inputs.tokens[first].tolist()) == {VOCABULARY.start}


def test_an_unsupported_pair_is_an_error_that_lists_the_supported_pairs():
    for name in objectives.OBJECTIVES:
        objective = objectives.build(name)
        for architecture in ARCHITECTURES:
            if architecture in objective.architectures:
                objectives.check(objective, architecture)
                continue
            with pytest.raises(ValueError) as error:
                objectives.check(objective, architecture)
            message = str(error.value)
            assert "\n" not in message and name in message
            assert objective.unsupported[architecture] in message
            assert "encoder_decoder: " in message and "span_corruption" in message


def test_unknown_names_and_invalid_values_are_one_line_errors():
    for arguments, message in [
        (("maskd_lm",), "did you mean 'masked_lm'"),
        (("masked_lm", {"noise_densty": 0.2}), "did you mean 'noise_density'"),
        (("causal_lm", {"noise_density": 0.2}), "no hyperparameter 'noise_density'"),
        (("masked_lm", {"random_token_prob": 0.95}), "expected at most 1"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            objectives.build(*arguments)
        assert "\n" not in str(error.value)


def test_rows_that_are_too_short_or_lack_sentinels_are_errors():
    spans = objectives.build("span_corruption")
    with pytest.raises(ValueError, match="too short"):
        spans.lengths(ObjectiveSpec("encoder_decoder", VOCABULARY, 2))
    with pytest.raises(ValueError, match="max_sentinels=100"):
        spans.lengths(ObjectiveSpec("encoder_decoder", VOCABULARY, 2048))
    fewer = objectives.build("span_corruption", {"max_sentinels": 100})
    assert fewer.lengths(ObjectiveSpec("encoder_decoder", VOCABULARY, 2048)).raw == 2009
    words = objectives.build("whole_word_masked_lm")
    no_words = Vocabulary(**{**vars(VOCABULARY), "word_continuation": b""})
    with pytest.raises(ValueError, match="does not define word boundaries"):
        words.lengths(ObjectiveSpec("encoder", no_words, 64))


def test_regular_token_ranges_must_be_disjoint():
    ranges = {"regular_token_ranges": ((113, 150), (140, 200))}
    with pytest.raises(ValueError, match="disjoint"):
        Vocabulary(**{**vars(VOCABULARY), **ranges})


def test_every_target_of_a_decoder_is_predicted_inside_its_row():
    """Documents of one token leave too little noise: inputs and targets together exceed the row."""
    objective, spec, raw, corrupt = compiled("decoder", "text_infilling", 128)
    rows = np.stack([make_row("decoder", raw, [1] * raw, 0, i) for i in range(ROWS)])
    batch = jax.device_get(corrupt(jax.random.split(jax.random.key(0), ROWS), rows))
    used = batch.loss_weights > 0
    assert used.any() and batch.target_positions[used].max() < spec.seq_len
