"""Launches of a tiny run, for the tests of tests/launch/."""

import os
import pathlib
import subprocess
import sys

import tiny_configs

ROOT = pathlib.Path(__file__).parents[1]
IS_CHECKOUT = (ROOT / ".git").exists()
NO_CHECKOUT = "a launch names a commit, and this is no checkout of git"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
ONE_DEVICE = f"XLA_FLAGS={os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"


def launch(*words):
    return [sys.executable, "-m", "launch", *map(str, words)]


def call(*words):
    return subprocess.run(launch(*words), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
                          timeout=300)  # fmt: skip


def command(folder, name, **overrides):
    config = tiny_configs.pretraining(folder, "configs/decoder.py", **overrides)
    return ["python", "train.py", "--config=configs/decoder.py", f"--workdir={folder}/{name}",
            *tiny_configs.flags(config)]  # fmt: skip


def losses(run):
    return [line["loss"] for line in tiny_configs.metrics(run) if line["split"] == "train"]
