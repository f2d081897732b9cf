"""Scores of each way are those of rows written by hand, read one at a time; windows; tokens; the way that
each objective gets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_configs import WORDS

import models
import objectives
from data import tokenizer as tokenizers
from evaluation import SCORINGS, Scorer, choose_way
from evaluation.scorer import Encoded
from evaluation.ways import Causal, Generating, Infilling, Masking
from models.layers import lm_logits
from objectives.vocabulary import Vocabulary
from tools import evaluate

WIDTH = 32
TEXTS = [
    ("the harbor of", " stone and light"),
    ("", "summer rivers in the winter city"),
    ("a garden ", "letter"),
]


@functools.cache
def tokenizer():
    return tokenizers.train([" ".join(WORDS)] * 9, type="bpe", vocab_size=420)


@functools.cache
def tiny(architecture):
    """(model, params) with random parameters."""
    config = models.ModelConfig(
        architecture=architecture, num_layers=1, emb_dim=16, num_heads=2, mlp_dim=32,
        vocab_size=tokenizer().size, max_length=WIDTH, init_std=0.5, positions="rope",
    )  # fmt: skip
    model = models.build(config)
    tokens = jnp.ones((1, 4), jnp.int32)
    inputs = [models.make_inputs(tokens, tokens), None]
    if architecture == "encoder_decoder":
        inputs[1] = models.make_inputs(tokens, tokens, "causal")
    return model, model.init(jax.random.key(0), *inputs, method="init_all")["params"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_probs(model, attention, params, tokens, prefix, decoder_tokens, count):
    def inputs(row, attention, count, prefix=None):
        real = (jnp.arange(WIDTH) < count).astype(jnp.int32)[None]
        return models.make_inputs(row[None], real, attention, prefix)

    is_prefix = (jnp.arange(WIDTH) < prefix)[None] if attention == "prefix" else None
    has_decoder = model.config.architecture == "encoder_decoder"
    arguments = [inputs(tokens, "bidirectional" if has_decoder else attention, count[0], is_prefix)]
    if has_decoder:
        arguments.append(inputs(decoder_tokens, "causal", count[1]))
    hidden = model.apply({"params": params}, *arguments)
    features = model.apply({"params": params}, hidden, method="lm_features")
    table = model.apply({"params": params}, method="output_embedding")
    return jax.nn.log_softmax(lm_logits(features, *table)[0, :, : model.config.vocab_size])


def by_hand(architecture, tokens, targets, attention="bidirectional", prefix=0, decoder_tokens=()):
    """[log p(token)] of targets [(position, token)] in one row."""
    model, params = tiny(architecture)
    padded = [
        np.pad(np.array(row, np.int32), (0, WIDTH - len(row))) for row in (tokens, decoder_tokens)
    ]
    count = np.array([len(tokens), len(decoder_tokens)])
    found = _log_probs(model, attention, params, padded[0], prefix, padded[1], count)
    return [float(found[position, token]) for position, token in targets]


def causal(context, scored, ids):
    row = [*context, *scored]
    first = len(context) or 1
    found = by_hand(
        "decoder", row[:-1], [(i - 1, row[i]) for i in range(first, len(row))], "causal"
    )
    return [np.nan] * (not context) + found


def prefix_decoder(context, scored, ids):
    row = [*context, *scored]
    places = range(len(context) or 1, len(row))
    found = by_hand("decoder", row[:-1], [(i - 1, row[i]) for i in places], "prefix", len(context))
    return [np.nan] * (not context) + found


def sentinel_decoder(context, scored, ids):
    source = [*context, ids["sentinels"][0], ids["eos"]]
    row = [*source, ids["sentinels"][0], *scored]
    places = range(len(source) + 1, len(row))
    return by_hand("decoder", row[:-1], [(i - 1, row[i]) for i in places], "prefix", len(source))


def prefix_encoder_decoder(context, scored, ids):
    return by_hand("encoder_decoder", [*context, ids["eos"]], list(enumerate(scored)),
                   decoder_tokens=[ids["start"], *scored[:-1]])  # fmt: skip


def sentinel_encoder_decoder(context, scored, ids):
    mark = ids["sentinels"][0]
    return by_hand("encoder_decoder", [*context, mark, ids["eos"]], list(enumerate(scored, 1)),
                   decoder_tokens=[ids["start"], mark, *scored[:-1]])  # fmt: skip


def mask_encoder_decoder(context, scored, ids):
    return by_hand("encoder_decoder", [*context, ids["mask"], ids["eos"]],
                   list(enumerate(scored, len(context))),
                   decoder_tokens=[ids["start"], *context, *scored[:-1]])  # fmt: skip


def masks_encoder_decoder(context, scored, ids):
    return by_hand("encoder_decoder", [*context, *[ids["mask"]] * len(scored), ids["eos"]],
                   list(enumerate(scored, len(context))),
                   decoder_tokens=[ids["start"], *context, *scored[:-1]])  # fmt: skip


def pll(context, scored, ids, within_word=False):
    row, found = [ids["cls"], *context, *scored, ids["sep"]], []
    for place in range(1 + len(context), len(row) - 1):
        masked, end = list(row), place + 1
        while (
            within_word and end < len(row) - 1 and not tokenizer().token(row[end]).startswith("Ġ")
        ):
            end += 1
        masked[place:end] = [ids["mask"]] * (end - place)
        found += by_hand("encoder", masked, [(place, row[place])])
    return found


def mntp(context, scored, ids):
    row, found = [*context, *scored], []
    for place in range(len(context), len(row)):
        masked = [*row[:place], ids["mask"], *row[place + 1 :]]
        found += by_hand("decoder", masked, [(place - 1, row[place])]) if place else [np.nan]
    return found


def sentinel_pll(context, scored, ids):
    row, mark, found = [*context, *scored], ids["sentinels"][0], []
    for place in range(len(context), len(row)):
        source = [*row[:place], mark, *row[place + 1 :], ids["eos"]]
        found += by_hand(
            "encoder_decoder", source, [(1, row[place])], decoder_tokens=[ids["start"], mark]
        )
    return found


CASES = [
    (causal, "decoder", "auto", "causal_lm"),
    (causal, "decoder", "auto", ""),
    (prefix_decoder, "decoder", "auto", "prefix_lm"),
    (sentinel_decoder, "decoder", "auto", "span_corruption"),
    (mntp, "decoder", "pll", "causal_lm"),
    (prefix_encoder_decoder, "encoder_decoder", "auto", "prefix_lm"),
    (prefix_encoder_decoder, "encoder_decoder", "prefix", "span_corruption"),
    (sentinel_encoder_decoder, "encoder_decoder", "auto", "span_corruption"),
    (sentinel_encoder_decoder, "encoder_decoder", "auto", ""),
    (mask_encoder_decoder, "encoder_decoder", "auto", "text_infilling"),
    (masks_encoder_decoder, "encoder_decoder", "auto", "mass_style"),
    (sentinel_pll, "encoder_decoder", "pll", "span_corruption"),
    (pll, "encoder", "auto", "masked_lm"),
    (functools.partial(pll, within_word=True), "encoder", "pll_within_word_l2r", "masked_lm"),
]


def scorer_of(architecture, scoring="auto", objective="", **options):
    made = objectives.build(objective) if objective else None
    start = options.pop("start_token", "")
    way = choose_way(scoring, architecture, tokenizer(), made, start)
    return Scorer(*tiny(architecture), tokenizer(), way, **options)


@pytest.mark.parametrize(("reference", "architecture", "scoring", "objective"), CASES, ids=str)
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


def test_greedy_tokens_are_the_most_probable_ones():
    scorer = scorer_of("decoder")
    model, params = tiny("decoder")
    row = tokenizer().encode("the harbor of").tolist()
    for _ in range(3):
        padded = np.pad(np.array(row, np.int32), (0, WIDTH - len(row)))
        count = np.array([len(row), 0])
        found = _log_probs(model, "causal", params, padded, 0, np.zeros(WIDTH, np.int32), count)
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
@pytest.mark.parametrize(("reference", "architecture", "scoring", "objective"), CASES, ids=str)
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
    assert [width for width, _ in scorer.shapes] == [128, 512, 640]


# ---- The way of a model --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "objective", "expected"),
    [
        ("decoder", {"name": "fill_in_the_middle"}, Causal),
        ("decoder", {"name": "ul2"}, Generating),
        ("encoder_decoder", {"name": "ul2"}, Generating),
        ("encoder", {"name": "next_sentence"}, Masking),
        ("decoder", {"name": "mixture", "components": ((1, "span_corruption"), (1, "causal_lm"))}, Causal),
        ("encoder_decoder", {"name": "deshuffling"}, Generating),
    ],
    ids=str,
)  # fmt: skip
def test_auto_is_the_form_of_the_objective(architecture, objective, expected):
    made = objectives.build(objective["name"], {k: v for k, v in objective.items() if k != "name"})
    way = choose_way("auto", architecture, tokenizer(), made)
    assert type(way) is expected
    if objective["name"] == "ul2":  # [S] before each document, as in pretraining
        assert way.template.prefix[-1] == tokenizer().special_ids()["modes"][1]
        assert way.mark == ""


def test_infilling_is_chosen_for_a_denoiser_alone():
    made = objectives.build("span_corruption")
    assert type(choose_way("pll", "decoder", tokenizer(), made)) is Infilling
    assert type(choose_way("pll", "decoder", tokenizer(), None)) is Masking


class Without:
    """The tokenizer without some special tokens, or without word boundaries."""

    template = None

    def __init__(self, **changes):
        self.changes = changes

    def special_ids(self):
        return tokenizer().special_ids() | self.changes


@pytest.mark.parametrize(
    ("scoring", "architecture", "changes", "message"),
    [
        ("causal", "encoder", {}, "generates from left to right, which an encoder cannot"),
        ("prefix", "encoder", {}, "generates from left to right, which an encoder cannot"),
        ("causal", "encoder_decoder", {}, "use --scoring=prefix or infill"),
        ("pll", "encoder", {"mask": -1}, "needs a mask token"),
        ("pll", "decoder", {"mask": -1}, "needs a mask token"),
        ("infill", "decoder", {"mask": -1, "sentinels": ()}, "needs sentinels or a mask token"),
        ("pll_within_word_l2r", "encoder", {"word_continuation": b""}, "no.* word boundaries"),
        ("auto", "embeddings", {}, "has no log-probabilities: use --suite=similarity"),
    ],
)
def test_a_way_that_a_model_lacks_is_an_error_of_one_line(scoring, architecture, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        choose_way(scoring, architecture, Without(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_token": "two words"}, "is .* tokens of this tokenizer"),
        ({"stride": 99}, "--stride=99: a window scores at most"),
        ({"max_len": 1, "start_token": "[EOS]"}, "too few for a token"),
    ],
)
def test_options_that_do_not_fit_are_errors_of_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        scorer_of("decoder", **options)


def test_the_flags_name_every_way():
    assert evaluate.SCORINGS == SCORINGS


def test_words_of_the_tokenizer_are_those_of_its_flags():
    vocabulary = Vocabulary(**tokenizer().special_ids())
    way = dataclasses.replace(
        choose_way("pll_within_word_l2r", "encoder", tokenizer()), vocabulary=vocabulary
    )
    tokens = tokenizer().encode("gardenstone, winterlight")
    spans = list(way.masked_spans(tokens, 0))
    words = {end: tokenizer().decode(tokens[start:end]) for start, end in reversed(spans)}
    assert list(words.values())[::-1] == ["gardenstone", ",", " winterlight"]
