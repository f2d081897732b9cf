"""docs/objective_matrix.md is generated from the registry, and every cell of it is true."""

import pytest

import objectives
from tools import __main__ as listing
from tools import objective_matrix
from training import config as config_lib
from training.schema import PretrainConfig


@pytest.fixture(scope="module")
def cells():
    return objective_matrix.cells()


def test_the_page_is_up_to_date(cells, monkeypatch):
    monkeypatch.setattr(objective_matrix, "cells", lambda: cells)
    page = objective_matrix.PAGE.read_text(encoding="utf-8")
    assert page == objective_matrix.page(), "run python -m tools.objective_matrix"


def test_every_cell_has_a_config_or_a_reason(cells):
    architectures = objective_matrix.architectures()
    assert len(cells) == len(objectives.OBJECTIVES) * len(architectures)
    assert [cell for cell, (_, text) in cells.items() if not text] == []
    for (name, architecture), (exists, text) in cells.items():
        if exists:
            config = config_lib.resolve(PretrainConfig, config_lib.load_config_file(text))
            objectives.check(config.objective, config.model.architecture)
            assert (config.objective.name, config.model.architecture) == (name, architecture)
        else:
            with pytest.raises(ValueError, match="does not support architecture") as refused:
                objectives.check(objectives.build(name), architecture)
            assert text in str(refused.value)


def test_every_architecture_and_every_objective_has_a_pair_that_exists(cells):
    existing = [cell for cell, (exists, _) in cells.items() if exists]
    assert {name for name, _ in existing} == set(objectives.OBJECTIVES)
    assert {architecture for _, architecture in existing} == set(objective_matrix.architectures())


def test_every_program_is_listed_with_its_command():
    programs = listing.programs()
    assert {
        "compare",
        "convert",
        "evaluate",
        "fill_mask",
        "generate",
        "inspect",
        "objective_matrix",
        "plan",
        "predict",
        "prepare",
        "reproduce",
        "sweep",
        "watch",
    } == programs.keys()
    for name, line in programs.items():
        assert line.startswith(f"`python -m tools.{name}"), line
