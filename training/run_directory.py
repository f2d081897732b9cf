"""The run directory: complete record of one run, enough to finetune, convert or evaluate from.

`config.json`, `manifest.json`, `tokenizer.json`, `checkpoints/`, `metrics.jsonl`, TensorBoard events.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import subprocess
import sys

import jax

from training import config as configs
from training import mesh as meshes
from training import paths
from training.config import ConfigError

log = logging.getLogger("triptych")

# Keys that may change between a stop and the next start: none of them changes a parameter.
CHANGEABLE = ("checkpoint.", "logging.", "evaluation.", "mesh.", "data.cache_dir", "data.workers",
              "data.threads", "data.prefetch")  # fmt: skip
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers",
            "tensorflow-datasets", "numpy")  # fmt: skip


def open_run(workdir, config, kind):
    """Makes the directory, or refuses one that holds a run of another config.

    Nothing is written yet: a start that fails leaves no config behind to be refused by.

    Args:
      workdir: path of the run.
      config: the resolved config, a tree of dataclasses.
      kind: 'pretrain' or 'finetune'.

    Raises:
      ConfigError: the path cannot be a directory, or holds a run whose config differs in a key that
        changes results (the difference is in the message).
    """
    folder = paths.of(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ConfigError(
            f"--workdir={workdir!r} cannot be a directory ({error.strerror}: {error.filename}); "
            f"choose a path below a directory that you may write to"
        ) from error
    existing = read_config(folder, missing_ok=True)
    if existing is not None:
        resolved, before = configs.to_dict(config), existing["config"]
        try:  # a leaf that is newer than the run has its default there
            before = configs.to_dict(configs.resolve(type(config), before))
        except ConfigError:
            log.warning(f"{folder}/config.json is of another version: compared as it stands")
        changed = [
            f"{key}: {was!r} -> {now!r}"
            for key, was, now in configs.difference(before, resolved)
            if not key.startswith(CHANGEABLE)
        ]
        if existing["kind"] != kind:
            changed.insert(0, f"kind: {existing['kind']} -> {kind}")
        if changed:
            raise ConfigError(
                f"--workdir={workdir!r} holds a run of another config ({'; '.join(changed[:4])}"
                f"{f' and {len(changed) - 4} more' if len(changed) > 4 else ''}); "
                f"choose another --workdir, or go back to the old values"
            )
    return folder


def read_config(run, missing_ok=False):
    """{'kind': ..., 'config': nested dicts} of a run directory.

    Raises ConfigError when there is none or it is not readable JSON."""
    path = paths.of(run) / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return None
        raise ConfigError(
            f"{str(run)!r} is not a run directory (no config.json); expected the --workdir of a "
            f"train.py or finetune.py run"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not readable JSON ({error}); restore it or start a new run"
        ) from error


def read_manifest(folder):
    """The manifest of a run, {} where it has none yet."""
    path = paths.of(folder) / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def check_unchanged(folder, **identities):
    """Raises ConfigError if the run began with other data, tokenizer or labels than it has now.

    A config names a source; what the source holds may have changed since."""
    before = read_manifest(folder)
    for name, value in identities.items():
        if before and before[name] != value:
            raise ConfigError(
                f"the {name} of {str(folder)!r} changed since it began ({str(before[name])[:40]} -> "
                f"{str(value)[:40]}): a file, a source or Python itself is another one; bring it back, "
                f"or start a run of its own"
            )


def write_manifest(folder, resolved, extra):
    """What produced this run: code, versions, devices, command line, fingerprints (`extra`).

    A later start of the same run adds itself to `starts` and leaves the rest as it was."""
    if not meshes.main_process():
        return
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "processes": jax.process_count(),
    }
    before = read_manifest(folder)
    if before:
        write_json(folder / "manifest.json", {**before, "starts": [*before["starts"], start]})
        return
    devices = jax.devices()
    manifest = {
        "starts": [start],
        "command": [sys.executable, *sys.argv],
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": _git("diff", "HEAD"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "flags": {k: os.environ[k] for k in sorted(os.environ) if k.startswith(("XLA_", "JAX_"))},
        "devices": {"kind": devices[0].device_kind, "platform": devices[0].platform,
                    "count": len(devices), "processes": jax.process_count()},
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "seed": resolved["seed"],
        **extra,
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)


def write_json(path, value):
    """Writes JSON as a whole: a reader never sees half a file."""
    paths.write_text(path, json.dumps(value, indent=2) + "\n")


def _git(*arguments):
    root = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ("git", *arguments), cwd=root, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()[:1_000_000] if done.returncode == 0 else ""


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@dataclasses.dataclass(frozen=True)
class Result:
    """What `train.run` and `finetune.run` return.

    Attributes:
      step: updates that the run holds.
      metrics: last value of each metric, keys like 'validation/loss' or 'test/accuracy'.
      workdir: the run directory.
    """

    step: int
    metrics: dict
    workdir: str


def record_run(folder, resolved, kind, model):
    """Writes config.json, once everything that can be refused has been: `resolved` as given and the
    finished model config (vocabulary size filled in)."""
    if meshes.main_process():
        record = {"kind": kind, "config": resolved, "model": dataclasses.asdict(model)}
        write_json(folder / "config.json", record)
