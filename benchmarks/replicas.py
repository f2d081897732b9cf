"""The cost of R replicas beside one run: seconds per step and peak memory of finetune.py.

    python -m benchmarks.replicas --init_from=RUN --source=python_docs --replicas=1,8 --steps=60

Each program runs in a process of its own, one after the other, and the rounds alternate. A ratio below R
means that the replicas cost less than R runs. Options after `--` are flags of finetune.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

RUN = """
import json, resource, sys
import finetune
from training import cli, logs
from training import config as config_lib
cli.enable_compilation_cache()
config = config_lib.override(config_lib.load_config_file({config!r}), {overrides!r})
finetune.run(config, {workdir!r})
folder = {workdir!r} + {replica!r}
steps = [line["seconds_per_step"] for line in logs.read_metrics(folder, "throughput")]
print(json.dumps([steps, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))
"""


def measure(given, count):
    """([seconds per step of each log interval], peak memory in GB) of `count` replicas; 1: a run alone."""
    seeds = tuple(range(count)) if count > 1 else ()
    overrides = [
        ("init_from", given.init_from), ("task.source", given.source), ("seeds", seeds),
        ("training.duration", f"{given.steps} steps"), ("evaluation.every", "never"),
        ("evaluation.select", "last"), ("evaluation.test", False), ("checkpoint.every", "never"),
        ("logging.every", "10 steps"), ("logging.tensorboard", False),
        *(flag.removeprefix("--config.").split("=", 1) for flag in given.flags),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        code = RUN.format(
            config=given.config, overrides=overrides, workdir=f"{folder}/run",
            replica="/seed=0" if seeds else "",
        )  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Prints a line for each number of replicas."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default="configs/finetune/classification.py")
    parser.add_argument("--init_from", required=True)
    parser.add_argument("--source", default="python_docs")
    parser.add_argument("--replicas", default="1,8")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("flags", nargs="*", help="flags of finetune.py, after --")
    given = parser.parse_args()
    counts = [int(count) for count in given.replicas.split(",")]
    found = {count: [] for count in counts}
    for _ in range(given.rounds):
        for count in counts:
            found[count].append(measure(given, count))
    seconds = {
        count: statistics.median(step for steps, _ in rounds for step in steps)
        for count, rounds in found.items()
    }
    for count, rounds in found.items():
        memory = max(peak for _, peak in rounds)
        ratio = seconds[count] / seconds[counts[0]]
        print(
            f"{count} replicas: {seconds[count]:.4f} s per step, {ratio:.2f} x, {memory:.2f} GB at most"
        )


if __name__ == "__main__":
    main()
