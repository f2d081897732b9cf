"""A training step at growing lengths, dense and chunked attention side by side: seconds and memory.

    python -m benchmarks.attention --lengths=2048,4096,8192

Gradients of 4 layers x 256 (heads of 64), 8,192 tokens per step in rows of one document or, with --documents,
of several; an encoder-decoder reads and writes rows of this length. Memory is the peak of temporaries of the
compiled step (memory_analysis). Both alternate in one process; the time is the best of --rounds.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import models

SIZE = {"num_layers": 4, "emb_dim": 256, "num_heads": 4, "mlp_dim": 1024, "vocab_size": 1024}
POSITIONS = {"encoder": "rope", "decoder": "rope", "encoder_decoder": "relative"}


def gradient_step(architecture: str, kernel: str, length: int, rows: int, documents: int):
    """(the compiled gradients of the mean squared hidden state, their arguments)."""
    config = models.ModelConfig(
        architecture=architecture, max_length=length, positions=POSITIONS[architecture],
        attention_kernel=kernel, **SIZE,
    )  # fmt: skip
    model = models.build(config)
    random = np.random.default_rng(0)
    tokens = random.integers(5, SIZE["vocab_size"], (rows, length), dtype=np.int32)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", default="encoder,decoder,encoder_decoder")
    parser.add_argument("--lengths", default="128,512,2048")
    parser.add_argument("--kernels", default="dense,chunked")
    parser.add_argument("--tokens", type=int, default=8192, help="per step")
    parser.add_argument("--documents", type=int, default=1, help="per row")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    kernels = given.kernels.split(",")
    print(f"{'':16} {'tokens':>7}  " + "".join(f"{name:>26}" for name in kernels))
    for architecture in given.architectures.split(","):
        for length in map(int, given.lengths.split(",")):
            rows = max(1, given.tokens // length)
            steps = {
                name: gradient_step(architecture, name, length, rows, given.documents)
                for name in kernels
            }
            best = dict.fromkeys(kernels, float("inf"))
            for number in range(given.rounds + 1):  # the first one warms up
                for name, (step, arguments) in steps.items():
                    began = time.perf_counter()
                    jax.block_until_ready(step(*arguments))
                    if number:
                        best[name] = min(best[name], time.perf_counter() - began)
            cells = "".join(
                f"{best[name]:14.2f} s {step.memory_analysis().temp_size_in_bytes / 2**20:6.0f} MiB"
                for name, (step, _) in steps.items()
            )
            print(f"{architecture:16} {length:>7}  {cells}", flush=True)


if __name__ == "__main__":
    main()
