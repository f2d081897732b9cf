"""Corruption is a small part of a step, even of a tiny model's: see benchmarks/corruption.py."""

import pytest

from benchmarks.corruption import AIM, measure


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, architecture",
    [
        ("whole_word_masked_lm", "encoder"),
        ("fill_in_the_middle", "decoder"),
        ("span_corruption", "encoder_decoder"),
        ("text_infilling", "encoder_decoder"),
        ("ul2", "decoder"),
    ],
)
def test_corruption_costs_less_than_3_percent_of_a_tiny_models_step(name, architecture):
    """The gradient alone stands for the step; the fastest call of each, alternating."""
    corruption, gradient = measure(name, architecture, repeats=10)
    assert corruption < AIM * gradient
