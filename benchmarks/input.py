"""The input side alone: tokens per second that one process reads, shuffles, frames and batches.

`python -m benchmarks.input`; a training step must never wait for this (the aim is 5 million/s).
"""

import argparse
import os
import time

from data.config import DataConfig, TokenizerConfig
from data.framing import frame_for
from data.loader import batches
from data.prepare import prepare

AIM = 5e6


def measure(rows, weights, batch: int, steps: int, threads: int, prefetch: int) -> float:
    """Tokens per second over `steps` batches, after as many as the reader holds ahead."""
    iterator = batches(
        rows, weights, seed=0, global_batch=batch, threads=threads, prefetch=prefetch
    )
    for _ in range(2 * max(threads, prefetch)):
        next(iterator)
    started = time.perf_counter()
    for _ in range(steps):
        next(iterator)
    return steps * batch * rows[0].length / (time.perf_counter() - started)


def main() -> None:
    """Prints one line per architecture, and one for a mixture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=DataConfig.threads)
    parser.add_argument("--prefetch", type=int, default=DataConfig.prefetch)
    parser.add_argument("--source", default="python_docs")
    arguments = parser.parse_args()
    data = DataConfig(source=arguments.source)
    prepared = prepare(data, TokenizerConfig())
    print(
        f"{arguments.batch} x {arguments.length} tokens a batch, {arguments.steps} batches, "
        f"{arguments.threads} threads, {os.cpu_count()} cores"
    )
    specials = prepared.tokenizer.special_ids()
    worst = float("inf")
    for architecture in ("encoder", "decoder"):
        frame = frame_for(architecture, specials)
        rows = [store.rows(arguments.length, 1, frame) for store in prepared.train]
        for name, many, weights in (
            ("one source" if len(rows) == 1 else "as given", rows, prepared.weights),
            ("mixture of two", [*rows, *rows][:2], (0.7, 0.3)),
        ):
            rate = measure(
                many,
                weights,
                arguments.batch,
                arguments.steps,
                arguments.threads,
                arguments.prefetch,
            )
            worst = min(worst, rate)
            print(f"{architecture:16s} {name:16s} {rate / 1e6:7.2f} million tokens/s")
    print(f"the slowest is {worst / AIM:.2f} x the aim of {AIM / 1e6:.0f} million tokens/s")


if __name__ == "__main__":
    main()
