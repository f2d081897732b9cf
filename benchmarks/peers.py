"""Our pretraining step against the same step in PyTorch and transformers: python -m benchmarks.peers
Alternates ours and theirs in one process, on one CPU device, data excluded, dropout off.
Prints a table of seconds, ratios (above 1: ours is faster) and fractions of the matrix ceiling.
"""

import argparse
import json
import math
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import models
import training.algorithms
import training.optimizer
import training.state
import training.step
from objectives.base import Objective
from objectives.batch import Batch

# rows x length, and the length of the decoder's sequence of an encoder-decoder
SIZES = {
    "4x256": {"layers": 4, "width": 256, "heads": 4, "mlp_size": 1024, "vocab_size": 8192}
    | {"rows": 32, "length": 128, "targets": 32},
    "6x512": {"layers": 6, "width": 512, "heads": 8, "mlp_size": 2048, "vocab_size": 8192}
    | {"rows": 16, "length": 128, "targets": 32},
}
CASES = ("encoder", "encoder_masked", "decoder", "encoder_decoder")
MASKED = 0.15  # of the positions are predicted under encoder_masked
LIKE = {  # the choices that make our network the peer's
    "encoder": {
        "norm_position": "post",
        "embedding_norm": True,
        "token_types": 2,
        "readout_transform": True,
        "output_bias": True,
        "norm_epsilon": 1e-12,
    },
    "decoder": {"activation": "gelu_tanh", "norm_epsilon": 1e-5},
    "encoder_decoder": {
        "positions": "relative",
        "norm": "rmsnorm",
        "activation": "relu",
        "biases": False,
        "attention_scale": False,
        "readout_scale": True,
    },
}


class LanguageModel(Objective):
    """The losses that every objective of ours shares; the batches are made here, not by `corrupt`."""


def make_batch(case: str, size: dict) -> dict:
    """Random tokens: {'inputs' [B,T], 'labels' [B,T] with -100 where nothing is predicted}."""
    random = np.random.default_rng(0)
    rows, length = size["rows"], size["length"]
    inputs = random.integers(16, size["vocab_size"], (rows, length), dtype=np.int32)
    if case == "encoder_decoder":
        length = size["targets"]
        labels = random.integers(16, size["vocab_size"], (rows, length), dtype=np.int32)
    elif case == "decoder":
        labels = inputs.copy()  # transformers shifts them itself
    else:
        labels = random.integers(16, size["vocab_size"], (rows, length), dtype=np.int32)
    if case == "encoder_masked":
        slots = round(MASKED * length)
        chosen = random.permuted(np.tile(np.arange(length), (rows, 1)), axis=1)[:, :slots]
        kept = np.full_like(labels, -100)
        np.put_along_axis(kept, chosen, np.take_along_axis(labels, chosen, 1), 1)
        labels = kept
    return {"inputs": inputs, "labels": labels}


def ours(case: str, size: dict, batch: dict, dtype: str):
    """-> a function of no arguments that runs one update of ours and returns the loss as a float."""
    architecture = case.removesuffix("_masked")
    fields = {k: size[k] for k in ("layers", "width", "heads", "mlp_size", "vocab_size")}
    model = models.build(
        models.ModelConfig(
            architecture=architecture,
            max_length=size["length"],
            dtype=dtype,
            **fields,
            **LIKE[architecture],
        )
    )
    arrays = _batch(case, batch)
    objective = LanguageModel()
    params = model.init(jax.random.key(0), arrays.inputs, arrays.decoder, method="initialise")
    config = training.algorithms.AdamW(clip_norm=1.0, weight_decay=0.01)
    optimizer = training.optimizer.build(config, params["params"])
    state = [training.state.fresh(optimizer, frozenset(), params["params"])]

    @partial(jax.jit, donate_argnums=0)
    def update(state, arrays, rate):
        return training.step.update(
            objective, model, optimizer, frozenset(), 1, state, arrays, None, rate
        )

    def step() -> float:
        state[0], sums = update(state[0], arrays, jnp.float32(1e-4))
        total, weight = sums["lm"]
        return float(total) / float(weight)

    return step


def _batch(case, batch):
    inputs, labels = jnp.asarray(batch["inputs"]), batch["labels"]
    ones = jnp.ones_like(inputs)
    decoder = indices = None
    if case == "encoder_decoder":
        shifted = np.concatenate([np.zeros_like(labels[:, :1]), labels[:, :-1]], axis=1)
        decoder = models.sequence_of(jnp.asarray(shifted), jnp.ones_like(shifted), "causal")
    elif case == "decoder":
        # No target for the last position, as in the peer.
        labels = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], axis=1)
    elif case == "encoder_masked":
        slots = int((labels[0] != -100).sum())
        indices = np.argsort(labels == -100, axis=1, kind="stable")[:, :slots].astype(np.int32)
        labels = np.take_along_axis(labels, indices, 1)
        indices = jnp.asarray(indices)
    weights = jnp.asarray(labels != -100, jnp.float32)
    targets = jnp.asarray(np.maximum(labels, 0))
    visibility = "causal" if case == "decoder" else "all"
    return Batch(
        inputs=models.sequence_of(inputs, ones, visibility),
        decoder=decoder,
        targets=targets,
        weights=weights,
        indices=indices,
    )


def floating_operations(case: str, size: dict) -> float:
    """Of the products of our forward and backward pass (twice the forward's): 2 per multiply-add."""
    width, mlp, depth = size["width"], size["mlp_size"], size["layers"]
    length, targets = size["length"], size["targets"]

    def layer(t, s=0):  # t positions, and cross-attention over s
        own = t * (4 * width**2 + 2 * width * mlp) + 2 * t * t * width
        return own + (2 * (t + s) * width**2 + 2 * t * s * width if s else 0)

    forward, read = depth * layer(length), length
    if case == "encoder_decoder":
        forward, read = forward + depth * layer(targets, length), targets
    elif case == "encoder_masked":
        read = round(MASKED * length)
    forward += read * width * size["vocab_size"]
    if case.startswith("encoder") and case != "encoder_decoder":
        forward += read * width**2  # the transform
    return 3 * 2 * size["rows"] * forward


def ceiling(seconds: float = 1.0) -> float:
    """FLOP/s of the best 2048 x 2048 x 2048 float32 product within some seconds."""
    a = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def alternate(steps: dict, rounds: int) -> dict:
    """{name: step} -> {name: seconds of each round}, the order of names turning every round."""
    for step in steps.values():
        step(), step()
    times = {name: [] for name in steps}
    names = list(steps)
    for i in range(rounds):
        for name in names if i % 2 else names[::-1]:
            start = time.perf_counter()
            loss = steps[name]()
            times[name].append(time.perf_counter() - start)
            if not math.isfinite(loss):
                raise ValueError(f"{name}: loss {loss} after {i + 1} rounds: nothing to time")
    return times


def compare(case: str, name: str, dtype: str, rounds: int) -> dict:
    """One row of the table. Ratio = median over rounds of theirs / ours of the same round."""
    from benchmarks.peers_torch import peer

    size = SIZES[name]
    batch = make_batch(case, size)
    before = ceiling()
    steps = {"ours": ours(case, size, batch, dtype), "theirs": peer(case, size, batch, dtype)}
    times = alternate(steps, rounds)
    top = max(before, ceiling())
    ratios = [b / a for a, b in zip(times["ours"], times["theirs"], strict=True)]
    seconds = {k: statistics.median(v) for k, v in times.items()}
    work = floating_operations(case, size)
    return {
        "case": case,
        "size": name,
        "dtype": dtype,
        "ours_s": seconds["ours"],
        "theirs_s": seconds["theirs"],
        "ratio": statistics.median(ratios),
        "tokens_per_s": size["rows"] * size["length"] / seconds["ours"],
        "ceiling_gflops": top / 1e9,
        "fraction_of_ceiling": work / min(times["ours"]) / top,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="", help="write the rows as JSON to this file")
    options = parser.parse_args()
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        parser.exit(1, f"{error}: the peers are in an extra: pip install -e .[parity]\n")
    rows = []
    print("size   case             dtype     ours s  theirs s  ratio  tokens/s  of ceiling")
    for dtype in options.dtypes:
        for size in options.sizes:
            for case in options.cases:
                row = compare(case, size, dtype, options.rounds)
                rows.append(row)
                print(
                    f"{size:6} {case:16} {dtype:8} {row['ours_s']:7.3f} {row['theirs_s']:9.3f}"
                    f" {row['ratio']:6.2f} {row['tokens_per_s']:9,.0f}"
                    f" {row['fraction_of_ceiling']:7.0%} of {row['ceiling_gflops']:.0f} GFLOP/s",
                    flush=True,
                )
    for dtype in options.dtypes:
        ratios = [row["ratio"] for row in rows if row["dtype"] == dtype]
        print(
            f"{dtype}: geometric mean {statistics.geometric_mean(ratios):.2f}, "
            f"least {min(ratios):.2f}, of {len(ratios)} ratios"
        )
    if options.output:
        Path(options.output).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
