"""The grammar: what is spelled is what is built, named denoisers are their papers', nonsense is refused."""

import dataclasses
import itertools

import pytest
from framed import VOCABULARY

import objectives
from objectives import grammar
from objectives.base import ARCHITECTURES, Setting
from objectives.denoising import Denoising
from objectives.named import TABLE


def values(objective):
    return {f.name: getattr(objective, f.name) for f in dataclasses.fields(Denoising)}


@pytest.mark.parametrize("name", TABLE)
def test_a_named_denoiser_is_what_its_spelling_says(name):
    named = objectives.build(name)
    spelling, more, paper = TABLE[name]
    assert grammar.spell(named, Denoising).startswith(spelling)
    again = objectives.parse(grammar.spell(named, Denoising))
    assert type(again) is Denoising
    ours, theirs = values(named), values(again)
    idle = {key for key in ours if ours[key] != theirs[key]}
    assert not idle, idle
    assert all(ours[key] == value for key, value in more.items())
    assert "20" in paper and type(named).__doc__.startswith(spelling)


def test_the_papers_values():
    """BERT 15 % 80/10/10; SpanBERT Geo(0.2) up to 10; T5 15 % of 3; BART 30 % of Poisson 3."""
    bert, span = (values(objectives.build(n)) for n in ("masked_lm", "span_masked_lm"))
    assert (bert["noise_density"], bert["random"], bert["keep"], bert["unit"]) == (
        0.15, 0.1, 0.1, "piece")  # fmt: skip
    assert (span["mean_span_length"], span["max_span_length"], span["unit"]) == (5.0, 10, "word")
    style = values(objectives.build("bert_style"))
    assert (style["random"], style["keep"], style["noise_density"]) == (0.1, 0.0, 0.15)
    bart = values(objectives.build("text_infilling"))
    assert (bart["noise_density"], bart["mean_span_length"], bart["pattern"]) == (
        0.3, 3.0, "poisson")  # fmt: skip


def test_every_combination_of_words_is_built_or_refused_in_one_line_with_the_remedy():
    """And what is built fits an architecture, and spells itself."""
    words = itertools.product(*(grammar.WORDS[w] for w in ("pattern", "inputs", "targets", "unit")))
    built = 0
    for pattern, inputs, targets, unit in words:
        text = f"{pattern}_0.2_{inputs}_{targets}:unit={unit}"
        try:
            objective = objectives.parse(text)
        except ValueError as error:
            assert "\n" not in str(error) and "expected" in str(error), error
            continue
        built += 1
        assert objectives.parse(grammar.spell(objective, Denoising)) == objective
        assert objective.architectures, text
        for architecture in objective.architectures:
            shapes = objective.shapes(Setting(architecture, VOCABULARY, 64))
            assert 0 < shapes.targets <= 64 and 0 < shapes.inputs <= 64 and shapes.raw > 1
        for architecture in set(ARCHITECTURES) - set(objective.architectures):
            assert objective.unfit[architecture]
    assert built == 4 * (4 * 3 + 3 * 2) + 3 * (4 * 3 + 3 * 2)


@pytest.mark.parametrize(
    "text, words",
    [
        ("span_0.5_sentinal_spans", "is not spelled <pattern>_<density>_<inputs>_<targets>"),
        ("prefix_ml", "did you mean 'prefix_lm'"),
        ("masked_lm:noise_density=2", "is out of range: expected min 0.001, max 1.0"),
        ("masked_lm:unit=letter", "choices"),
        ("masked_lm:keep=much", "expected float"),
        ("iid_0.15_mask_full:mean_span_length=3", "no effect: pattern=iid"),
        ("span_0.15_mask_full:keep=0.5", "no effect: inputs=bert alone"),
        ("span_0.9_sentinel_spans", "leaves too few tokens"),
        ("span_0.15_sentinel_masked", "must have one"),
    ],
)
def test_what_makes_no_sense_is_refused(text, words):
    with pytest.raises(ValueError, match=words) as error:
        objectives.parse(text)
    assert "\n" not in str(error.value)
