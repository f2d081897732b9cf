"""Seconds from the command to the first update, with a cold and with a warm compilation cache.

    python -m benchmarks.startup [--config=configs/decoder.py]

Runs train.py as a user would, twice, in a folder of its own; the store is made beforehand.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent


def first_update(config, workdir, environment):
    """Seconds until train.py has written that an update is done; it runs two, then ends."""
    words = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}",
             "--config.training.duration=2 steps", "--config.optimizer.warmup=1 steps",
             "--config.evaluation.every=never", "--config.checkpoint.every=never",
             "--config.logging.every=1 steps"]  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        seconds = None
        for line in process.stdout:
            if seconds is None and line.startswith("step"):
                seconds = time.perf_counter() - began
    if process.returncode or seconds is None:
        raise RuntimeError(
            f"train.py ended with {process.returncode}; run it by hand: {' '.join(words)}"
        )
    return seconds


def main():
    """Prints one line per start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/decoder.py")
    config = parser.parse_args().config
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/xla",
        }
        subprocess.run(
            [sys.executable, "-m", "tools.prepare", f"--config={config}"], cwd=ROOT, check=True
        )
        for number, state in enumerate(("cold", "warm", "warm")):
            seconds = first_update(config, f"{folder}/{number}", environment)
            print(f"{config}: {seconds:5.1f} s from start to the first two updates, {state} cache")


if __name__ == "__main__":
    main()
