"""Our train step against PyTorch and transformers: python -m benchmarks.peers
Alternates both in one process on one CPU device, without data loading and dropout.
Prints the CPU, seconds, ratios (above 1: ours is faster) and fractions of the peak matrix throughput.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import models
from objectives.batch import Batch
from objectives.lm_loss import LMLoss
from training import flops
from training.optimizers import AdamW, Optimizer
from training.state import TrainState
from training.train_step import accumulate_gradients

# Model, rows x seq_len, and the decoder's length in an encoder-decoder.
SIZES = {
    "4x256": {"num_layers": 4, "emb_dim": 256, "num_heads": 4, "mlp_dim": 1024, "vocab_size": 8192}
    | {"rows": 32, "seq_len": 128, "num_targets": 32},
    "6x512": {"num_layers": 6, "emb_dim": 512, "num_heads": 8, "mlp_dim": 2048, "vocab_size": 8192}
    | {"rows": 16, "seq_len": 128, "num_targets": 32},
    "12x768": {
        "num_layers": 12,
        "emb_dim": 768,
        "num_heads": 12,
        "mlp_dim": 3072,
        "vocab_size": 8192,
    }
    | {"rows": 8, "seq_len": 128, "num_targets": 32},
}
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
CASES = ("encoder", "encoder_masked", "decoder", "encoder_decoder")
MASKED = 0.15  # fraction of positions that encoder_masked predicts
OPTIONS = {  # that give our model the peer's architecture
    "encoder": {
        "norm_position": "post",
        "embedding_norm": True,
        "num_token_types": 2,
        "lm_head_transform": True,
        "lm_head_bias": True,
        "norm_epsilon": 1e-12,
    },
    "decoder": {"activation": "gelu_tanh", "norm_epsilon": 1e-5},
    "encoder_decoder": {
        "positions": "relative",
        "norm": "rmsnorm",
        "activation": "relu",
        "use_bias": False,
        "scale_attention": False,
        "scale_logits_by_embedding_size": True,
    },
}


def make_batch(case: str, size: dict) -> dict:
    """Random tokens: {'inputs' [B,T], 'labels' [B,T]}; -100 marks labels that are not predicted."""
    random = np.random.default_rng(0)
    rows, seq_len = size["rows"], size["seq_len"]
    inputs = random.integers(16, size["vocab_size"], (rows, seq_len), dtype=np.int32)
    if case == "encoder_decoder":
        seq_len = size["num_targets"]
        labels = random.integers(16, size["vocab_size"], (rows, seq_len), dtype=np.int32)
    elif case == "decoder":
        labels = inputs.copy()  # transformers shifts them
    else:
        labels = random.integers(16, size["vocab_size"], (rows, seq_len), dtype=np.int32)
    if case == "encoder_masked":
        num_targets = round(MASKED * seq_len)
        order = random.permuted(np.tile(np.arange(seq_len), (rows, 1)), axis=1)
        positions, masked = order[:, :num_targets], np.full_like(labels, -100)
        np.put_along_axis(masked, positions, np.take_along_axis(labels, positions, 1), 1)
        labels = masked
    return {"inputs": inputs, "labels": labels}


def our_step(case: str, size: dict, batch: dict, dtype: str):
    """Returns a function that runs one step of ours and returns the loss as a float."""
    return our_program(case, size, batch, dtype)[0]


def our_program(case: str, size: dict, batch: dict, dtype: str):
    """(`our_step`, model FLOPs of a step as training/flops.py counts them, number of parameters)."""
    architecture = case.removesuffix("_masked")
    fields = ("num_layers", "emb_dim", "num_heads", "mlp_dim", "vocab_size")
    model = models.build(
        models.ModelConfig(
            architecture=architecture,
            max_length=size["seq_len"],
            dtype=dtype,
            **{name: size[name] for name in fields},
            **OPTIONS[architecture],
        )
    )
    arrays, loss = _to_batch(case, batch), LMLoss()
    params = loss.init(model, jax.random.key(0), arrays)
    optimizer = Optimizer(AdamW(grad_clip_norm=1.0, weight_decay=0.01))
    state = [TrainState.create(params, optimizer)]

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, arrays, learning_rate):
        grads, sums = accumulate_gradients(loss, model, state, {}, arrays, None)
        return state.apply_gradients(grads, sums, loss.loss_coefficients(), learning_rate)

    def step() -> float:
        state[0], sums = train_step(state[0], arrays, jnp.float32(1e-4))
        total, weight = sums["lm"]
        return float(total) / float(weight)

    specs = ((model.config, params, {"lm": arrays.targets.shape[-1]}),)
    count = flops.count_params(params)["total"]
    return step, flops.flops_per_row(specs, arrays) * size["rows"], count


def _to_batch(case, batch):
    inputs, labels = jnp.asarray(batch["inputs"]), batch["labels"]
    decoder_inputs = positions = None
    if case == "encoder_decoder":
        shifted = np.concatenate([np.zeros_like(labels[:, :1]), labels[:, :-1]], axis=1)
        decoder_inputs = models.make_inputs(
            jnp.asarray(shifted), jnp.ones_like(shifted), attention="causal"
        )
    elif case == "decoder":
        # The last position has no target, as in the peer.
        labels = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], axis=1)
    elif case == "encoder_masked":
        num_targets = int((labels[0] != -100).sum())
        positions = np.argsort(labels == -100, axis=1, kind="stable")[:, :num_targets]
        labels = np.take_along_axis(labels, positions, 1)
        positions = jnp.asarray(positions, jnp.int32)
    attention = "causal" if case == "decoder" else "bidirectional"
    return Batch(
        inputs=models.make_inputs(inputs, jnp.ones_like(inputs), attention=attention),
        decoder_inputs=decoder_inputs,
        targets=jnp.asarray(np.maximum(labels, 0)),
        loss_weights=jnp.asarray(labels != -100, jnp.float32),
        target_positions=positions,
    )


def count_flops(case: str, size: dict) -> float:
    """FLOPs of our step's matrix products: 2 per multiply-add, backward twice the forward."""
    emb_dim, mlp_dim, num_layers = size["emb_dim"], size["mlp_dim"], size["num_layers"]
    seq_len, num_targets = size["seq_len"], size["num_targets"]

    def layer(t, s=0):  # t positions, with cross-attention over s
        own = t * (4 * emb_dim**2 + 2 * emb_dim * mlp_dim) + 2 * t * t * emb_dim
        return own + (2 * (t + s) * emb_dim**2 + 2 * t * s * emb_dim if s else 0)

    forward, predicted = num_layers * layer(seq_len), seq_len
    if case == "encoder_decoder":
        forward, predicted = forward + num_layers * layer(num_targets, seq_len), num_targets
    elif case == "encoder_masked":
        predicted = round(MASKED * seq_len)
    forward += predicted * emb_dim * size["vocab_size"]
    if case in ("encoder", "encoder_masked"):
        forward += predicted * emb_dim**2  # lm_head_transform
    return 3 * 2 * size["rows"] * forward


def peak_flops(seconds: float = 1.0, side: int = 2048, dtype: str = "float32") -> float:
    """FLOP/s of the fastest product of two square matrices within some seconds."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def alternate(steps: dict, rounds: int) -> dict:
    """{name: step} -> {name: seconds of each round}; every round reverses the order of the names."""
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
                raise ValueError(
                    f"{name}: loss {loss} after {i + 1} rounds; expected a finite loss"
                )
    return times


def compare(case: str, name: str, dtype: str, rounds: int) -> dict:
    """One row of the table. The ratio is the median over rounds of the peer's time / ours."""
    from benchmarks.peers_torch import peer_step

    size = SIZES[name]
    batch = make_batch(case, size)
    before = peak_flops()
    steps = {
        "ours": our_step(case, size, batch, dtype),
        "peer": peer_step(case, size, batch, dtype),
    }
    times = alternate(steps, rounds)
    peak = max(before, peak_flops())
    ratios = [b / a for a, b in zip(times["ours"], times["peer"], strict=True)]
    seconds = {k: statistics.median(v) for k, v in times.items()}
    return {
        "case": case,
        "size": name,
        "dtype": dtype,
        "ours_s": seconds["ours"],
        "peer_s": seconds["peer"],
        "ratio": statistics.median(ratios),
        "tokens_per_s": size["rows"] * size["seq_len"] / seconds["ours"],
        "peak_gflops": peak / 1e9,
        "fraction_of_peak": count_flops(case, size) / min(times["ours"]) / peak,
    }


def describe_cpu() -> str:
    """'AMD EPYC, 2 cores, avx2 avx512f avx512_bf16': the matrix throughput depends on these instructions."""
    name, flags = platform.processor() or platform.machine(), ""
    file = Path("/proc/cpuinfo")
    if file.exists():
        lines = (line.partition(":") for line in file.read_text().splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines}
        name = fields.get("model name", name)
        flags = fields.get("flags", fields.get("Features", ""))
    found = [each for each in INSTRUCTIONS if each in flags.split()]
    return f"{name}, {os.cpu_count()} cores, {' '.join(found) or 'instructions unknown'}"


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="", help="write the rows as JSON to this file")
    options = parser.parse_args()
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        parser.exit(1, f"{error}: the peers need the extra: pip install -e .[parity]\n")
    rows, cpu = [], describe_cpu()
    print(f"{cpu}, JAX {jax.__version__}, PyTorch {torch.__version__}")
    print("size   case             dtype     ours s    peer s  ratio  tokens/s  of peak")
    for dtype in options.dtypes:
        for size in options.sizes:
            for case in options.cases:
                row = compare(case, size, dtype, options.rounds)
                rows.append({**row, "cpu": cpu})
                print(
                    f"{size:6} {case:16} {dtype:8} {row['ours_s']:7.3f} {row['peer_s']:9.3f}"
                    f" {row['ratio']:6.2f} {row['tokens_per_s']:9,.0f}"
                    f" {row['fraction_of_peak']:7.0%} of {row['peak_gflops']:.0f} GFLOP/s",
                    flush=True,
                )
    for dtype in options.dtypes:
        ratios = [row["ratio"] for row in rows if row["dtype"] == dtype]
        print(
            f"{dtype}: geometric mean {statistics.geometric_mean(ratios):.2f}, "
            f"minimum {min(ratios):.2f}, of {len(ratios)} ratios"
        )
    if options.output:
        Path(options.output).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
