"""Seconds from the command to the first step: python -m benchmarks.startup [--config=configs/decoder.py]

Runs train.py three times, as a user would: with an empty compilation cache, then twice with a full one.
The data is prepared before.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent


def seconds_to_first_step(config: str, workdir: str, environment: dict[str, str]) -> float:
    """Runs two steps of train.py and returns the seconds until it reports a step."""
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}",
               "--config.training.duration=2 steps", "--config.optimizer.warmup=1 steps",
               "--config.evaluation.every=never", "--config.checkpoint.every=never",
               "--config.logging.every=1 steps"]  # fmt: skip
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        seconds = None
        for line in process.stdout:
            if seconds is None and line.startswith("step"):
                seconds = time.perf_counter() - start
    if process.returncode or seconds is None:
        raise RuntimeError(
            f"train.py exited with {process.returncode}, expected 0 and a line that starts with 'step'; "
            f"run it by hand: {' '.join(command)}"
        )
    return seconds


def main():
    """Runs the command line."""
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
        for number, cache in enumerate(("cold", "warm", "warm")):
            seconds = seconds_to_first_step(config, f"{folder}/{number}", environment)
            print(f"{config}: {seconds:5.1f} s to the first step, {cache} compilation cache")


if __name__ == "__main__":
    main()
