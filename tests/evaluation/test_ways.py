"""The way that each objective gets, and what a model or a tokenizer lacks for one."""

import dataclasses

import pytest
from scored import scorer_of, tokenizer

import objectives
from evaluation import SCORINGS, choose_way
from evaluation.ways import Causal, Generating, Infilling, Masking
from objectives.vocabulary import Vocabulary
from tools import evaluate


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


def test_a_decoder_that_predicts_masks_in_place_is_scored_as_an_encoder_is():
    made = objectives.build("span_corruption")
    object.__setattr__(made, "targets", "next")  # masked next-token prediction
    way = choose_way("auto", "decoder", tokenizer(), made)
    assert type(way) is Masking and way.shift == -1
    assert way.template.suffix == (tokenizer().special_ids()["eos"],)


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
