"""Scores of each way are those of rows written by hand, read one at a time; windows; tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scored import CASES, WIDTH, by_hand, log_probs, name_of, scorer_of, tiny, tokenizer
from tiny_configs import WORDS

from evaluation.scorer import Encoded

TEXTS = [
    ("the harbor of", " stone and light"),
    ("", "summer rivers in the winter city"),
    ("a garden ", "letter"),
]


@pytest.mark.parametrize(("reference", "architecture", "scoring", "objective"), CASES, ids=name_of)
def test_scores_are_those_of_rows_written_by_hand(reference, architecture, scoring, objective):
    scorer = scorer_of(architecture, scoring, objective)
    scores, ids = scorer.score(TEXTS), tokenizer().special_ids()
    for (context, continuation), found in zip(TEXTS, scores, strict=True):
        kept = context.rstrip()
        whole = tokenizer().encode(context + continuation).tolist()
        first = len(tokenizer().encode(kept)) if kept else 0
        expected = reference(whole[:first], whole[first:], ids)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert len(found) == len(whole) - first


def test_a_start_token_scores_the_first_token_too():
    scorer = scorer_of("decoder", start_token="[EOS]")
    (found,) = scorer.score([("", "stone light")])
    tokens, eos = tokenizer().encode("stone light").tolist(), tokenizer().special_ids()["eos"]
    row = [eos, *tokens]
    expected = by_hand("decoder", row[:-1], list(enumerate(row[1:])), "causal")
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert scorer.num_unpredicted == 0


def test_without_a_start_token_the_first_token_has_no_score_and_is_counted():
    scorer = scorer_of("decoder")
    (found,) = scorer.score_encoded(scorer.encode([("", "stone light")]))
    assert np.isnan(found.log_probs[0]) and np.isfinite(found.log_probs[1:]).all()
    assert found.total == np.nansum(found.log_probs) and scorer.num_unpredicted == 1
    first = tokenizer().decode(tokenizer().encode("stone light")[:1])
    assert "stone light"[found.start :] == "stone light".removeprefix(first)


@pytest.mark.parametrize(
    ("architecture", "objective"),
    [("decoder", "causal_lm"), ("encoder", "masked_lm"), ("encoder_decoder", "prefix_lm")],
)
def test_a_model_whose_outputs_are_nan_is_an_error(architecture, objective):
    scorer = scorer_of(architecture, objective=objective)
    scorer.params = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), scorer.params)
    with pytest.raises(
        FloatingPointError, match="of a token of 'a stone light' is NaN: score another"
    ):
        scorer.score([("a ", "stone light")])


def test_greedy_tokens_are_the_most_probable_ones():
    scorer = scorer_of("decoder")
    model, params = tiny("decoder")
    row = tokenizer().encode("the harbor of").tolist()
    for _ in range(3):
        padded = np.pad(np.array(row, np.int32), (0, WIDTH - len(row)))
        count = np.array([len(row), 0])
        found = log_probs(model, "causal", params, padded, 0, np.zeros(WIDTH, np.int32), count)
        row.append(int(found[len(row) - 1].argmax()))
    greedy, other = list(row), [*row[:-1], (row[-1] + 1) % tokenizer().size]
    texts = [Encoded(np.array(each, np.int32), len(row) - 3, "", 0) for each in (greedy, other)]
    first, second = scorer.score_encoded(texts)
    assert first.is_greedy.tolist() == [True] * 3 and second.is_greedy.tolist() == [
        True,
        True,
        False,
    ]


def test_choices_of_one_token_are_one_row(monkeypatch):
    scorer, counts = scorer_of("decoder"), []
    batches = scorer._batches
    monkeypatch.setattr(scorer, "_batches", lambda rows: counts.append(len(rows)) or batches(rows))
    words = [f" {word}" for word in WORDS if len(tokenizer().encode(f" {word}")) == 1]
    texts = [("the harbor of", word) for word in words]
    together = scorer.score(texts)
    apart = [scorer.score([text])[0] for text in texts]
    assert counts == [1] * (1 + len(words)) and len({float(x[0]) for x in apart}) == len(words) > 1
    np.testing.assert_allclose(np.concatenate(together), np.concatenate(apart), atol=1e-6)


# ---- Tokens and windows --------------------------------------------------------------------------


def test_white_space_at_the_end_of_a_context_belongs_to_the_continuation():
    scorer = scorer_of("decoder")
    one, two, three = scorer.encode(
        [("the stone ", "light"), ("the stone", " light"), ("", " light")]
    )
    assert one.tokens.tolist() == two.tokens.tolist() and one.first == two.first
    assert tokenizer().decode(one.tokens[one.first :]) == " light" and three.first == 0


def test_a_continuation_that_joins_the_last_token_of_the_context_keeps_a_token():
    scorer = scorer_of("decoder")
    for context, rest in (("sto", "ne"), ("the ston", "e"), ("sum", "mer")):
        (found,) = scorer.encode([(context, rest)])
        assert found.first < len(found.tokens)


def test_windows_are_those_of_the_strided_computation():
    scorer = scorer_of("decoder", max_len=8, stride=3)
    for total in (9, 10, 11, 12, 30, 31, 32):
        expected, previous = [], 0  # as in transformers' documentation of perplexity
        for begin in range(0, total, 3):
            end = min(begin + 8, total)
            expected.append((begin, previous, end))
            previous = end
            if end == total:
                break
        found = list(scorer.windows(Encoded(np.zeros(total, np.int32), 0, "", 0)))
        assert found == (expected if total > 9 else [(0, 0, 9)])


@pytest.mark.parametrize("stride", [0, 1, "largest"])
@pytest.mark.parametrize(("reference", "architecture", "scoring", "objective"), CASES, ids=name_of)
def test_every_token_of_a_long_text_is_scored_once(
    reference, architecture, scoring, objective, stride
):
    if stride == "largest":
        with pytest.raises(ValueError, match="--stride=13: a window scores at most") as caught:
            scorer_of(architecture, scoring, objective, max_len=12, stride=13)
        stride = int(str(caught.value).partition("at most ")[2].partition(" ")[0])
    scorer = scorer_of(architecture, scoring, objective, max_len=12, stride=stride)
    random = np.random.default_rng(0)
    for total, first in ((3, 0), (11, 4), (12, 9), (40, 0), (40, 17), (40, 36)):
        text = Encoded(random.integers(200, 400, total).astype(np.int32), first, "", 0)
        covered, without = [], []
        for start, scored, end in scorer.windows(text):
            assert start <= scored < end
            covered += range(scored, end)
            without += range(scored, end)
            for row, index in scorer.way.rows(text.tokens[start:end], scored - start):
                assert max(len(row.tokens), len(row.decoder_tokens)) <= 12
                np.testing.assert_array_equal(row.targets, text.tokens[start:end][index])
                without = [each for each in without if each - start not in index]
        assert covered == list(range(first, total))
        assert without in ([], [0])  # the first token of a text


def test_a_long_context_is_cut_at_its_start_and_counted():
    scorer = scorer_of("decoder", max_len=8)
    context, word = " ".join(WORDS[:20]), " stone"
    (found,) = scorer.score_encoded(scorer.encode([(context, word)]))
    tokens = tokenizer().encode(context + word)
    kept = Encoded(tokens[-9:], 9 - len(found.log_probs), "", 0)
    (expected,) = scorer.score_encoded([kept])
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-6)
    assert found.num_cut == len(tokens) - 9 and scorer.num_cut == 1


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
def test_packed_rows_have_the_scores_of_each_row_alone(architecture):
    texts = [("", " ".join(WORDS[i : i + 1 + i % 9])) for i in range(30)]
    packed, apart = scorer_of(architecture), scorer_of(architecture, packing=False)
    packed.plan(packed.encode(texts))
    found = [np.concatenate(scorer.score(texts)) for scorer in (packed, apart)]
    np.testing.assert_allclose(*found, atol=1e-5)
    assert len(packed.shapes) == 1  # one program for every length


def test_packing_loses_no_row_and_exceeds_no_limit():
    scorer, random = scorer_of("decoder", max_len=640), np.random.default_rng(0)
    lengths = np.stack([random.integers(1, 640, 300), random.integers(1, 20, 300)], 1)
    scorer._choose_shapes(lengths, lengths[:, 0].sum())
    packed = scorer._packed(lengths, scorer._widths(lengths[:, 0]))
    numbers = []
    for (width, slots), bins in packed.items():
        for each in bins:
            numbers += each
            assert (lengths[each].sum(0) <= (width, slots)).all()
    assert sorted(numbers) == list(range(300)) and set(packed) == set(scorer.shapes)
    assert [width for width, _ in scorer.shapes] == [64, 256, 640]
