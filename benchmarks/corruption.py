"""The cost of corruption: its share of a tiny model's step, for every objective and architecture.

    python -m benchmarks.corruption [--architecture=decoder] [--objective=ul2] [--seq_len=128]

Tiny has the shape of BERT-Tiny: 2 layers, emb_dim 128, 30,522 tokens, trained by AdamW. Both programs
run alternately in one process, and the fastest call of each counts; the aim is below 3 %. Corruption is
timed as a separate program: within the step, XLA removes what the losses do not read.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import models
import objectives
from models import ModelConfig, size_fields
from objectives.base import ObjectiveSpec
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary
from training.optimizers import AdamW, Optimizer
from training.state import TrainState
from training.train_step import accumulate_gradients

AIM = 0.03
SIZE = 30_522  # tokens, whose frequencies follow Zipf
VOCABULARY = Vocabulary(
    size=SIZE, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 113)), regular_token_ranges=((113, SIZE),),
    word_continuation=bytes(3 if token % 3 else 2 for token in range(SIZE)),
)  # fmt: skip


def make_rows(architecture: str, count: int, raw: int) -> jax.Array:
    """int32[count, raw]: documents of about 60 tokens."""
    rows = np.random.default_rng(0).integers(113, SIZE, (count, raw))
    rows[:, 60::61] = VOCABULARY.closing(architecture)
    if architecture == "encoder":
        rows[:, ::61] = VOCABULARY.cls
    return jnp.asarray(rows, jnp.int32)


def fastest(functions, repeats: int) -> list[float]:
    """Seconds of each function's fastest call; calls alternate between them."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready(function())
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def measure(name, architecture, *, size="tiny", rows=32, seq_len=128, repeats=5):
    """(seconds of corruption, seconds of the rest of a step) of one batch, without compilation."""
    objective = objectives.build(name)
    loss = objectives.loss_of(objective)
    unigram = Unigram(1 / np.arange(1, SIZE + 1))
    spec = ObjectiveSpec(architecture, VOCABULARY, seq_len, unigram)
    raw = make_rows(architecture, rows, objective.lengths(spec).raw)
    rngs = jax.random.split(jax.random.key(0), rows)
    corrupt = jax.jit(functools.partial(objective.corrupt_batch, spec))
    batch = corrupt(rngs, raw)
    model = models.build(ModelConfig(
        architecture=architecture, vocab_size=SIZE, max_length=max(seq_len, batch.targets.shape[1]),
        num_token_types=objective.num_token_types, positions="rope", **size_fields(size),
    ))  # fmt: skip

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        grads, sums = accumulate_gradients(loss, model, state, {}, batch, None)
        return state.apply_gradients(grads, sums, loss.loss_coefficients(), jnp.float32(1e-3))

    params = loss.init(model, jax.random.key(1), batch)
    state = [TrainState.create(params, Optimizer(AdamW()))]

    def step():
        state[0], sums = train_step(state[0], batch)
        return sums

    jax.block_until_ready(step())
    return fastest([functools.partial(corrupt, rngs, raw), step], repeats)


def main() -> None:
    """Prints one line per pair and marks those above the aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="")
    parser.add_argument("--objective", default="")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--seq_len", type=int, default=128)
    args = parser.parse_args()
    for architecture, names in objectives.names_by_architecture().items():
        for name in names:
            if args.architecture not in ("", architecture) or args.objective not in ("", name):
                continue
            corruption, rest = measure(
                name, architecture, size=args.size, rows=args.rows, seq_len=args.seq_len
            )
            share = corruption / (corruption + rest)
            mark = "" if share < AIM else f"   above {AIM:.0%}"
            print(f"{architecture:16}{name:22}{corruption * 1e3:8.2f} ms of "
                  f"{(corruption + rest) * 1e3:8.1f} ms   {share:6.2%}{mark}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
