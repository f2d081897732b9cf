"""`python -m tools.reproduce RUN --workdir=DIR`: trains a run again from its manifest, and compares.

The code is the run's commit, with its uncommitted changes. Config, data, tokenizer, versions and devices
are compared, then the metrics of each step.
"""

import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

from launch import checkout
from tools import run_records
from training import cli, paths
from training import config as config_lib
from training.config import ConfigError

FLAGS = (
    ("run", {"metavar": "RUN", "help": "directory of a run of train.py or finetune.py"}),
    ("--workdir", {"default": "", "help": "directory of the new run; the same command resumes it"}),
    ("--check", {"action": "store_true", "help": "only print what differs here, and train nothing"}),
    ("--this_code", {"action": "store_true", "help": "train with the code of this checkout, not the run's"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
PROGRAMS = {"pretrain": "train.py", "finetune": "finetune.py", "replicas": "finetune.py"}
# What belongs to one machine or one start, and not to the result.
OF_A_MACHINE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID",
                "JAX_COMPILATION_CACHE_DIR")  # fmt: skip
IDENTITIES = ("data", "tokenizer", "labels", "contents")
CONFIG_FILE = '''\
"""The config of {run}, written by tools.reproduce."""

import json

import ml_collections


def get_config():
    return ml_collections.ConfigDict(json.loads({text!r}))
'''


def main(argv):
    """Trains the run again and compares; exits with 1 if a metric differs."""
    given = cli.flags_parser(__doc__, FLAGS).parse_args(argv)
    record = run_records.read(given.run)
    if record.kind not in PROGRAMS or not record.manifest:
        raise ConfigError(
            f"{given.run} has no manifest of a run of train.py or finetune.py; expected one that "
            f"has started"
        )
    for line in differences(record):
        print(line)
    if given.check:
        return
    if not given.workdir or paths.of(given.workdir) == record.folder:
        raise ConfigError("--workdir is missing or the run itself; expected a new directory")
    train(record, given.workdir, cli.ROOT if given.this_code else code_of(record, given.workdir))
    is_equal = True
    for run in run_records.find([record.folder]):
        again = paths.of(given.workdir) / run.relative_to(record.folder)
        old, new = run_records.read(run), run_records.read(again)
        for line in changed("data", identities(old.manifest), identities(new.manifest)):
            print(line)
        equal, line = compare(old.metrics, new.metrics)
        is_equal &= equal
        print(f"{old.name}: {line}")
    if not is_equal:
        sys.stdout.flush()
        raise SystemExit(1)


def identities(manifest) -> dict:
    return {name: manifest[name] for name in IDENTITIES if name in manifest}


def changed(what: str, old: dict, new: dict) -> list[str]:
    """'what.key: was X, is Y' of what differs."""
    pairs = config_lib.difference({what: old}, {what: new})
    return [f"{key}: was {str(was)[:100]}, is {str(now)[:100]}" for key, was, now in pairs]


def differences(record) -> list[str]:
    """What differs between the manifest of a run and this machine."""
    import importlib.metadata
    import platform

    import jax

    manifest = record.manifest

    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "(not installed)"

    devices = jax.devices()
    here = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in manifest.get("versions", {})},
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
    }
    there = {
        "python": manifest.get("python"),
        "versions": manifest.get("versions", {}),
        "devices": {key: manifest.get("devices", {}).get(key) for key in ("kind", "count")},
    }
    lines = [line for name in here for line in changed(name, {"": there[name]}, {"": here[name]})]
    lines = [line.replace(".:", ":").replace("..", ".") for line in lines]
    try:
        head = checkout.git(cli.ROOT, "rev-parse", "HEAD").strip()
    except ConfigError:
        head = ""
    if head != manifest.get("commit"):
        lines.append(
            f"commit: was {manifest.get('commit')}, this checkout is {head or 'no checkout'}"
        )
    if manifest.get("uncommitted"):
        lines.append(f"commit: the run had {len(manifest['uncommitted']):,} bytes of changes on it")
    starts = manifest.get("starts", [])
    if len(starts) > 1:
        lines.append(f"starts: the run was resumed {len(starts) - 1} times")
    if record.config.get("resume_from", -1) != -1:
        lines.append(
            "resume_from: the run went back to a checkpoint; its last config is trained from the start"
        )
    return lines or ["nothing differs: python, versions, devices and commit are those of the run"]


def code_of(record, workdir) -> pathlib.Path:
    """A checkout of the commit of a run with its changes, beside the new run; this one if it is equal."""
    commit, diff = record.manifest.get("commit", ""), record.manifest.get("uncommitted", "")
    if not commit:
        raise ConfigError(
            f"{record.folder} names no commit: it was not trained from a checkout; --this_code uses this one"
        )
    if len(diff) >= 1_000_000:
        raise ConfigError(
            "the changes of the run were too many for its manifest, which has the first 1,000,000 bytes: "
            "--this_code uses this checkout"
        )
    code = checkout.Code(commit, f"{diff}\n".encode() if diff else b"")
    place = pathlib.Path(f"{workdir}.code".replace("gs://", "")).absolute()
    place.mkdir(parents=True, exist_ok=True)
    code.check_out(cli.ROOT, place)
    return code.folder(place)


def train(record, workdir, code) -> None:
    """Runs the program of a run on its config, to the step at which that run ended by training.stop_after.

    training.max_hours is left out: it ends a run at a step that depends on the machine. Raises ConfigError
    if the program fails."""
    place = pathlib.Path(f"{workdir}.code".replace("gs://", "")).absolute()
    place.mkdir(parents=True, exist_ok=True)
    config = record.config | {"resume_from": -1, "profile": ""}
    given = config.get("training", {})
    config["training"] = {key: 0.0 if key == "max_hours" else each for key, each in given.items()}
    ends_early = given.get("stop_after", "never") != "never"
    file = place / "reproduced.py"
    file.write_text(
        CONFIG_FILE.format(run=record.folder, text=json.dumps(config)), encoding="utf-8"
    )
    flags = {k: v for k, v in record.manifest.get("flags", {}).items() if k not in OF_A_MACHINE}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XLA_")} | flags
    environment |= {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    program = code / PROGRAMS[record.kind]
    words = [sys.executable, str(program), f"--config={file}", f"--workdir={workdir}"]
    print(f"training with {program}", flush=True)
    done = subprocess.run(words, env=environment)
    if done.returncode and not (ends_early and done.returncode == 143):
        raise ConfigError(f"the new run ended with status {done.returncode}; its log is above")
    if code != cli.ROOT:
        shutil.rmtree(place)


def compare(old, new) -> tuple[bool, str]:
    """(whether all metrics are equal, a line) of two lists of lines of metrics.jsonl."""
    old, new = (
        {(line["split"], line["step"]): line for line in lines if line["split"] != "throughput"}
        for lines in (old, new)
    )
    missing = sorted(old.keys() ^ new.keys(), key=lambda key: key[1])
    first, largest = None, (0.0, None)
    for key in sorted(old.keys() & new.keys(), key=lambda key: (key[1], key[0])):
        for name in old[key].keys() | new[key].keys():
            was, now = old[key].get(name), new[key].get(name)
            if was == now or name in ("split", "step") or was != was and now != now:
                continue
            first = first or (key, name, was, now)
            if isinstance(was, float) and isinstance(now, float) and math.isfinite(was - now):
                relative = abs(was - now) / max(abs(was), 1e-30)
                if relative > largest[0]:
                    largest = relative, (key, name)
    if first is None and not missing:
        return True, f"all {len(old):,} lines of metrics are equal bit for bit"
    parts = []
    if first:
        (split, step), name, was, now = first
        parts.append(f"first difference at step {step:,}: {split}/{name} was {was!r}, is {now!r}")
    if largest[1]:
        (split, step), name = largest[1]
        parts.append(
            f"largest relative difference {largest[0]:.2g} ({split}/{name} at step {step:,})"
        )
    if missing:
        split, step = missing[0]
        parts.append(f"{len(missing)} lines are in one run alone, first {split} at step {step:,}")
    return False, "; ".join(parts)


if __name__ == "__main__":
    cli.main(main, resumes=True)
