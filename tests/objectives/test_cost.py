"""Corruption is a small part of a step, even of a tiny model's: see benchmarks/corruption.py."""

import pytest

import objectives
from benchmarks.corruption import AIM, measure

# A step of word vectors is of five milliseconds, with no network: docs/log.md has what they cost.
PAIRS = [
    (architecture, name)
    for architecture, names in objectives.pairs_by_architecture().items()
    for name in names
    if architecture != "embeddings"
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture, name", PAIRS)
def test_corruption_costs_less_than_3_percent_of_a_tiny_models_step(architecture, name):
    """The gradient alone stands for the step; the fastest call of each, alternating."""
    corruption, gradient = measure(name, architecture, repeats=8)
    assert corruption < AIM * gradient
