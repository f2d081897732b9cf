"""tools.reproduce: comparing metrics, what differs from a manifest, and a run that is trained again."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tiny_configs

import train
from tools import reproduce, run_records
from training.config import ConfigError

ROOT = pathlib.Path(__file__).parents[2]


def lines(*losses, split="train"):
    return [{"step": n, "split": split, "loss": loss} for n, loss in enumerate(losses, 1)]


def test_equal_metrics_are_equal_whatever_the_speed_and_the_order():
    speed = [{"step": 1, "split": "throughput", "seconds_per_step": 1.0}]
    equal, line = reproduce.compare(lines(3.0, float("nan")) + speed, lines(3.0, float("nan")))
    assert equal and line == "all 2 lines of metrics are equal bit for bit"


def test_the_first_and_the_largest_difference_are_named():
    equal, line = reproduce.compare(lines(4.0, 2.0, 1.0), lines(4.0, 2.0000001, 1.5, 1.0))
    assert not equal
    assert "first difference at step 2: train/loss was 2.0, is 2.0000001" in line
    assert "largest relative difference 0.5 (train/loss at step 3)" in line
    assert "1 lines are in one run alone, first train at step 4" in line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce")
    train.run(tiny_configs.pretraining(folder), str(folder / "run"))
    return folder / "run"


def test_what_differs_from_the_manifest_is_listed(run, capsys):
    reproduce.main([str(run), "--check"])
    shown = capsys.readouterr().out
    assert "jax" not in shown
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["versions"]["jax"], manifest["devices"]["count"] = "0.1", 99
    manifest["commit"] = "f" * 40
    other = run.parent / "other"
    other.mkdir()
    (other / "config.json").write_text((run / "config.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest))
    reproduce.main([str(other), "--check"])
    shown = capsys.readouterr().out
    assert "versions.jax: was 0.1, is " in shown
    assert "devices.count: was 99, is 4" in shown
    assert f"commit: was {'f' * 40}, this checkout is" in shown
    with pytest.raises(ConfigError, match="--workdir is missing"):
        reproduce.main([str(other)])
    with pytest.raises(ConfigError, match="failed"):
        reproduce.main([str(other), f"--workdir={run.parent}/again"])  # no such commit
    (other / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="has no manifest"):
        reproduce.main([str(other)])


PROGRAM = """
import json, pathlib, runpy, sys
file, workdir = (flag.partition("=")[2] for flag in sys.argv[1:])
config = runpy.run_path(file)["get_config"]()
pathlib.Path(workdir).mkdir()
pathlib.Path(workdir, "training.json").write_text(json.dumps(config.training.to_dict()))
sys.exit(143)
"""


def test_a_run_with_stop_after_ends_as_it_did_and_max_hours_is_left_out(run, tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    record = run_records.read(run)
    limits = {"stop_after": "50 %", "max_hours": 0.5}
    stopped = dataclasses.replace(
        record, config=record.config | {"training": record.config["training"] | limits}
    )
    reproduce.train(stopped, tmp_path / "again", tmp_path)
    trained = json.loads((tmp_path / "again" / "training.json").read_text())
    assert trained == stopped.config["training"] | {"max_hours": 0.0}
    with pytest.raises(ConfigError, match="ended with status 143"):  # of a signal
        reproduce.train(record, tmp_path / "other", tmp_path)


@pytest.mark.slow
def test_a_run_that_is_trained_again_has_its_metrics_bit_for_bit(run, tmp_path):
    words = [sys.executable, "-m", "tools.reproduce", str(run), f"--workdir={tmp_path}/again"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if not (ROOT / ".git").exists():
        words.append("--this_code")
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run: all 2 lines of metrics are equal bit for bit" in done.stdout
    before, after = (run_records.read(folder) for folder in (run, tmp_path / "again"))
    assert after.manifest["commit"] == before.manifest["commit"]
    assert after.state == "finished"
    metrics = run / "metrics.jsonl"
    text = metrics.read_text()
    first = json.loads(text.splitlines()[0])
    first["loss"] += 1.0
    metrics.write_text("\n".join([json.dumps(first), *text.splitlines()[1:]]) + "\n")
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    metrics.write_text(text)
    assert done.returncode == 1 and "first difference at step 1: train/loss was" in done.stdout
