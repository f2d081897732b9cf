"""The memory that tools.plan predicts for a train step on a CPU beside the memory that the step takes.

    python -m benchmarks.plan_memory [--sizes=mini,small,medium] [--batch_size=32] [--seq_len=256]

Each size runs in a process of its own: a step to warm up (threads and code that a process loads once), then
another, from which on the high-water mark of the resident set counts (Linux: /proc/self/clear_refs).
The measured memory is the mark minus the resident set between the two steps, without the train state.
"""

import argparse
import ctypes
import gc
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tools import plan_report, plan_step
from training import config as config_lib
from training.schema import PretrainConfig

STATUS = pathlib.Path("/proc/self/status")


def resident(name):
    """Bytes of VmRSS (now) or VmHWM (the mark) of this process."""
    return int(re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())[1]) * 1024


def measure(size, batch_size, seq_len):
    """Prints `predicted measured` in bytes for a decoder of a size."""
    config = config_lib.override(
        config_lib.load_config_file(f"configs/decoder.py:size={size}"),
        [("training.batch_size", str(batch_size)), ("training.seq_len", str(seq_len))],
    )
    step = plan_step.plan_step(config_lib.resolve(PretrainConfig, config), jax.devices()[:1])
    compiled, seconds = step.compile()
    report = plan_report.report_of("cpu", None, step, compiled, seconds)
    _, _, state, frozen, rngs, (ids, rows), learning_rate = step.arguments
    # Not of NumPy's memory, which XLA reads in place and cannot reuse for the next state.
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    rngs = {name: jax.random.key(0, impl="threefry2x32") for name in rngs}
    inputs = np.zeros(ids.shape, ids.dtype), np.ones(rows.shape, rows.dtype)
    for _ in range(2):
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident("VmRSS") - sum(x.nbytes for x in jax.tree.leaves(state))
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        state, sums = compiled(state, frozen, rngs, inputs, np.float32(0))
        jax.block_until_ready(sums)
        del sums
    print(report.peak_bytes, resident("VmHWM") - before)


def main():
    """Prints a line for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", default="mini,small,medium")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seq_len", type=int, default=256)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.batch_size, given.seq_len)
        return
    print(f"{'size':<8} {'predicted MiB':>14} {'measured MiB':>14} {'difference':>11}")
    for size in given.sizes.split(","):
        command = [sys.executable, "-m", "benchmarks.plan_memory", f"--measure={size}",
                   f"--batch_size={given.batch_size}", f"--seq_len={given.seq_len}"]  # fmt: skip
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        predicted, measured = map(int, out.split())
        print(f"{size:<8} {predicted / 2**20:>14,.1f} {measured / 2**20:>14,.1f} "
              f"{predicted / measured - 1:>10.1%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
