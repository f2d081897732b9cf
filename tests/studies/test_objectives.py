"""studies.objectives over stand-in runs: equal FLOPs, tuned learning rates, paired seeds."""

import dataclasses
import pathlib

import pytest

from studies import objectives
from studies.config import ComparisonConfig
from training import config as configs
from training.config import ConfigError

FLOPS_PER_STEP = {"masked_lm": 4.0, "causal_lm": 10.0}


@pytest.fixture
def plan(config_files):
    return {
        "candidates": (
            ("A", f"{config_files}/encoder.py"),
            ("B b", f"{config_files}/decoder.py", "model.num_layers=3"),
        ),
        "finetune_config": f"{config_files}/finetune.py",
        "num_steps": 100,
        "label_budgets": (50,),
        "seeds": (0, 1),
        "tuning_seeds": (7,),
        "learning_rate_grid": (1e-3, 1e-2),
    }


@pytest.fixture
def runs(fakes):
    class Runs(fakes):
        def manifest(self, config):
            steps = int(config.training.duration.split()[0])
            flops = FLOPS_PER_STEP[config.objective.name]
            return super().manifest(config) | {"total_steps": steps, "flops_per_step": flops}

        def score(self, config):
            name, seed = pathlib.Path(config.init_from).name, config.seed.data
            best = {"a": 1e-3, "b-b": 1e-2}[name]
            gain = 0.1 * (seed + 1) if name == "b-b" else 0.0
            return 0.5 + 0.01 * seed + gain - 10 * abs(config.optimizer.learning_rate - best)

    return Runs()


def test_candidates_get_equal_flops_their_own_best_learning_rate_and_the_same_seeds(
    runs, plan, tmp_path
):
    entry_points = runs.pretrain, runs.finetune
    rows = objectives.run(plan, tmp_path, entry_points)["rows"]
    pretrained = [(c.training.duration, c.model.get("num_layers")) for c in runs.pretrained]
    assert pretrained == [
        ("1 steps", None),
        ("1 steps", "3"),
        ("100 steps", None),
        ("40 steps", "3"),
    ]
    assert [row["pretraining"]["matched"]["flops"] for row in rows] == [400, 400]
    assert [row["learning_rate"] for row in rows] == [1e-3, 1e-2]
    assert rows[1]["test"] == {0: pytest.approx(0.6), 1: pytest.approx(0.71)}
    assert rows[1]["paired"]["mean"] == pytest.approx(0.15)
    assert rows[1]["paired"]["stderr"] == pytest.approx(0.05)
    assert rows[1]["paired"]["wins"] == 2 and "paired" not in rows[0]
    for config in runs.finetuned:
        assert config.init == "pretrained" and len({*dataclasses.astuple(config.seed)}) == 1
    tuned = [c.optimizer.learning_rate for c in runs.finetuned if c.seed.data == 7]
    assert tuned == [1e-3, 1e-2] * 2
    text = "\n".join(objectives.lines(configs.resolve(ComparisonConfig, plan), rows))
    assert "+0.150 ± 0.050 (3.0 s.e.)" in text and "2/2" in text

    done = len(runs.finetuned)
    again = objectives.run(plan, tmp_path, entry_points)["rows"]
    assert len(runs.finetuned) == done and again[1]["paired"] == rows[1]["paired"]
    objectives.run(plan | {"seeds": (0, 1, 2)}, tmp_path, entry_points)
    assert len(runs.finetuned) == done + 2
    with pytest.raises(
        ConfigError, match="a finished run with another config: .*'100 steps', is '99"
    ):
        objectives.run(plan | {"num_steps": 99}, tmp_path, entry_points)
    other = (plan["candidates"][0], (*plan["candidates"][1][:2], "model.num_layers=2"))
    with pytest.raises(ConfigError, match="b-b .*another config: model.num_layers was 3, is 2"):
        objectives.run(plan | {"candidates": other}, tmp_path, entry_points)
    assert len(runs.pretrained) == 4 and len(runs.finetuned) == done + 2
