"""studies.objectives on runs that are made up: FLOPs are matched, rates chosen, pairs compared."""

import json
import pathlib
import types

import pytest

from studies import objectives
from training.config import ConfigError

COST = {"masked_lm": 4.0, "causal_lm": 10.0}  # FLOPs of an update
PLAN = {
    "arms": (("A", "configs/encoder.py"), ("B b", "configs/decoder.py", "model.layers=3")),
    "updates": 100,
    "budgets": (50,),
    "seeds": (0, 1),
    "tune_seeds": (7,),
    "grid": (1e-3, 1e-2),
}


@pytest.fixture
def entries():
    calls = []

    def pretrain(config, folder):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True)
        updates = int(config.training.duration.split()[0])
        manifest = {"flops_per_step": COST[config.objective.name], "total_steps": updates,
                    "tokens_per_step": 8, "targets_per_step": 2, "data": "f",
                    "parameters": {"non_embedding": 5}}  # fmt: skip
        about = dict.fromkeys(objectives.results.ABOUT, "")
        (folder / "manifest.json").write_text(json.dumps(manifest | about))
        calls.append(("pretrain", folder.parent.name, updates, config.model.get("layers")))

    def finetune(config, folder):
        seed, rate = config.seed.order, config.optimizer.learning_rate
        arm = pathlib.Path(config.init_from).name
        assert {config.seed.init, config.seed.head, config.seed.dropout} == {seed}
        calls.append(("finetune", arm, rate, seed))
        best = {"a": 1e-3, "b-b": 1e-2}[arm]
        score = 0.5 + 0.01 * seed + (0.1 if arm == "b-b" else 0) * (seed + 1) - abs(rate - best)
        return types.SimpleNamespace(metrics={"validation/accuracy": score, "test/accuracy": score})

    return calls, (pretrain, finetune)


def test_arms_get_equal_flops_their_own_best_rate_and_the_same_seeds(entries, tmp_path):
    calls, functions = entries
    rows = objectives.run(PLAN, tmp_path, functions)["rows"]
    pretrained = [call[1:3] for call in calls if call[0] == "pretrain"]
    assert pretrained == [("pretrain", 100), ("probe", 1), ("pretrain", 40)]
    assert [str(call[3]) for call in calls if call[0] == "pretrain"] == ["4", "3", "3"]
    assert [row["pretraining"]["matched"]["flops"] for row in rows] == [400, 400]
    assert [row["rate"] for row in rows] == [1e-3, 1e-2]
    assert rows[1]["test"] == {0: 0.6, 1: 0.71}
    assert rows[1]["paired"]["mean"] == pytest.approx(0.15)
    assert rows[1]["paired"]["error"] == pytest.approx(0.05)
    assert rows[1]["paired"]["won"] == 2 and "paired" not in rows[0]
    tuned = [call[2:] for call in calls if call[0] == "finetune" and call[3] == 7]
    assert tuned == [(1e-3, 7), (1e-2, 7)] * 2
    table = "\n".join(objectives.lines(objectives.configs.resolve(
        objectives.ComparisonConfig, PLAN), rows))  # fmt: skip
    assert "+0.150 ± 0.050 (3.0 s.e.)" in table and "2/2" in table

    done = len(calls)
    again = objectives.run(PLAN, tmp_path, functions)["rows"]
    assert len(calls) == done and again[1]["paired"] == rows[1]["paired"]
    objectives.run(PLAN | {"seeds": (0, 1, 2)}, tmp_path, functions)
    assert len(calls) == done + 2
    with pytest.raises(ValueError, match="another config: updates was 100, is 99"):
        objectives.run(PLAN | {"updates": 99}, tmp_path, functions)


def test_plans_that_compare_nothing_are_refused():
    for change, words in (
        ({"arms": (("A", "configs/encoder.py"),)}, "two or more"),
        ({"arms": PLAN["arms"][:1] * 2}, "name of its own"),
        ({"tune_seeds": (1,)}, "none in both"),
        ({"tune_seeds": ()}, "some of each"),
    ):
        with pytest.raises(ConfigError, match=words):
            objectives.configs.resolve(objectives.ComparisonConfig, PLAN | change)
    with pytest.raises(ValueError, match="not an override"):
        objectives.pair("model.layers")
