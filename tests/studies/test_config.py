"""The plan of a study and the run configs that it expands to."""

import dataclasses

import pytest

from studies import config
from studies.config import ComparisonConfig, StudyConfig


def test_a_seed_fixes_everything_but_the_condition(settings):
    study = settings(finetune_overrides=("training.duration=300 steps",))
    runs = {
        cell.condition: config.finetune_config(study, cell, "runs/enc").to_dict()
        for cell in config.study_cells(study, "encoder")
        if (cell.label_budget, cell.seed) == (20, 2)
    }
    assert sorted(runs) == ["embeddings", "pretrained", "random"]
    for condition, run in runs.items():
        assert run.pop("init") == condition
        assert set(run["seed"].values()) == {2}  # seed.data draws the label subset too
        assert run["task"]["num_train_examples"] == 20
        assert run["training"]["duration"] == "300 steps"
        assert run["init_from"] == "runs/enc"
    assert runs["pretrained"] == runs["random"] == runs["embeddings"]


def test_cells_are_the_full_product_with_seeds_outermost(settings):
    cells = config.study_cells(settings(), "decoder")
    assert len(cells) == len(set(cells)) == 3 * 2 * 3
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert len({cell.folder for cell in cells}) == len(cells)


def test_learning_rate_of_a_label_budget_has_precedence_over_that_of_all_budgets():
    study = StudyConfig(
        learning_rates=(("encoder", "pretrained", 0, 1e-3), ("encoder", "pretrained", 100, 3e-4))
    )
    assert study.learning_rate("encoder", "pretrained", 100) == 3e-4
    assert study.learning_rate("encoder", "pretrained", 1000) == 1e-3
    with pytest.raises(ValueError, match=r"no row for .'encoder', 'random', 100.*studies\.tune"):
        study.learning_rate("encoder", "random", 100)


def test_override_with_a_prefix_applies_to_one_architecture(settings):
    study = settings(
        pretrain_overrides=(
            "training.seq_len=64", "decoder: model.num_layers=3", "data.source=text:a=b:c",
        )
    )  # fmt: skip
    encoder = config.pretrain_config(study, "encoder").to_dict()
    decoder = config.pretrain_config(study, "decoder").to_dict()
    assert encoder["training"]["seq_len"] == decoder["training"]["seq_len"] == "64"
    assert encoder["data"]["source"] == "text:a=b:c"
    assert "num_layers" not in encoder["model"] and decoder["model"]["num_layers"] == "3"


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"conditions": ("random", "al")}, "'al'.*random, embeddings, pretrained"),
        ({"architectures": ("encoders",)}, "'encoders'.*encoder_decoder"),
        ({"label_budgets": ()}, "label_budgets=.*empty"),
        ({"label_budgets": (100, 0)}, "label_budgets contains 0"),
        ({"seeds": (1, 1)}, "repeats"),
        ({"seeds": (1000,)}, "shares a seed"),
        (
            {"learning_rates": (("encoder", "pretrained", 1e-3),)},
            r"expected \(architecture, condition, label budget",
        ),
        ({"pretrain_overrides": ("model.num_layers",)}, "key=value"),
        ({"finetune_overrides": ("encoders: model_overrides.dtype=float32",)}, "encoder: key=value"),
    ],
)  # fmt: skip
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        dataclasses.replace(StudyConfig(), **fields)
    assert "\n" not in str(error.value)


CANDIDATES = (("A", "configs/encoder.py"), ("B b", "configs/decoder.py", "model.num_layers=3"))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"candidates": CANDIDATES[:1]}, "two or more"),
        ({"candidates": (*CANDIDATES, ("C",))}, "two or more"),
        ({"candidates": (CANDIDATES[0], ("a", "configs/decoder.py"))}, "distinct names"),
        ({"candidates": ((*CANDIDATES[0], "model.num_layers"), CANDIDATES[1])}, "not an override"),
        ({"tuning_seeds": (1,)}, "shares a seed"),
        ({"tuning_seeds": ()}, "tuning_seeds=.*empty"),
        ({"finetune_overrides": ("C: task.pooler=true",)}, "'A: key=value'"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused_in_one_line(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        ComparisonConfig(**{"candidates": CANDIDATES, **fields})
    assert "\n" not in str(error.value)
