"""Successive halving with stand-ins for the programs: which candidates continue, and when none is chosen."""

import json
import pathlib

import pytest
import sweeping

from sweeps import halving
from training import preemption
from training.config import ConfigError

ALL = list(range(1, 11))


def test_halving_stops_the_worst_candidates_and_continues_the_best_from_their_checkpoints(tmp_path):
    stage = (
        'finetune("configs/finetune/classification.py", fixed(init_from="x", evaluation__every="10 %") * '
        "grid(lr=[1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3, 9e-3], seed=range(2)))"
    )
    file, workdir = sweeping.write(tmp_path, stage), tmp_path / "runs"
    (tmp_path / "x").mkdir()
    stage_file = pathlib.Path(file).read_text().replace('"x"', repr(str(tmp_path / "x")))
    pathlib.Path(file).write_text(stage_file)
    (tmp_path / "x" / "config.json").write_text("{}")
    found = sweeping.run(file, workdir, halving=3)
    lengths = {folder: len(steps) for folder, steps in sweeping.updates(workdir).items()}
    rates = (1e-3, 2e-3, 3e-3, 4e-3)
    expected = [lengths[f"finetune/learning_rate={rate:g},seed=1"] for rate in rates]
    assert expected == [10, 3, 3, 1] and found["num_finished"] == 2
    assert list(sweeping.states(workdir).values()).count("dropped") == 16
    assert "learning_rate=0.001" in (workdir / "best.txt").read_text()
    again = sweeping.run(file, workdir, halving=3)
    assert again["rows"] == found["rows"]
    assert {f: len(s) for f, s in sweeping.updates(workdir).items()} == lengths


@pytest.mark.parametrize(("metric", "survivor"), [("-test/loss", 1e-3), ("+test/loss", 3e-3)])
def test_halving_by_a_metric_of_the_test_split_compares_it_on_validation(
    tmp_path, metric, survivor
):
    stage = (
        'finetune("configs/finetune/classification.py", fixed(evaluation__every="10 %") * '
        'grid(lr=[1e-3, 2e-3, 3e-3]), init_from=train("configs/decoder.py"))'
    )
    file = sweeping.write(tmp_path, stage)
    sweeping.run(file, tmp_path / "runs", halving=3, metric=metric)
    states = sweeping.states(tmp_path / "runs")
    ended = [f for f, state in states.items() if state == "finished" and f.startswith("finetune")]
    assert ended == [f"finetune/learning_rate={survivor}"]


@pytest.mark.parametrize("fault", ["stop", "fail"])
def test_halving_compares_only_runs_that_reached_the_rung(tmp_path, monkeypatch, fault):
    monkeypatch.setenv("FAULTS", json.dumps({"lr=0.001": fault}))
    stage = 'train("configs/decoder.py", fixed(evaluation__every="10 %") * grid(lr=[1e-3, 2e-3]))'
    file, workdir = sweeping.write(tmp_path, stage), tmp_path / "runs"
    with pytest.raises((ConfigError, preemption.Preempted)) as error:
        sweeping.run(file, workdir, halving=2)
    lengths = {folder: len(steps) for folder, steps in sweeping.updates(workdir).items()}
    if fault == "stop":  # nothing is decided without it
        assert error.value.code == 143
        assert lengths == {"pretrain/lr=0.001": 4, "pretrain/lr=0.002": 5}
    else:
        assert "1 of 2 runs failed" in str(error.value)
        assert lengths == {"pretrain/lr=0.001": 4, "pretrain/lr=0.002": 10}
    sweeping.run(file, workdir, halving=2)
    assert sweeping.updates(workdir)["pretrain/lr=0.001"] == ALL


def test_the_rungs_of_halving():
    assert halving.shares(9, 3) == (11.11, 33.33)
    assert halving.shares(8, 2) == (12.5, 25.0, 50.0)
    with pytest.raises(ConfigError, match="as many candidates"):
        halving.shares(2, 3)
