"""Corruption is a small part of a step, even of a tiny model's: see benchmarks/corruption.py."""

import pytest

import objectives
from benchmarks.corruption import AIM, measure

PAIRS = [
    (architecture, name)
    for architecture, names in objectives.pairs_by_architecture().items()
    for name in names
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture, name", PAIRS)
def test_corruption_costs_less_than_3_percent_of_a_tiny_models_step(architecture, name):
    """The fastest call of each, alternating."""
    corruption, rest = measure(name, architecture, repeats=8)
    assert corruption < AIM * (corruption + rest)
