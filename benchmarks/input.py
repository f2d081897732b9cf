"""Throughput of the input alone: tokens per second that one process reads, shuffles and batches.

`python -m benchmarks.input`. A training step must never wait for it; the goal is 5 million tokens/s.
"""

import argparse
import os
import time

from data.loader import Batches
from data.prepare import prepare
from data.special_tokens import template_for
from training.schema import DataConfig, TokenizerConfig

GOAL = 5e6


def measure(rows, weights, batch: int, steps: int, threads: int, prefetch: int) -> float:
    """Tokens per second over `steps` batches, after twice as many as are read ahead."""
    batches = Batches(rows, weights, seed=0, global_batch=batch)
    iterator = batches.iterate(threads=threads, prefetch=prefetch)
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
    given = parser.parse_args()
    corpus = prepare(DataConfig(source=given.source), TokenizerConfig())
    print(
        f"batches of {given.batch} x {given.length} tokens, {given.steps} batches, "
        f"{given.threads} threads, {os.cpu_count()} cores"
    )
    special_ids = corpus.tokenizer.special_ids()
    slowest = float("inf")
    for architecture in ("encoder", "decoder"):
        template = template_for(architecture, special_ids)
        rows = [store.rows(given.length, 1, template) for store in corpus.train]
        for name, mixed, weights in (
            ("one source" if len(rows) == 1 else "as given", rows, corpus.weights),
            ("mixture of two", [*rows, *rows][:2], (0.7, 0.3)),
        ):
            throughput = measure(
                mixed, weights, given.batch, given.steps, given.threads, given.prefetch
            )
            slowest = min(slowest, throughput)
            print(f"{architecture:16s} {name:16s} {throughput / 1e6:7.2f} million tokens/s")
    print(f"the slowest is {slowest / GOAL:.2f} x the goal of {GOAL / 1e6:.0f} million tokens/s")


if __name__ == "__main__":
    main()
