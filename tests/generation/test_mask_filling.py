"""Masks are filled as a plain loop over the model fills them; samples have the frequencies of the softmax."""

import functools
import itertools

import jax
import numpy as np
import pytest

import models
from generation import FillConfig, GenerationError, fill, top_tokens
from models.config import ModelConfig

MASK, SIZE, CANDIDATES = 3, 24, ((4, 10), (12, 22))
IDS = [i for low, high in CANDIDATES for i in range(low, high)]
ROWS = [
    np.array(row, np.int32)
    for row in ([1, 5, MASK, 7, 2], [1, MASK, MASK, 9, 12, MASK, 2], [1, 6, 8, MASK, 2])
]


@functools.cache
def setup(architecture="encoder", positions="learned"):
    config = ModelConfig(
        architecture=architecture, vocab_size=SIZE, max_length=16, num_layers=2, emb_dim=16,
        num_heads=2, mlp_dim=32, init_std=0.3, positions=positions,
    )  # fmt: skip
    model = models.build(config)
    tokens = np.ones((1, 4), np.int32)
    inputs = models.make_inputs(tokens, tokens)
    return model, model.init(jax.random.key(0), inputs, method="init_all")["params"]


def log_probs(row, is_next, **options):
    """float64[T, SIZE]: the distribution for each position of one row, by the whole model."""
    model, params = setup(**options)
    tokens = np.asarray(row, np.int32)[None]
    inputs = models.make_inputs(tokens, np.ones_like(tokens))
    hidden = model.apply({"params": params}, inputs)
    features = model.apply({"params": params}, hidden, method="lm_features")
    table, bias = model.apply({"params": params}, method="output_embedding")
    logits = np.asarray(features[0] @ table.T + (0 if bias is None else bias[None]), np.float64)
    logits = logits[:, :SIZE]
    found = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.roll(found, 1, axis=0) if is_next else found


def run(config, rows=ROWS, is_next=False, **options):
    model, params = setup(**options)
    return fill(
        model, params, rows, config, mask=MASK, candidates=CANDIDATES, is_next=is_next, batch_size=4
    )


@pytest.mark.parametrize("order", ["joint", "left_to_right", "confidence"])
@pytest.mark.parametrize("is_next", [False, True])
def test_the_likeliest_tokens_are_those_of_a_plain_loop(order, is_next):
    """An encoder, and a decoder that predicts the token at the position before it."""
    options = {"architecture": "decoder", "positions": "rope"} if is_next else {}
    for row, (found,) in zip(
        ROWS, run(FillConfig(order=order), is_next=is_next, **options), strict=True
    ):
        expected, scores, joint = row.copy(), {}, log_probs(row, is_next, **options)
        while (left := np.flatnonzero(expected == MASK)).size:
            given = joint if order == "joint" else log_probs(expected, is_next, **options)
            best = {at: max(IDS, key=lambda i, at=at: given[at, i]) for at in left}
            at = left[0]
            if order == "confidence":
                at = max(left, key=lambda at: given[at, best[at]])
            expected[at], scores[at] = best[at], given[at, best[at]]
        np.testing.assert_array_equal(found.tokens, expected)
        np.testing.assert_allclose(
            found.log_probs, [scores[at] for at in sorted(scores)], atol=1e-5
        )
        assert found.score == pytest.approx(sum(scores.values()), abs=1e-5)


def test_n_best_rows_of_independent_masks_are_exact():
    found = run(FillConfig(order="joint", num_return_sequences=6), ROWS[1:2])[0]
    given, at = log_probs(ROWS[1], False), np.flatnonzero(ROWS[1] == MASK)
    every = {
        tokens: sum(given[p, i] for p, i in zip(at, tokens, strict=True))
        for tokens in itertools.product(IDS, repeat=len(at))
    }
    best = sorted(every, key=lambda tokens: -every[tokens])[:6]
    assert [tuple(each.tokens[at].tolist()) for each in found] == best
    np.testing.assert_allclose([each.score for each in found], [every[t] for t in best], atol=1e-4)


def test_n_best_rows_one_by_one_are_distinct_and_scored_by_the_chain_rule():
    found = run(FillConfig(order="left_to_right", num_return_sequences=3), ROWS[1:2])[0]
    assert len({each.tokens.tobytes() for each in found}) == 3
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    for each in found:
        row, total = ROWS[1].copy(), 0.0
        for at in np.flatnonzero(row == MASK):
            total += log_probs(row, False)[at, each.tokens[at]]
            row[at] = each.tokens[at]
        assert each.score == pytest.approx(total, abs=1e-4)


def test_the_steps_share_the_masks():
    """In one step all masks are filled as with order=joint; in two, the more certain half comes first."""
    row = np.array([1, 5, *[MASK] * 5, 2], np.int32)
    assert_same(run(FillConfig(num_steps=1), [row]), run(FillConfig(order="joint"), [row]))
    given, expected = log_probs(row, False), row.copy()
    first = sorted(range(2, 7), key=lambda at: -max(given[at, i] for i in IDS))[:3]
    for at in first:
        expected[at] = max(IDS, key=lambda i, at=at: given[at, i])
    given = log_probs(expected, False)
    for at in np.flatnonzero(expected == MASK):
        expected[at] = max(IDS, key=lambda i, at=at: given[at, i])
    np.testing.assert_array_equal(run(FillConfig(num_steps=2), [row])[0][0].tokens, expected)


def assert_same(found, expected):
    for first, second in zip(found, expected, strict=True):
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)


def test_top_tokens_are_the_likeliest_of_each_mask():
    model, params = setup()
    found = top_tokens(model, params, ROWS, 4, mask=MASK, candidates=CANDIDATES)
    for row, masks in zip(ROWS, found, strict=True):
        given = log_probs(row, False)
        for at, (ids, values) in zip(np.flatnonzero(row == MASK), masks, strict=True):
            expected = sorted(IDS, key=lambda i, at=at: -given[at, i])[:4]
            assert ids.tolist() == expected
            np.testing.assert_allclose(values, given[at, expected], atol=1e-5)


@pytest.mark.parametrize("order", ["joint", "left_to_right", "confidence"])
def test_samples_depend_on_the_seed_of_their_row_alone(order):
    config = FillConfig(order=order, temperature=1.0, num_return_sequences=3)
    model, params = setup()
    sample = functools.partial(
        fill, model, params, config=config, mask=MASK, candidates=CANDIDATES, batch_size=4
    )
    together, alone = sample(ROWS, seeds=[7, 8, 9]), sample(ROWS[1:2], seeds=[8])
    assert_same(together[1:2], alone)
    others = sample(ROWS, seeds=[10, 11, 12])
    assert any(
        not np.array_equal(a.tokens, b.tokens)
        for first, second in zip(together, others, strict=True)
        for a, b in zip(first, second, strict=True)
    )


def test_the_frequencies_of_samples_are_within_three_standard_errors_of_the_softmax():
    temperature, draws = 0.7, 20_000
    config = FillConfig(temperature=temperature, num_return_sequences=draws)
    model, params = setup()
    (found,) = fill(
        model,
        params,
        ROWS[:1],
        config,
        mask=MASK,
        candidates=CANDIDATES,
        seeds=[0],
        batch_size=2048,
    )
    counts = np.bincount([each.tokens[2] for each in found], minlength=SIZE) / draws
    p = np.exp(log_probs(ROWS[0], False)[2] / temperature)
    p = np.where(np.isin(np.arange(SIZE), IDS), p, 0)
    p /= p.sum()
    # 16 tokens: three standard errors of each, but for one in twenty such tests.
    error = np.sqrt(p * (1 - p) / draws)
    assert not counts[p == 0].any()
    assert (np.abs(counts - p)[p > 0] < 3 * error[p > 0]).all()


@pytest.mark.parametrize(
    "row, is_next, message",
    [
        ([1, 5, 2], False, "row 0 has no mask"),
        (
            [1, *[MASK] * 20, 2],
            False,
            "row 0 has 22 tokens, but the model reads at most 16: shorten",
        ),
        ([MASK, 5, 2], True, "row 0 starts with a mask, .* put some text before"),
    ],
)
def test_a_row_that_cannot_be_filled_is_an_error(row, is_next, message):
    with pytest.raises(GenerationError, match=message):
        run(FillConfig(), [np.array(row, np.int32)], is_next)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"order": "random"}, "expected one of joint, left_to_right, confidence"),
        ({"num_return_sequences": 0}, "num_return_sequences=0: expected at least 1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"order": "joint", "num_steps": 2}, "which is one step"),
    ],
)
def test_an_invalid_option_is_an_error(options, message):
    with pytest.raises(GenerationError, match=message):
        FillConfig(**options)


def test_four_devices_fill_as_one():
    mesh = jax.make_mesh(
        (4, 1, 1), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3
    )
    model, params = setup()
    config = FillConfig(num_return_sequences=2)
    with jax.set_mesh(mesh):
        found = fill(model, params, ROWS, config, mask=MASK, candidates=CANDIDATES, mesh=mesh)
    assert_same(found, run(config))
