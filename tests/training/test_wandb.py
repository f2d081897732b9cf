"""logging.wandb: an offline run of Weights & Biases, and the line where the package is missing."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
import tiny_configs

import train
from training.config import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
IS_INSTALLED = importlib.util.find_spec("wandb") is not None
# A process of its own: wandb starts a service, and warns when it is imported.
PROGRAM = """
import sys
from training.metric_writer import MetricWriter
for steps in ((1, 2, 3), (3, 4)):
    with MetricWriter(sys.argv[1], False, "project") as metrics:
        metrics.open(steps[0] - 1)
        for step in steps:
            metrics.write(step, "train", {"loss": 1.0 / step})
        metrics.flush()
"""


@pytest.mark.skipif(not IS_INSTALLED, reason="wandb is not installed: pip install -e .[wandb]")
def test_an_offline_run_has_the_metrics_and_a_resumed_one_is_the_same_run(tmp_path):
    run = tmp_path / "sweep" / "lr=1"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"kind": "pretrain", "config": {"seed": 0}}')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                   "WANDB_MODE": "offline", "WANDB_SILENT": "true"}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(run)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=200)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one id
    for file in files:
        content = file.read_bytes()
        assert b"train/loss" in content and b"lr=1" in content and b"sweep" in content


@pytest.mark.skipif(IS_INSTALLED, reason="wandb is installed")
def test_a_missing_package_is_one_line_before_data_is_read(tmp_path):
    config = tiny_configs.pretraining(tmp_path, logging__wandb="project")
    with pytest.raises(ConfigError, match=r"needs the package wandb.*pip install -e '.\[wandb\]'"):
        train.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "cache").exists()
