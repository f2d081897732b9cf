"""Corruption is a small part of a train step, even for a tiny model: see benchmarks/corruption.py."""

import jax
import pytest

import objectives
from benchmarks.corruption import AIM, measure

PAIRS = [
    (architecture, name)
    for architecture, names in objectives.names_by_architecture().items()
    for name in names
]


@pytest.fixture(autouse=True)
def optimized():
    """Other tests compile without optimizations."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.slow
@pytest.mark.parametrize("architecture, name", PAIRS)
def test_corruption_costs_less_than_3_percent_of_a_tiny_models_step(architecture, name):
    """Compares the fastest calls; corruption and step alternate."""
    corruption, rest = measure(name, architecture, repeats=8)
    assert corruption < AIM * (corruption + rest)
