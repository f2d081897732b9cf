"""Golden runs: tiny runs of both entry files, recorded once and compared bit for bit after a change.

    python -m benchmarks.golden --workdir=DIR --record=FILE.json
    python -m benchmarks.golden --workdir=DIR --compare=FILE.json [--only=encoder,ul2]

--compare prints a line per run and exits with 1 on a difference. Metrics and parameters may be renamed:
their values are compared, and new names are reported. The recorded numbers are valid for one machine
and its package versions. `golden_hf` next to FILE is the Hugging Face directory that the imported runs
start from; --record makes it if it is missing, --compare only reads it.
"""

import argparse
import concurrent.futures
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import sys
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What both kinds of run share: every event of the loop happens at least twice.
LOOP = {
    "training.duration": "50 steps", "training.batch_size": 8, "training.grad_accum_steps": 2,
    "training.ema_decay": 0.9, "optimizer.warmup": "5 steps", "evaluation.every": "25 steps",
    "checkpoint.every": "25 steps", "logging.every": "10 steps", "logging.tensorboard": False,
}  # fmt: skip
PRETRAINING = {
    **LOOP, "model.dropout_rate": 0.1, "model.attention_dropout_rate": 0.1, "training.seq_len": 64,
    "evaluation.num_batches": 2, "model.dtype": "float32", "model.emb_dim": 32,
    "data.source": "python_docs",
}  # fmt: skip
LAYERS = {
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.mlp_dim": 64,
    "tokenizer.vocab_size": 512,
}
FINETUNING = {
    **LOOP,
    "model_overrides.dropout_rate": 0.1,
    "model_overrides.attention_dropout_rate": 0.1,
    "task.source": "python_docs",
    "task.max_seq_len": 64,
    "task.num_train_examples": 100,
}
OTHER_ITEMS = ("opt_state", "state", "metrics")  # of a checkpoint; all else is parameters
CLASSIFICATION = "finetune/classification.py"
# name: (file of configs/, run it starts from, overrides). `hf` is the Hugging Face directory.
RUNS = {
    "encoder": ("encoder.py", "", {**PRETRAINING, **LAYERS}),
    "decoder": ("decoder.py", "", {**PRETRAINING, **LAYERS}),
    "encoder_decoder": ("encoder_decoder.py", "", {**PRETRAINING, **LAYERS}),
    "electra": ("electra.py", "", {**PRETRAINING, **LAYERS, "model.embedding_size": 16}),
    "ul2": ("encoder_decoder.py:objective=ul2", "", {**PRETRAINING, **LAYERS}),
    "skip_gram": ("skip_gram.py", "", {**PRETRAINING, "tokenizer.vocab_size": 2000}),
    "hf_pretrain": ("encoder.py", "hf", {**PRETRAINING, **LAYERS}),
    "hf_finetune": (CLASSIFICATION, "hf", FINETUNING),
    "encoder_finetune": (CLASSIFICATION, "encoder", FINETUNING),
    "decoder_finetune": (CLASSIFICATION, "decoder", FINETUNING),
    "encoder_decoder_finetune": (CLASSIFICATION, "encoder_decoder", FINETUNING),
}


def execute(folder, name, file, begin, overrides):
    """Runs one config in `folder`/`name`, in the process that calls it; returns what is recorded."""
    sys.path.insert(0, str(ROOT))  # before an editable install of another checkout
    import finetune
    import train
    from training import config as config_lib

    if pathlib.Path(train.__file__).resolve().parent != ROOT:
        raise RuntimeError(f"train.py comes from {train.__file__}, not from {ROOT}")
    entry = finetune if file.startswith("finetune/") else train
    values = dict(overrides) | ({"init_from": begin} if begin else {})
    if entry is train:
        values["data.cache_dir"] = f"{folder}/cache"
    config = config_lib.override(
        config_lib.load_config_file(f"{ROOT}/configs/{file}"), values.items()
    )
    result = entry.run(config, f"{folder}/{name}")
    lines = map(json.loads, (folder / name / "metrics.jsonl").read_text("utf-8").splitlines())
    return {
        "lines": [line for line in lines if line["split"] != "throughput"],
        "result": {"step": result.step, **result.metrics},
        **arrays(folder / name / "checkpoints"),
    }


def arrays(checkpoints):
    """{path: digest} of the newest checkpoint's arrays, in the order of the paths and without the
    optimizer's; and one digest of all values, one of all values with their paths."""
    import jax
    import orbax.checkpoint as ocp

    warnings.filterwarnings("ignore", message="Sharding info not provided")
    newest = max((p for p in checkpoints.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    each, values, named = {}, hashlib.sha256(), hashlib.sha256()
    for item in sorted({p.name for p in newest.iterdir() if p.is_dir()} - {*OTHER_ITEMS}):
        tree = jax.device_get(ocp.PyTreeCheckpointHandler().restore(newest / item))
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        flat = {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
        for path, leaf in sorted(flat.items()):
            content = f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()
            values.update(content)
            named.update(path.encode() + content)
            each[f"{item}/{path}"] = hashlib.sha256(content).hexdigest()
    return {"arrays": each, "values": values.hexdigest(), "named": named.hexdigest()}


def make_hf(folder, target):
    """Pretrains a tiny BERT for ten updates and exports it to `target`."""
    overrides = {**PRETRAINING, **LAYERS, "model.vocab_size": 512, "model.max_length": 64}
    overrides["training.duration"] = "10 steps"
    execute(folder, "hf_source", "encoder.py:preset=bert-tiny", "", overrides)
    from tools import convert

    convert.main(["to_hf", f"{folder}/hf_source", str(target)])


def difference(old, new):
    """(words for the first difference of two records or '', set of 'old -> new' names)."""
    renamed = set()

    def values(where, one, two):
        renamed.update(f"{a} -> {b}" for a, b in zip(one, two, strict=False) if a != b)
        for (a, x), (b, y) in zip(one.items(), two.items(), strict=False):
            if json.dumps(x) != json.dumps(y):  # as text: NaN equals itself, 1 is not 1.0
                return f"{where}, {a if a == b else f'{a} -> {b}'}: {x!r} -> {y!r}"
        return "" if len(one) == len(two) else f"{where}: keys {list(one)} -> {list(two)}"

    found = [f"lines {len(old['lines'])} -> {len(new['lines'])}"]
    if len(old["lines"]) == len(new["lines"]):
        pairs = zip(old["lines"], new["lines"], strict=True)
        found = [values(f"step {a['step']} {a['split']}", a, b) for a, b in pairs]
    found.append(values("result", old["result"], new["result"]))
    one, two = old["arrays"], new["arrays"]
    changed = [f"{p}: {one[p]} -> {two[p]}" for p in one if p in two and one[p] != two[p]]
    # A new name may sort elsewhere: arrays under new names are matched by content.
    gone = sorted((digest, path) for path, digest in one.items() if path not in two)
    came = sorted((digest, path) for path, digest in two.items() if path not in one)
    if [digest for digest, _ in gone] == [digest for digest, _ in came]:
        renamed.update(f"{a} -> {b}" for (_, a), (_, b) in zip(gone, came, strict=True))
    else:
        changed.append(
            f"arrays {[p for _, p in gone][:3]} -> {[p for _, p in came][:3]}, other values"
        )
    return next(filter(None, found + changed), ""), renamed


def main():
    """Command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="a folder for the runs")
    parser.add_argument("--record", type=pathlib.Path, metavar="FILE", help="written")
    parser.add_argument("--compare", type=pathlib.Path, metavar="FILE", help="read")
    parser.add_argument("--only", default=",".join(RUNS), help=f"some of {', '.join(RUNS)}")
    given = parser.parse_args()
    folder, chosen = given.workdir.resolve(), given.only.split(",")
    file = (given.record or given.compare or ROOT).resolve()
    if bool(given.record) == bool(given.compare) or not set(chosen) <= set(RUNS):
        parser.error("give one of --record and --compare, and known names to --only")
    wanted = [n for n in RUNS if n in chosen or any(RUNS[c][1] == n for c in chosen)]
    if used := [n for n in (*wanted, "hf_source") if (folder / n).exists()]:
        parser.error(f"--workdir holds runs already ({', '.join(used)}); choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    os.environ.update(TRIPTYCH_CACHE=f"{folder}/cache", JAX_PLATFORMS="cpu")
    for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS"):  # each program is compiled anew
        os.environ.pop(name, None)
    versions = {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "numpy", "tokenizers")}
    about = {**versions, "python": platform.python_version(), "cores": os.cpu_count()}
    records, began, hf = {}, time.perf_counter(), file.parent / "golden_hf"
    known = json.loads(given.compare.read_text("utf-8")) if given.compare else {}
    if known and known["about"] != about:
        print(f"warning: recorded with {known['about']}, this is {about}")
    # A new process for each run, two at a time; those that begin with another run come after it.
    with concurrent.futures.ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        if not hf.exists():
            if given.compare:
                parser.error(f"{hf} is missing; it belongs to {file}")
            pool.submit(make_hf, folder, hf).result()
        for late in (False, True):
            wave = {}
            for name in (n for n in wanted if (RUNS[n][1] in RUNS) == late):
                configured, begin, overrides = RUNS[name]
                begin = str(hf) if begin == "hf" else begin and f"{folder}/{begin}"
                wave[name] = pool.submit(execute, folder, name, configured, begin, overrides)
            records.update({n: each.exception() or each.result() for n, each in wave.items()})
    print(f"{len(records)} runs in {time.perf_counter() - began:.0f} s")
    failed = [n for n, each in records.items() if isinstance(each, Exception)]
    if given.record and not failed:
        file.write_text(json.dumps({"about": about, "runs": records}, indent=1) + "\n", "utf-8")
        return
    different = False
    for name, record in records.items():
        words, renamed = f"failed: {record!r}" if name in failed else "not in the record", ()
        if name not in failed and name in known.get("runs", {}):
            words, renamed = difference(known["runs"][name], record)
        different |= bool(words)
        print("\n  renamed: ".join([f"{name}: {words or 'equal'}", *sorted(renamed)]))
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
