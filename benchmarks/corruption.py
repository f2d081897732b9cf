"""What corruption costs: its share of a tiny model's step, for every objective and architecture.

    python -m benchmarks.corruption [--architecture=decoder] [--objective=ul2] [--length=128]

Tiny is BERT-Tiny's shape: 2 layers, width 128, 30,522 pieces, trained by AdamW. Both run alternately
in one process, and the fastest of each counts; the aim is below 3 %. Corruption is timed as a program
of its own: inside the step, what the losses do not read is not computed.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import models
import objectives
from models import ModelConfig, sized
from objectives.base import Setting
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary
from training import optimizer, step
from training import state as states
from training.algorithms import AdamW

AIM = 0.03
SIZE = 30_522  # pieces that occur as often as Zipf's law has it
VOCABULARY = Vocabulary(
    size=SIZE, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 113)), ordinary=((113, SIZE),),
    joins=bytes(3 if piece % 3 else 2 for piece in range(SIZE)),
)  # fmt: skip


def rows_of(architecture: str, count: int, raw: int) -> jax.Array:
    """int32[count, raw]: documents of some 60 pieces."""
    rows = np.random.default_rng(0).integers(113, SIZE, (count, raw))
    rows[:, 60::61] = VOCABULARY.closing(architecture)
    if architecture == "encoder":
        rows[:, ::61] = VOCABULARY.cls
    return jnp.asarray(rows, jnp.int32)


def fastest(functions, repeats: int) -> list[float]:
    """Seconds of each function's fastest call, alternating between them."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for number, function in enumerate(functions):
            started = time.perf_counter()
            jax.block_until_ready(function())
            best[number] = min(best[number], time.perf_counter() - started)
    return best


def measure(name, architecture, *, size="tiny", rows=32, length=128, repeats=5):
    """(seconds of corruption, seconds of the rest of a step) of one batch; compilation apart."""
    objective = objectives.build(name)
    setting = Setting(architecture, VOCABULARY, length, Unigram(1 / np.arange(1, SIZE + 1)))
    source = rows_of(architecture, rows, objective.shapes(setting).raw)
    keys = jax.random.split(jax.random.key(0), rows)
    corrupt = jax.jit(functools.partial(objective.corrupt_batch, setting))
    batch = corrupt(keys, source)
    longest = max(length, batch.targets.shape[1])
    model = models.build(ModelConfig(architecture=architecture, vocab_size=SIZE, max_length=longest,
                                     token_types=objective.token_types, positions="rotary",
                                     **sized(size)))  # fmt: skip
    params = objective.initialise(model, jax.random.key(1), batch)
    tx = optimizer.build(AdamW(), params)
    update = jax.jit(functools.partial(step.update, objective, model, tx, frozenset(), 1),
                     donate_argnums=0)  # fmt: skip
    state = [states.fresh(tx, frozenset(), params)]

    def updated():
        state[0], sums = update(state[0], batch, None, jnp.float32(1e-3))
        return sums

    jax.block_until_ready(updated())
    return fastest([functools.partial(corrupt, keys, source), updated], repeats)


def main() -> None:
    """Prints one line for each pair, and those above the aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="")
    parser.add_argument("--objective", default="")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    given = parser.parse_args()
    for architecture, names in objectives.pairs_by_architecture().items():
        for name in names:
            if given.architecture not in ("", architecture) or given.objective not in ("", name):
                continue
            corruption, rest = measure(name, architecture, size=given.size, rows=given.rows,
                                           length=given.length)  # fmt: skip
            share = corruption / (corruption + rest)
            mark = "" if share < AIM else f"   above {AIM:.0%}"
            print(f"{architecture:16}{name:22}{corruption * 1e3:8.2f} ms of "
                  f"{(corruption + rest) * 1e3:8.1f} ms   {share:6.2%}{mark}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
