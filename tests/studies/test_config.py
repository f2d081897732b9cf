"""The plan of a study and the run configs that it expands to."""

import dataclasses

import pytest

from studies import config
from studies.config import StudyConfig


def test_seed_fixes_everything_but_the_arm(settings):
    study = settings(finetune=("training.duration=300 steps",))
    runs = {
        cell.arm: config.finetune_run(study, cell, "runs/enc").to_dict()
        for cell in config.cells(study, "encoder")
        if (cell.budget, cell.seed) == (20, 2)
    }
    assert sorted(runs) == ["all", "embeddings", "none"]
    for arm, run in runs.items():
        assert run.pop("transfer") == arm
        assert set(run["seed"].values()) == {2}  # order draws the label subset too
        assert run["task"]["examples"] == 20
        assert run["training"]["duration"] == "300 steps"
    assert runs["all"] == runs["none"] == runs["embeddings"]


def test_cells_are_the_full_product_with_seeds_outermost(settings):
    cells = config.cells(settings(), "decoder")
    assert len(cells) == len(set(cells)) == 3 * 2 * 3
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert len({cell.folder for cell in cells}) == len(cells)


def test_rate_of_its_own_budget_goes_before_the_rate_of_all():
    study = StudyConfig(rates=(("encoder", "all", 0, 1e-3), ("encoder", "all", 100, 3e-4)))
    assert study.rate("encoder", "all", 100) == 3e-4
    assert study.rate("encoder", "all", 1000) == 1e-3
    with pytest.raises(ValueError, match=r"no row for .'encoder', 'none', 100.*studies\.tune"):
        study.rate("encoder", "none", 100)


def test_override_with_a_name_in_front_concerns_one_architecture(settings):
    study = settings(
        pretrain=("training.length=64", "decoder: model.layers=3", "data.source=text:a=b:c")
    )
    encoder = config.pretrain_run(study, "encoder").to_dict()
    decoder = config.pretrain_run(study, "decoder").to_dict()
    assert encoder["training"]["length"] == decoder["training"]["length"] == "64"
    assert encoder["data"]["source"] == "text:a=b:c"
    assert "layers" not in encoder["model"] and decoder["model"]["layers"] == "3"


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"arms": ("none", "al")}, "'al'.*none, embeddings, all"),
        ({"architectures": ("encoders",)}, "'encoders'.*encoder_decoder"),
        ({"budgets": ()}, "budgets=.*empty"),
        ({"budgets": (100, 0)}, "budgets has 0"),
        ({"seeds": (1, 1)}, "repeats"),
        ({"seeds": (1000,)}, "shares a seed"),
        ({"rates": (("encoder", "all", 1e-3),)}, r"expected \(architecture, arm, labels"),
        ({"pretrain": ("model.layers",)}, "key=value"),
        ({"finetune": ("encoders: model.layers=2",)}, "key=value"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        dataclasses.replace(StudyConfig(), **fields)
    assert "\n" not in str(error.value)
