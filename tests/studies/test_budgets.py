"""Scores by budget of several sweeps: costs of all stages, paired differences, and where they cross."""

import json
import math

import pytest

from studies import budgets
from training.config import ConfigError

ARG = "steps=100+400+1600,seeds=3"


def rescore(folder, test):
    """Test scores by (steps of the first stage, seed); the lowest learning rate is best on validation.
    The manifests of the pretraining runs have the steps of their configs."""
    for name, run in json.loads((folder / "configs.json").read_text()).items():
        if run["program"] == "train.py":
            manifest = json.loads((folder / name / "manifest.json").read_text())
            manifest["total_steps"] = int(run["config"]["training"]["duration"].split()[0])
            (folder / name / "manifest.json").write_text(json.dumps(manifest))
    for file in (folder / "finetune").rglob("scores.json"):
        name = file.relative_to(folder).as_posix()
        steps = int(name.partition("-steps")[0].rpartition("=")[2])
        value = test(steps, int(name.partition("seed=")[2].partition("/")[0]))
        is_best = "learning_rate=0.0003" in name
        scores = {"validation/accuracy": 0.5 + is_best / 10, "test/accuracy": value * is_best}
        file.write_text(json.dumps({"step": 100, **scores}))


@pytest.fixture
def sweeps(tmp_path, sweep_directory):
    """Masked LM, and causal then masked LM, which is better by 0.1 at first and worse by 0.1 at the end."""
    masked = sweep_directory(tmp_path / "masked", ARG, name="masked_or_causal")
    both = sweep_directory(
        tmp_path / "both", f"{ARG},path=causal_then_masked", name="masked_or_causal"
    )
    rescore(masked, lambda steps, seed: 0.3 + 0.01 * seed)
    gain = {25: 0.1, 100: 0.1, 400: -0.1}
    rescore(both, lambda steps, seed: 0.3 + 0.01 * seed + gain[steps])
    return [masked, both]


def test_curves_are_paired_by_seed_and_cross_between_two_budgets(sweeps, tmp_path):
    found = budgets.write(sweeps, tmp_path / "report")
    masked, both = found["sweeps"]
    assert [sweep["name"] for sweep in found["sweeps"]] == ["masked", "causal then masked"]
    tokens = [steps * 4096 for steps in (100, 400, 1600)]
    for sweep in (masked, both):  # of one stage, and of two
        assert [budget["tokens"] for budget in sweep["budgets"]] == tokens
    [pair] = found["pairs"]
    differences = [point["paired"]["mean"] for point in pair["points"]]
    assert differences == pytest.approx([0.1, 0.1, -0.1])
    assert pair["crossing"]["tokens"] == pytest.approx(800 * 4096)
    assert all(budget["learning_rate"] == 3e-4 for budget in masked["budgets"])
    assert masked["budgets"][0]["scores"] == pytest.approx({0: 0.3, 1: 0.31, 2: 0.32})
    assert (masked["num_finished"], masked["num_planned"]) == (27, 27)
    for name in ("results.json", "budgets.png", "report.html"):
        assert (tmp_path / "report" / name).stat().st_size > 1_000
    text = (tmp_path / "report" / "report.html").read_text()
    assert text.count("data:image/svg+xml") == 2 and "causal then masked minus masked" in text


def make_sweep(name, scores):
    return {
        "name": name,
        "budgets": [
            {"tokens": tokens, "scores": dict(enumerate(values))} for tokens, values in scores.items()
        ],
    }  # fmt: skip


def test_a_crossing_is_the_geometric_mean_over_seeds():
    one = make_sweep("a", {1000: [0.5, 0.5], 4000: [0.5, 0.5], 9000: [0.9, 0.9]})
    two = make_sweep("b", {1010: [0.6, 0.6], 4000: [0.4, 0.2], 50_000: [0.1, 0.1]})
    found = budgets.compare(one, two)
    assert [point["tokens"] for point in found["points"]] == [1000, 4000]
    assert found["points"][0]["paired"]["mean"] == pytest.approx(0.1)
    # Seed 0 crosses in the middle of the logarithms, seed 1 after a fourth.
    places = [math.log(1000) + share * math.log(4) for share in (0.5, 0.25)]
    assert found["crossing"]["tokens"] == pytest.approx(math.exp(sum(places) / 2))
    low, high = found["crossing"]["interval95"]
    assert low < found["crossing"]["tokens"] < high and found["crossing"]["never"] == 0
    assert budgets.describe(found).startswith("b minus a: changes its sign at 1.68 k tokens")
    tie = [(1000, 0.1), (2000, 0.0), (4000, -0.1)]
    assert budgets.crossing([tie] * 2)["tokens"] == pytest.approx(2000)
    apart = budgets.compare(one, make_sweep("c", {1000: [0.6, 0.6], 4000: [0.6, 0.6]}))
    assert apart["crossing"]["tokens"] is None
    assert budgets.describe(apart) == "c minus a: no change of sign in 2 of 2 seeds"


def test_a_directory_or_metric_that_does_not_fit_is_one_line(sweeps, tmp_path, sweep_directory):
    with pytest.raises(
        ConfigError, match="has no validation/f1 or test/f1; expected one of test/acc"
    ):
        budgets.write(sweeps, tmp_path / "report", "f1")
    with pytest.raises(ConfigError, match="is a sweep, which has a report; name another directory"):
        budgets.write(sweeps, sweeps[0])
    several = sweep_directory(tmp_path / "several", "architectures=encoder,seeds=1")
    with pytest.raises(ConfigError, match="several numbers of labels or initializations"):
        budgets.write([several], tmp_path / "report")
    empty = sweep_directory(tmp_path / "none", ARG, lambda run: False, "masked_or_causal")
    with pytest.raises(ConfigError, match="has no finished finetuning run"):
        budgets.write([empty], tmp_path / "report")
