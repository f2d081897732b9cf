"""Memory and speed of a compiled train step by rematerialization and scan_layers.

    python -m benchmarks.memory [--architecture=encoder,decoder] [--num_layers=8] [--steps=5]
    python -m benchmarks.memory --topology=v5e:2x4 --dtype=bfloat16       # needs libtpu, but no TPU

Memory is XLA's own count for one device (`memory_analysis`), in MiB: state: what the step replaces; temp: all
other arrays alive at once. Seconds are processor time on a CPU. --steps=0 or --topology: only compiles.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.collectives import OBJECTIVES, devices_of, lower_step
from models import LayerLoop
from models.layer_loop import POLICIES
from training import sharding
from training.schema import MeshConfig


def clock(device):
    """Seconds of the processor time of all threads on a CPU, which other programs do not lengthen."""
    return time.process_time() if device.platform == "cpu" else time.perf_counter()


def seconds_per_step(program, arguments, vocab_size, steps):
    """The median of `steps` steps, after one that is not counted."""
    state, frozen, rngs, (ids, tokens), _ = arguments
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    rows = random.integers(113, vocab_size, tokens.shape).astype(np.int32)
    inputs, seconds = (np.zeros(ids.shape, np.uint32), rows), []
    for _ in range(steps + 1):
        start = clock(jax.devices()[0])
        state, sums = program(state, frozen, rngs, inputs, np.float32(1e-3))
        jax.block_until_ready(sums)
        seconds.append(clock(jax.devices()[0]) - start)
    return statistics.median(seconds[1:])


def main():
    """Prints a line for each architecture and choice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--architecture", default=",".join(OBJECTIVES))
    sizes = {"vocab_size": 8192, "max_length": 256, "emb_dim": 256, "mlp_dim": 1024, "num_heads": 4,
             "num_layers": 8, "rows": 16}  # fmt: skip
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", default=",".join(("none", *POLICIES)))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--topology", default="")
    given = parser.parse_args()
    sizes = {name: getattr(given, name) for name in sizes} | {"dtype": given.dtype}
    devices = devices_of(given.topology) or jax.devices()
    mesh = sharding.make_mesh(MeshConfig(), devices[:1])
    print(
        f"{'':16} {'remat':8} {'scan_layers':11} {'state':>7} {'temp':>8} {'compile s':>9} {'step s':>7}"
    )
    for architecture in given.architecture.split(","):
        for scan in (False, True):
            for remat in given.remat.split(","):
                lowered, arguments = lower_step(architecture, mesh, LayerLoop(remat, scan), sizes)
                start = clock(jax.devices()[0])
                program = lowered.compile()
                seconds, memory = clock(jax.devices()[0]) - start, program.memory_analysis()
                state, temp = (size / 2**20 for size in (memory.alias_size_in_bytes,
                                                         memory.temp_size_in_bytes))  # fmt: skip
                step = ""
                if given.steps and not given.topology:
                    step = f"{seconds_per_step(program, arguments, given.vocab_size, given.steps):7.3f}"
                print(f"{architecture:16} {remat:8} {scan!s:11} {state:7.1f} {temp:8.1f} {seconds:9.1f} "
                      f"{step}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
