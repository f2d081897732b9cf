"""docs/cube.md is that of the registry, and what it says of a cell is so."""

import pytest

import objectives
import train
from tools import __main__ as listing
from tools import cube
from training import config as configs


@pytest.fixture(scope="module")
def cells():
    return cube.cells()


def test_the_page_is_up_to_date(cells, monkeypatch):
    monkeypatch.setattr(cube, "cells", lambda: cells)
    assert cube.PAGE.read_text(encoding="utf-8") == cube.page(), "run python -m tools.cube"


def test_every_cell_has_a_config_that_gives_it_or_a_reason(cells):
    assert len(cells) == len(objectives.REGISTRY) * len(cube.architectures())
    silent = [cell for cell, (_, words) in cells.items() if not words]
    assert silent == []
    for (name, architecture), (works, words) in cells.items():
        if works:
            config = configs.resolve(train.Config, configs.load_file(words))
            objectives.check(config.objective, config.model.architecture)
            assert (config.objective.name, config.model.architecture) == (name, architecture)
        else:
            with pytest.raises(ValueError, match="does not fit architecture") as refused:
                objectives.check(objectives.build(name), architecture)
            assert words in str(refused.value)


def test_every_architecture_and_every_objective_has_a_cell_that_works(cells):
    working = [cell for cell, (works, _) in cells.items() if works]
    assert {name for name, _ in working} == set(objectives.REGISTRY)
    assert {architecture for _, architecture in working} == set(cube.architectures())


def test_every_program_is_listed_with_how_to_call_it():
    programs = listing.programs()
    assert {"inspect", "cube", "prepare"} <= programs.keys()
    for name, line in programs.items():
        assert line.startswith(f"`python -m tools.{name}"), line
