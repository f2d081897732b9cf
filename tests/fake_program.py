"""A stand-in for train.py and finetune.py in tests of sweeps: leaves the same files behind in no time.

    python fake_program.py train.py|finetune.py --config=... --workdir=... --config.key=value ...

Each update is a line of `updates.txt`, which nothing truncates, so that a test counts how often it ran. A
checkpoint follows each update. FAULTS in the environment is {part of the workdir: fault}: 'fail', 'full',
'kill', 'stop', 'wait' (for a file GO, or a signal), 'tokenize' (a minute before the first update); a fault
happens at the first start alone, half way.
"""

import ast
import hashlib
import json
import os
import pathlib
import signal
import sys
import time

STEPS = 10


def value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


program, *flags = sys.argv[1:]
given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
workdir = pathlib.Path(given.pop("workdir"))
keys = {key.removeprefix("config."): value(text) for key, text in given.items() if key != "config"}
faults = json.loads(os.environ.get("FAULTS", "{}"))
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))


def write(path, content):
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def replicas():
    """[(folder, {key: value})]."""
    rates = keys.get("optimizer.learning_rate", 1e-3)
    axes = {}
    if isinstance(rates, tuple):
        axes["learning_rate"] = rates
    if "seeds" in keys:
        axes["seed"] = keys["seeds"]
    found = [(workdir, dict(keys))]
    for axis, values in axes.items():
        found = [(f, {**k, axis: v, {"learning_rate": "optimizer.learning_rate"}.get(axis, axis): v})
                 for f, k in found for v in values]  # fmt: skip
    return [
        (workdir / ",".join(f"{axis}={k[axis]:g}" for axis in axes) if axes else workdir, k)
        for _, k in found
    ]


def run(folder, keys):
    folder.mkdir(parents=True, exist_ok=True)
    if "init_from" in keys:
        assert (pathlib.Path(keys["init_from"]) / "config.json").exists(), "no parent"
    write(
        folder / "config.json",
        {"kind": "x", "config": {"checkpoint": {"every": "1 step"}}, "model": {}},
    )
    manifest = {"total_steps": STEPS, "best_metric": "+accuracy", "flops_per_step": 5e9}
    write(folder / "manifest.json", manifest | {"parameters": {"non_embedding": 400_000}})
    starts = folder / "starts.txt"
    with starts.open("a") as file:
        file.write("start\n")
    first = len(starts.read_text().splitlines()) == 1
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    done = max((int(p.name) for p in checkpoints.iterdir()), default=0)
    stop = keys.get("training.stop_after", "")
    stop = max(1, round(STEPS * float(stop.split()[0]) / 100)) if stop else STEPS
    noise = int(hashlib.md5(f"{keys.get('seed')}".encode()).hexdigest()[:4], 16) / 65536 / 50
    rate = keys.get("optimizer.learning_rate", 1e-3)
    best = keys.get("optimizer.weight_decay", 1e-3)  # the best learning rate
    quality = 0.8 - abs(rate - best) * 50 + noise + 0.1 * (keys.get("init") == "pretrained")
    mine = [fault for part, fault in faults.items() if part in str(folder)]
    for step in range(done + 1, STEPS + 1):
        if step > stop or stopping:
            return 143
        if first and step == 1 and "tokenize" in mine:
            time.sleep(60)
        if first and step == STEPS // 2:
            while "wait" in mine and not (stopping or pathlib.Path(os.environ["GO"]).exists()):
                time.sleep(0.02)
            if "kill" in mine:
                os.kill(os.getpid(), signal.SIGKILL)
            if "stop" in mine:  # as at training.max_hours
                return 143
            if "fail" in mine:
                print("step log\nerror: update 5 went wrong; lower the learning rate", flush=True)
                sys.exit(1)
            if "full" in mine:
                print(
                    "error: cannot write x: the disk is full or a file would be too large",
                    flush=True,
                )
                sys.exit(1)
        with (folder / "updates.txt").open("a") as file:
            file.write(f"{step}\n")
        now = quality * (1 - 0.5**step)
        with (folder / "metrics.jsonl").open("a") as file:
            for split, values in (
                ("train", {"loss": 1 - now}),
                ("validation", {"loss": 1 - now, "accuracy": now}),
            ):
                file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        (checkpoints / str(step)).mkdir()
        print(
            f"step {step:>7,}/{STEPS:,}  loss {1 - now:.3f}  1,000 tok/s  eta 0:00:01", flush=True
        )
    if program == "finetune.py":
        write(
            folder / "scores.json",
            {
                "step": STEPS,
                "validation/loss": 1 - now,
                "validation/accuracy": now,
                "test/accuracy": now - 0.05,
                "test/loss": 1.05 - now,
            },
        )
    return 0


members = replicas()
if len(members) > 1 or members[0][0] != workdir:
    workdir.mkdir(parents=True, exist_ok=True)
    write(workdir / "config.json", {"kind": "replicas", "config": {}, "model": {}})
sys.exit(max([run(folder, own) for folder, own in members]))
