"""The grammar builds what it spells, named denoisers have their papers' values, and invalid
combinations are errors."""

import dataclasses
import itertools

import pytest
from documents import VOCABULARY

import objectives
from objectives import grammar
from objectives.base import ARCHITECTURES, ObjectiveSpec
from objectives.denoising import Denoising
from objectives.named import TABLE
from training import config as config_lib
from training.schema import PretrainConfig


def values(objective):
    return {f.name: getattr(objective, f.name) for f in dataclasses.fields(Denoising)}


@pytest.mark.parametrize("name", TABLE)
def test_a_named_denoiser_matches_its_spelling(name):
    named = objectives.build(name)
    spelling, other_values, paper = TABLE[name]
    assert grammar.format_denoiser(named, Denoising).startswith(spelling)
    parsed = objectives.parse(grammar.format_denoiser(named, Denoising))
    assert type(parsed) is Denoising
    assert values(named) == values(parsed)
    assert all(values(named)[key] == value for key, value in other_values.items())
    assert "20" in paper and type(named).__doc__.startswith(spelling)


def test_named_denoisers_have_the_values_of_their_papers():
    """BERT 15 % 80/10/10; SpanBERT Geo(0.2) up to 10; T5 15 % of 3; BART 30 % of Poisson 3."""
    bert, span = (values(objectives.build(n)) for n in ("masked_lm", "span_masked_lm"))
    assert (bert["noise_density"], bert["random_token_prob"], bert["keep_token_prob"]) == (
        0.15, 0.1, 0.1)  # fmt: skip
    assert not bert["whole_word"] and span["whole_word"]
    assert (span["mean_noise_span_length"], span["max_span_length"]) == (5.0, 10)
    style = values(objectives.build("bert_style"))
    assert (style["random_token_prob"], style["keep_token_prob"]) == (0.1, 0.0)
    assert style["noise_density"] == 0.15
    bart = values(objectives.build("text_infilling"))
    assert (bart["noise_density"], bart["mean_noise_span_length"], bart["pattern"]) == (
        0.3, 3.0, "poisson")  # fmt: skip


def test_every_combination_of_words_works_or_is_an_error_with_the_remedy():
    """A denoiser that can be built supports an architecture and parses from its own spelling."""
    words = itertools.product(*grammar.WORDS.values(), (False, True))
    built = 0
    for pattern, inputs, targets, whole_word in words:
        text = f"{pattern}_0.2_{inputs}_{targets}:whole_word={whole_word}"
        try:
            objective = objectives.parse(text)
        except ValueError as error:
            assert "\n" not in str(error) and "expected" in str(error), error
            continue
        built += 1
        assert objectives.parse(grammar.format_denoiser(objective, Denoising)) == objective
        assert objective.architectures, text
        for architecture in objective.architectures:
            lengths = objective.lengths(ObjectiveSpec(architecture, VOCABULARY, 64))
            assert 0 < lengths.targets <= 64 and 0 < lengths.inputs <= 64 and lengths.raw > 1
        for architecture in set(ARCHITECTURES) - set(objective.architectures):
            assert objective.unsupported[architecture]
    assert built == 4 * (4 * 4 + 3 * 2) + 3 * (4 * 4 + 3 * 2)


@pytest.mark.parametrize(
    ("pair", "value"),
    [("whole_word=true", True), ("whole_word=FALSE", False), ("max_span_length=1e1", 10),
     ("keep_token_prob=0", 0.0)],
)  # fmt: skip
def test_a_value_is_written_as_on_the_command_line(pair, value):
    key, _, text = pair.partition("=")
    config = {"objective": {"name": "masked_lm", "pattern": "geometric", key: text}}
    expected = config_lib.resolve(PretrainConfig, config).objective
    found = objectives.parse(f"masked_lm:pattern=geometric,{pair}")
    assert found == expected and repr(getattr(found, key)) == repr(value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("span_0.5_sentinal_spans", "expected <pattern>_<density>_<inputs>_<targets>"),
        ("prefix_ml", "did you mean 'prefix_lm'"),
        ("masked_lm:noise_density=2", "is out of range: expected min 0.001, max 1.0"),
        ("masked_lm:pattern=letter", "choices"),
        ("masked_lm:whole_word=letter", "expected bool"),
        ("masked_lm:whole_word=1", "expected bool"),
        ("masked_lm:max_span_length=1.5", "expected int"),
        ("masked_lm:max_span_length=1e999", "expected int"),
        ("masked_lm:keep_token_prob=much", "expected float"),
        ("iid_0.15_mask_full:mean_noise_span_length=3", "no effect: pattern=iid"),
        ("span_0.15_mask_full:keep_token_prob=0.5", "no effect: only inputs=bert"),
        ("span_0.9_sentinel_spans", "leaves too few tokens"),
        ("span_0.15_sentinel_masked", "needs a position in the inputs"),
    ],
)
def test_an_invalid_denoiser_is_a_one_line_error(text, message):
    with pytest.raises(ValueError, match=message) as error:
        objectives.parse(text)
    assert "\n" not in str(error.value)
