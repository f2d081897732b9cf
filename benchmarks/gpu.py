"""What one GPU does: kernels, utilization, packing, short pretraining, peers, memory, replicas.

    bash benchmarks/gpu.sh OUT [--minutes=10] [--only=kernels,ladder] [--dry_run]

The parts run in the order of PARTS, each in a process of its own, until the time is over. Each result is a
line of OUT/results.jsonl as soon as it is there; OUT/gpu.json and OUT/gpu.md (tables) follow after each part.
A part that lacks a package is left out, and the tables say so. --dry_run: tiny shapes on a CPU.
"""

import argparse
import functools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

RESERVE = 10.0  # seconds at the end, for the tables
# Sizes by their number of parameters, with the vocabularies of ModernBERT, GPT-2 and T5.
RECIPES = {
    "encoder_masked": {"vocab_size": 50368, "seq_len": 512, "num_targets": 128},
    "decoder": {"vocab_size": 50304, "seq_len": 1024, "num_targets": 1024},
    "encoder_decoder": {"vocab_size": 32128, "seq_len": 512, "num_targets": 128},
}
LADDER = {  # the recipe, layers, emb_dim, mlp_dim, rows, and the aim for the utilization
    "encoder 150M": ("encoder_masked", 22, 768, 1728, 64, 0.50),
    "decoder 124M": ("decoder", 12, 768, 3072, 32, 0.45),
    "encoder-decoder 220M": ("encoder_decoder", 12, 768, 3072, 64, 0.45),
    "encoder 400M": ("encoder_masked", 28, 1024, 3936, 32, 0.55),
    "decoder 350M": ("decoder", 24, 1024, 4096, 16, 0.50),
    "encoder 68M": ("encoder_masked", 19, 512, 1152, 128, 0.35),
    "encoder 32M": ("encoder_masked", 10, 384, 864, 128, 0.30),
    "encoder 17M": ("encoder_masked", 7, 256, 576, 256, 0.25),
}
TINY = {"num_layers": 1, "emb_dim": 64, "num_heads": 1, "mlp_dim": 64, "rows": 2, "vocab_size": 256,
        "seq_len": 32, "num_targets": 16}  # fmt: skip
ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")


# ---- The parts: they yield (what is measured, function that returns the numbers) ------------------------


def kernels(given):
    """Each kernel of attention in bfloat16 beside dense attention in float32: errors relative to the largest
    entry, and the time of values and gradients."""
    from benchmarks.attention import CASES, Parity

    shape = (1, 128, 2, 16) if given.dry_run else (4, 2048, 12, 64)
    for case in CASES[: 4 if given.dry_run else None]:
        parity = Parity(case, shape, interpret=given.dry_run)
        about = dict(zip(("attention", "documents", "window", "bias"), case, strict=True))
        for kernel in ("triton", "chunked", "dense"):
            measure = functools.partial(parity.measure, kernel, given.rounds)
            yield {**about, "kernel": kernel}, measure


def ladder(given):
    """Model FLOPs of a train step in bfloat16 over the matrix rate that is measured beside it."""
    for name in LADDER:
        yield {"model": name}, functools.partial(_step, given, name, has_peer=False)


def peers(given):
    """The same steps beside transformers under torch.compile (SDPA, fused AdamW), in alternation."""
    import torch
    import transformers  # noqa: F401

    if not given.dry_run and not torch.cuda.is_available():
        raise ModuleNotFoundError(name="torch with CUDA")
    for name in LADDER:
        yield {"model": name}, functools.partial(_step, given, name, has_peer=True)


def _step(given, name, has_peer):
    from benchmarks import peers as programs

    case, layers, emb_dim, mlp_dim, rows, aim = LADDER[name]
    size = {
        "num_layers": layers,
        "emb_dim": emb_dim,
        "num_heads": emb_dim // 64,
        "mlp_dim": mlp_dim,
    }
    size = TINY if given.dry_run else size | RECIPES[case] | {"rows": rows}
    while True:
        try:
            batch = programs.make_batch(case, size)
            step, flops, parameters = programs.our_program(case, size, batch, "bfloat16")
            steps = {"ours": step}
            if has_peer:
                from benchmarks.peers_torch import peer_step

                device = "cpu" if given.dry_run else "cuda"
                compiles = not given.dry_run
                steps["peer"] = peer_step(case, size, batch, "bfloat16", device, compiles)
            rate = programs.peak_flops(0.5, 128 if given.dry_run else 8192, "bfloat16")
            times = programs.alternate(steps, given.rounds)
            break
        except Exception as error:  # of JAX or PyTorch, which have no type in common
            text = str(error).lower()
            if size["rows"] < 2 or not ("out of memory" in text or "resource_exhausted" in text):
                raise
        size = size | {"rows": size["rows"] // 2}
    seconds = {key: statistics.median(values) for key, values in times.items()}
    tokens = size["rows"] * (size["seq_len"] + size["num_targets"] * (case == "encoder_decoder"))
    record = {
        "parameters": parameters, "rows": size["rows"], "tokens": size["seq_len"],
        "ms": 1e3 * seconds["ours"], "tokens_per_s": tokens / seconds["ours"],
        "matrix_tflops": rate / 1e12, "utilization": flops / seconds["ours"] / rate, "aim": aim,
    }  # fmt: skip
    if has_peer:
        ratios = [b / a for a, b in zip(times["ours"], times["peer"], strict=True)]
        record |= {"peer_ms": 1e3 * seconds["peer"], "ratio": statistics.median(ratios)}
    return record


def packing(given):
    """Packed rows of 8 documents beside rows of one, for each kernel that can run; the aim is 0.95."""
    from benchmarks.attention import POSITIONS, packing
    from models.attention_kernels import AttentionSpec, why_unsupported

    length, rows, emb_dim, head_dim = (64, 2, 32, 16) if given.dry_run else (2048, 16, 768, 64)
    size = {"emb_dim": emb_dim, "num_heads": emb_dim // head_dim, "mlp_dim": 4 * emb_dim}
    for architecture in ARCHITECTURES:
        for kernel in ("triton", "chunked", "dense"):
            attention = "causal" if architecture == "decoder" else "bidirectional"
            relative = POSITIONS[architecture] == "relative"
            if not why_unsupported(
                kernel, AttentionSpec(length, length, attention, has_bias=relative)
            ):
                yield (
                    {"architecture": architecture},
                    functools.partial(
                        packing,
                        architecture,
                        kernel,
                        length,
                        rows,
                        8,
                        given.rounds,
                        dtype="bfloat16",
                        **size,
                    ),
                )


def memory(given):
    """Temporary memory of the gradients of 4 layers by the length of rows, from the compiled program."""
    from benchmarks.attention import gradient_step

    tokens, lengths = (128, (64,)) if given.dry_run else (16384, (1024, 2048, 4096, 8192, 16384))

    def measure(*arguments):
        step, _ = gradient_step(*arguments, dtype="bfloat16")
        return {"temporary_mib": step.memory_analysis().temp_size_in_bytes / 2**20}

    for length in lengths:
        for architecture in ARCHITECTURES:
            for kernel in ("auto", "dense"):
                about = {
                    "architecture": architecture,
                    "kernel": kernel,
                    "length": length,
                    "tokens": tokens,
                }
                arguments = architecture, kernel, length, tokens // length, 1
                yield about, functools.partial(measure, *arguments)


def pretraining(given):
    """A short run of train.py in bfloat16 for each architecture."""
    import train
    from training import config as config_lib
    from training import logs

    steps, overrides = 300, {"training.batch_size": 64, "training.seq_len": 512}
    if given.dry_run:
        steps, overrides = 4, {"training.batch_size": 4, "training.seq_len": 64}
        overrides |= {
            "model.num_layers": 1,
            "model.emb_dim": 32,
            "model.num_heads": 2,
            "model.mlp_dim": 32,
        }
    overrides |= {
        "data.source": "python_docs", "data.cache_dir": str(given.output / "cache"),
        "model.dtype": "bfloat16", "training.duration": f"{steps} steps", "optimizer.warmup": "10 %",
        "evaluation.every": "never", "checkpoint.every": f"{steps} steps", "tokenizer.vocab_size": 8192,
        "logging.every": f"{steps // 4} steps", "logging.tensorboard": False,
    }  # fmt: skip

    def measure(architecture):
        run, began = given.output / "runs" / architecture, time.perf_counter()
        size = "" if given.dry_run else ":size=base"
        config = config_lib.load_config_file(f"configs/{architecture}.py{size}")
        train.run(config_lib.override(config, list(overrides.items())), run)
        losses = [line["loss"] for line in logs.read_metrics(run, "train")]
        last = logs.read_metrics(run, "throughput")[-1]
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        return {
            "parameters": manifest["parameters"]["total"], "steps": steps, "first_loss": losses[0],
            "last_loss": losses[-1], "tokens_per_s": last["tokens_per_second"],
            "of_data_sheet": last.get("model_flops_utilization", 0.0),
            "seconds": time.perf_counter() - began,
        }  # fmt: skip

    for architecture in ARCHITECTURES:
        yield {"architecture": architecture}, functools.partial(measure, architecture)


def replicas(given):
    """finetune.py with 8 seeds in one program beside one seed, on the encoder of the part `pretraining`."""
    from benchmarks import replicas as program

    small = ["--config.training.batch_size=4", "--config.task.max_seq_len=32"] * given.dry_run
    options = argparse.Namespace(
        init_from=str(given.output / "runs" / "encoder"), source="python_docs", flags=small,
        config="configs/finetune/classification.py", steps=20 if given.dry_run else 60,
    )  # fmt: skip
    alone = []

    def measure(count):
        seconds, memory = program.measure(options, count)
        alone.append(statistics.median(seconds))
        return {"ms": 1e3 * alone[-1], "ratio": alone[-1] / alone[0], "memory_gb": memory}

    for count in (1, 2 if given.dry_run else 8):
        yield {"replicas": count}, functools.partial(measure, count)


# Each with the largest share of the time that it may take.
PARTS = {"kernels": (kernels, 0.2), "ladder": (ladder, 0.4), "packing": (packing, 0.15),
         "pretraining": (pretraining, 0.25), "peers": (peers, 0.4), "memory": (memory, 0.15),
         "replicas": (replicas, 0.2)}  # fmt: skip


# ---- Running them --------------------------------------------------------------------------------------


def append(given, part, record):
    """Writes a line of OUT/results.jsonl and of the output."""
    with (given.output / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"part": part, **record}) + "\n")
    print(f"{part:12} " + "  ".join(f"{k}={_text(v)}" for k, v in record.items()), flush=True)


def run_part(name, given):
    """Appends the records of a part, as long as the next one is expected to end before `given.until`."""
    try:
        if name != "replicas":  # whose programs have the device for themselves
            import jax

            append(given, name, {"device": jax.devices()[0].device_kind, "jax": jax.__version__})
        began, longest = time.time(), 0.0
        for about, measure in PARTS[name][0](given):
            if began + longest > given.until:
                append(given, name, {"skipped": "the rest, for lack of time"})
                return
            try:
                record = measure()
            except ModuleNotFoundError:
                raise
            except Exception as error:  # noqa: BLE001  one fault is one line of the table
                record = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
            append(given, name, about | record)
            longest, began = max(longest, time.time() - began), time.time()
    except ModuleNotFoundError as error:
        append(given, name, {"skipped": f"the package {error.name} is missing"})


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables(records) -> str:
    """A Markdown page with a table for each part."""
    lines = ["# One GPU", ""]
    for name, (part, _) in PARTS.items():
        found = [dict(each) for each in records if each["part"] == name]
        about = [each for each in found if {"device", "skipped"} & each.keys()]
        rows = [each for each in found if each not in about]
        keys = list(dict.fromkeys(key for each in rows for key in each if key != "part"))
        lines += [f"## {name}", "", " ".join(part.__doc__.split()), ""]
        lines += [f"- {key}: {each[key]}" for each in about for key in each if key != "part"]
        if rows:
            lines += ["", f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}"]
        for each in rows:
            lines.append(f"| {' | '.join(_text(each.get(key, '')) for key in keys)} |")
        lines.append("")
    return "\n".join(lines)


def write_tables(folder):
    """OUT/gpu.json and OUT/gpu.md of the records so far."""
    text = (folder / "results.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    (folder / "gpu.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(tables(records), encoding="utf-8")


def start_part(name, given, seconds):
    """Runs a part in a process of its own, which is ended after some seconds. Returns a fault, or ''."""
    command = [
        sys.executable, "-m", "benchmarks.gpu", str(given.output), f"--part={name}",
        f"--until={time.time() + seconds}", f"--rounds={given.rounds}", *["--dry_run"] * given.dry_run,
    ]  # fmt: skip
    with (given.output / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
        try:
            status = process.wait(timeout=seconds + RESERVE / 2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and the programs that it has started
            process.wait()
            return "the rest, for lack of time"
    return f"the rest: it ended with status {status}, see {name}.log" if status else ""


def main():
    """Runs the parts; with --part, one of them in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("output", type=pathlib.Path, help="an empty or new directory")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=10, help="of each measurement")
    parser.add_argument("--dry_run", action="store_true", help="tiny shapes on a CPU")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        run_part(given.part, given)
        return
    total, chosen = 60 * given.minutes - RESERVE, given.only.split(",")
    until = time.time() + total
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"--only: {unknown[0]!r} is no part; expected some of {', '.join(PARTS)}")
    given.output.mkdir(parents=True, exist_ok=True)
    if (given.output / "results.jsonl").exists():
        parser.error(f"{given.output} has results already; choose another directory")
    for name in (part for part in PARTS if part in chosen):
        share = 1.0 if given.dry_run else PARTS[name][1]
        seconds = min(until - time.time(), share * total)
        fault = start_part(name, given, seconds) if seconds > 5 else "for lack of time"
        if fault:
            append(given, name, {"skipped": fault})
        write_tables(given.output)
    print(f"tables: {given.output / 'gpu.md'}")


if __name__ == "__main__":
    main()
