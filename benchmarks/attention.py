"""A training step at growing lengths, dense and chunked attention side by side: seconds and memory.

    python -m benchmarks.attention --lengths=2048,4096,8192
    python -m benchmarks.attention --lengths=512 --packing=8 --output=packing.json

Gradients of 4 layers x 256 (heads of 64), 8,192 tokens per step in rows of one document or, with --documents,
of several; an encoder-decoder reads and writes rows of this length. Memory is the peak of temporaries of the
compiled step (memory_analysis). Both alternate in one process; the time is the best of --rounds. --packing
compares rows of one document with rows of several: 1.0 or more means that packed rows are as fast.
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import models
from models.attention import dot_product_attention
from models.attention_kernels import AttentionSpec, attend, why_unsupported
from models.inputs import make_attention_mask

SIZE = {"num_layers": 4, "emb_dim": 256, "num_heads": 4, "mlp_dim": 1024, "vocab_size": 1024}
POSITIONS = {"encoder": "rope", "decoder": "rope", "encoder_decoder": "relative"}


def gradient_step(
    architecture: str, kernel: str, length: int, rows: int, documents: int, **changes
):
    """(the compiled gradients of the mean squared hidden state, their arguments); changes: fields of
    ModelConfig."""
    config = models.ModelConfig(
        architecture=architecture, max_length=length, positions=POSITIONS[architecture],
        attention_kernel=kernel, **SIZE | changes,
    )  # fmt: skip
    model = models.build(config)
    random = np.random.default_rng(0)
    tokens = random.integers(5, config.vocab_size, (rows, length), dtype=np.int32)
    segments = np.repeat(np.arange(length)[None] * documents // length + 1, rows, 0)
    causal = "causal" if architecture == "decoder" else "bidirectional"

    def inputs(attention):
        return models.make_inputs(jnp.asarray(tokens), jnp.asarray(segments), attention)

    both = inputs("causal") if architecture == "encoder_decoder" else None
    arguments = inputs(causal), both
    params = jax.jit(lambda *given: model.init(jax.random.key(0), *given, method="init_all"))(
        *arguments
    )

    def loss(params, *arguments):
        return jnp.mean(jnp.square(model.apply(params, *arguments)))

    return jax.jit(jax.grad(loss)).lower(params, *arguments).compile(), (params, *arguments)


def best_seconds(steps: dict, rounds: int) -> dict:
    """{name: (function, arguments)} -> {name: seconds of its fastest call}; the rounds alternate."""
    best = dict.fromkeys(steps, float("inf"))
    for number in range(rounds + 1):  # the first one warms up
        for name, (step, arguments) in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(*arguments))
            if number:
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def packing(
    architecture: str, kernel: str, length: int, rows: int, documents: int, rounds: int, **changes
):
    """A record: packed rows of several documents beside rows of one, of the same length."""
    steps = {
        name: gradient_step(architecture, kernel, length, rows, number, **changes)
        for name, number in (("one", 1), ("packed", documents))
    }
    best = best_seconds(steps, rounds)
    return {
        "architecture": architecture, "kernel": kernel, "length": length, "rows": rows,
        "documents": documents, "one_document_s": best["one"], "packed_s": best["packed"],
        "packed_throughput": best["one"] / best["packed"],
    }  # fmt: skip


def side_by_side(architecture, kernels, length, rows, documents, rounds):
    """A record for each kernel; they run in alternation."""
    steps = {name: gradient_step(architecture, name, length, rows, documents) for name in kernels}
    best = best_seconds(steps, rounds)
    return [
        {"architecture": architecture, "kernel": name, "length": length, "rows": rows,
         "documents": documents, "seconds": best[name],
         "temporary_mib": steps[name][0].memory_analysis().temp_size_in_bytes / 2**20}
        for name in kernels
    ]  # fmt: skip


CASES = [  # attention, documents per row, whether there is a sliding window, T5's relative bias
    ("causal", 8, False, False), ("bidirectional", 8, False, False), ("causal", 1, False, False),
    ("bidirectional", 8, False, True), ("causal", 8, True, False), ("bidirectional", 8, True, False),
    ("prefix", 8, False, False), ("bidirectional", 1, False, False),
]  # fmt: skip


class Parity:
    """A case of CASES on random arrays [B,T,H,K]: each kernel in bfloat16 beside dense attention in float32.

    interpret: runs the kernels for GPUs on a CPU."""

    def __init__(self, case, shape, interpret=False):
        attention, documents, has_window, has_bias = case
        (B, T, H, K), random = shape, np.random.default_rng(0)
        window = T // 8 if has_window else 0
        ids = jnp.asarray(np.repeat(np.arange(T)[None] * documents // T + 1, B, 0), jnp.int32)
        prefix = jnp.asarray(random.random((B, T)) < 0.3) if attention == "prefix" else None
        self._mask = make_attention_mask(ids, ids, attention, prefix, window)
        q, k, v, self._weights = (
            jnp.asarray(random.normal(size=shape), jnp.float32) for _ in range(4)
        )
        self._arrays, self._interpret = (q * K**-0.5, k, v), interpret
        bias = jnp.asarray(random.normal(size=(H, 2 * T - 1)), jnp.float32)
        self._bias = bias if has_bias else None
        self._distances = np.arange(T)[None] - np.arange(T)[:, None] + T - 1
        self._case = AttentionSpec(
            T, T, attention, has_bias=has_bias, sliding_window=window, num_kv_heads=H,
            platform="gpu" if interpret else "",
        )  # fmt: skip
        self._expected = None

    def _attend(self, kernel, q, k, v):
        if kernel == "dense":
            bias = None if self._bias is None else self._bias[:, self._distances]
            return dot_product_attention(q, k, v, self._mask.dense(), bias=bias)
        return attend(kernel, q, k, v, self._mask, bias=self._bias, interpret=self._interpret)

    def _step(self, kernel):
        def loss(*arrays):
            out = self._attend(kernel, *arrays)
            return (out.astype(jnp.float32) * self._weights).sum(), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))

    def measure(self, kernel, rounds):
        """Errors of output and gradients relative to their largest entries, and milliseconds of both; or why
        the kernel cannot compute the case. An error below 0.02 is twice the rounding error of bfloat16."""
        if reason := why_unsupported(kernel, self._case):
            return {"cannot": reason}
        if self._expected is None:
            with jax.default_matmul_precision("highest"):
                (_, out), gradients = self._step("dense")(*self._arrays)
            self._expected = jax.device_get((out, *gradients))
        halves, step = [x.astype(jnp.bfloat16) for x in self._arrays], self._step(kernel)
        (_, out), gradients = step(*halves)
        errors = [
            float(np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max())
            for ours, theirs in zip((out, *gradients), self._expected, strict=True)
        ]
        seconds = best_seconds({kernel: (step, halves)}, rounds)[kernel]
        return {
            "output_error": errors[0], "gradient_error": max(errors[1:]), "equal": max(errors) < 0.02,
            "ms": 1e3 * seconds,
        }  # fmt: skip


def main():
    """Prints a line for each architecture and length; writes the records to --output."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--architectures", default="encoder,decoder,encoder_decoder")
    parser.add_argument("--lengths", default="128,512,2048")
    parser.add_argument("--kernels", default="dense,chunked")
    parser.add_argument("--tokens", type=int, default=8192, help="per step")
    parser.add_argument("--documents", type=int, default=1, help="per row")
    parser.add_argument(
        "--packing", type=int, default=0, help="compare rows of so many documents with one"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="", help="a JSON file")
    given = parser.parse_args()
    kernels, found = given.kernels.split(","), []
    print(f"{'':16} {'tokens':>7}  " + "".join(f"{name:>26}" for name in kernels))
    for architecture in given.architectures.split(","):
        for length in map(int, given.lengths.split(",")):
            rows = max(1, given.tokens // length)
            if given.packing:
                records = [
                    packing(architecture, name, length, rows, given.packing, given.rounds)
                    for name in kernels
                ]
                cells = [f"{each['packed_throughput']:21.2f} of 1" for each in records]
            else:
                records = side_by_side(
                    architecture, kernels, length, rows, given.documents, given.rounds
                )
                cells = [f"{x['seconds']:14.2f} s {x['temporary_mib']:6.0f} MiB" for x in records]
            found += records
            print(f"{architecture:16} {length:>7}  {''.join(cells)}", flush=True)
    if given.output:
        pathlib.Path(given.output).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
