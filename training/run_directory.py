"""The run directory: everything that is needed to finetune, generate, convert or evaluate a run.

`config.json`, `manifest.json`, `tokenizer.json`, `checkpoints/`, `metrics.jsonl`, TensorBoard events.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys

import jax

from models.config import ModelConfig
from training import metric_writer, paths
from training.config import ConfigError
from training.sharding import is_main_process

TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json")
SET_ASIDE = "set_aside"  # what `resume_from` replaced, in numbered directories
# What may be in a run directory before its config.json: hidden files, files of a launch (logs, scripts,
# Slurm, submitit, W&B), the empty checkpoints/ of a run that did not start, and temporary files.
_LAUNCH_FILE = re.compile(
    r"^\.|^(checkpoints|wandb|lost\+found|nohup\.out)$|^slurm|(^|[._-])(logs?|stdout|stderr)([._-]|\d*$)"
    r"|\.(log|out|err|sh|sbatch|slurm|pid|tmp)$|_submi(t|ssion|tted)\b|_result\.pkl$",
    re.IGNORECASE,
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers",
            "tensorflow-datasets", "numpy")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of `train.run` and `finetune.run`.

    Attributes:
      step: updates that the run holds.
      metrics: last value of each metric, keys like 'validation/loss' or 'test/accuracy'.
      workdir: the run directory.
    """

    step: int
    metrics: dict
    workdir: str


def open_run(workdir, kind):
    """Creates the directory, or opens the run in it. Writes nothing yet: `check_config` comes first.

    Args:
      workdir: path of the run.
      kind: 'pretrain', 'finetune' or 'replicas'.

    Raises:
      ConfigError: the path cannot be a directory, or holds a run of another kind.
    """
    folder = paths.make_directory(workdir, "workdir")
    existing = read_config(folder, missing_ok=True)
    if existing is None:
        _check_empty(folder, kind)
    if existing and "kind" not in existing:
        raise ConfigError(
            f"--workdir={workdir!r} holds a config.json that is not of a run of this project; choose "
            f"another --workdir"
        )
    if (
        existing
        and existing["kind"] != kind
        and (is_started(folder) or "replicas" in (existing["kind"], kind))
    ):
        raise ConfigError(
            f"--workdir={workdir!r} holds a {existing['kind']} run, expected a {kind} run; choose another "
            f"--workdir"
        )
    return folder


def _check_empty(folder, kind):
    """Raises ConfigError for a directory without config.json that holds what neither a run leaves before
    it has one nor a program that starts runs: it is a directory of something else. Replicas may join
    runs that were made alone."""
    found = sorted(path.name for path in folder.iterdir() if not _LAUNCH_FILE.search(path.name))
    if kind == "replicas":
        found = [name for name in found if not _may_be_replica(folder / name)]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ConfigError(
            f"--workdir={str(folder)!r} is not empty and holds no run (no config.json, but "
            f"{', '.join(name[:60] for name in found[:3])}{more}); choose a new or empty directory"
        )


def _may_be_replica(path):
    """Whether a path is the directory of a run, or one that a run was stopped in before its first file."""
    names = {each.name for each in path.iterdir()} if path.is_dir() else {"a file"}
    return "config.json" in names or all(_LAUNCH_FILE.search(name) for name in names)


def is_started(folder):
    """Whether the directory holds something to keep: a checkpoint after step 0 or its metrics, or an
    imported model, whose checkpoint 0 has no train state.

    A run that stopped before its first update has nothing to lose, and its config or its data may have
    been wrong: the next command starts anew there, whatever its config."""
    folder = paths.of(folder)
    saved, metrics = folder / "checkpoints", folder / "metrics.jsonl"
    names = [name.removesuffix(".broken") for name in _checkpoint_names(folder)]
    if any(name.isdigit() and int(name) for name in names) or (folder / SET_ASIDE).exists():
        return True
    if "0" in names and not (saved / "0" / "state").exists():
        return True
    return metrics.exists() and bool(metric_writer.lines_up_to(metrics, math.inf, after=0))


def resumes(folder):
    """Whether the next command reads a checkpoint of the run in the directory. Without one (they are not
    kept, or someone removed them) it starts again, from the same parameters as at first."""
    names = _checkpoint_names(folder)
    return is_started(folder) and any(n.removesuffix(".broken").isdigit() for n in names)


def newest_checkpoint(folder):
    """The step of the newest checkpoint in the directory, -1 for none."""
    return max((int(name) for name in _checkpoint_names(folder) if name.isdigit()), default=-1)


def _checkpoint_names(folder):
    saved = paths.of(folder) / "checkpoints"
    return [path.name for path in saved.iterdir()] if saved.is_dir() else []


def read_config(run, missing_ok=False):
    """{'kind': ..., 'config': nested dicts, 'model': ...} of a run directory.

    Raises ConfigError if there is none or it is not readable JSON."""
    path = paths.of(run) / "config.json"
    if missing_ok and not path.exists():
        return None
    if not path.exists():
        raise ConfigError(
            f"{str(run)!r} is not a run directory (no config.json); expected the --workdir of a "
            f"train.py or finetune.py run"
        )
    found = _read_object(path)
    if "kind" not in found and not missing_ok:
        raise ConfigError(
            f"{path} is no config of a run (of a Hugging Face model, perhaps); expected the --workdir of a "
            f"train.py or finetune.py run"
        )
    if "kind" in found and not all(isinstance(found.get(key), dict) for key in ("config", "model")):
        raise ConfigError(f"{path} has no 'config' or no 'model'; restore it or start a new run")
    return found


def read_model_config(run) -> ModelConfig:
    """The ModelConfig of a run directory, every zero filled in.

    Raises ConfigError for a run of a version with other fields."""
    return model_config(read_config(run)["model"], run)


def model_config(stored, run) -> ModelConfig:
    """The ModelConfig of the stored fields of a run; raises as `read_model_config`."""
    check_fields(stored, ModelConfig, run, "model")
    return ModelConfig(**stored)


def check_fields(stored, schema, run, section):
    """Raises ConfigError if a section of a run's config has fields that the dataclass `schema` lacks."""
    if unknown := sorted(stored.keys() - {field.name for field in dataclasses.fields(schema)}):
        raise ConfigError(
            f"{str(run)!r} was made by another version of this project: its {section} has fields that this "
            f"version does not know ({', '.join(unknown[:3])}); use it with that version"
        )


def _read_object(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}, expected an object")
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not readable JSON ({error}); restore it or start a new run"
        ) from error
    return found


def read_manifest(folder):
    """The manifest of a run, {} if it has none yet."""
    path = paths.of(folder) / "manifest.json"
    return _read_object(path) if path.exists() else {}


def scored_step(folder):
    """The step whose parameters finetune.py scored, as text; '' for a run without final scores."""
    path = paths.of(folder) / "scores.json"
    return str(_read_object(path)["step"]) if path.exists() else ""


def check_unchanged(folder, **identities):
    """Raises ConfigError if data, tokenizer or labels are not those that the run started with.

    The config names a source; its content may have changed since."""
    before = read_manifest(folder) if is_started(folder) else {}
    for name, value in identities.items():
        if before and before[name] != value:
            raise ConfigError(
                f"the {name} of {str(folder)!r} changed since the run started ({str(before[name])[:40]} -> "
                f"{str(value)[:40]}): a file, a source or Python itself differs; restore it, or choose "
                f"another --workdir"
            )


def write_run(folder, resolved, kind, task, start, extra):
    """Writes config.json, tokenizer.json and manifest.json, after everything that can fail has been
    checked.

    Args:
      folder: the run directory.
      resolved: the one resolved config, nested dicts.
      kind: 'pretrain', 'finetune' or 'replicas'.
      task: LoadedTask, for its tokenizer and its completed model_config.
      start: entry of the manifest's `starts` (continuation.Continuation.record).
      extra: further entries of the manifest.
    """
    write_config(folder, resolved, kind, task.model_config)  # first: it tells whose files these are
    if is_main_process():
        task.tokenizer.save(folder / "tokenizer.json")
    write_manifest(folder, resolved, extra, start)


def write_config(folder, resolved, kind, model):
    """Writes config.json: the kind, the resolved config and the completed ModelConfig."""
    if is_main_process():
        record = {"kind": kind, "config": resolved, "model": dataclasses.asdict(model)}
        write_json(folder / "config.json", record)


def write_manifest(folder, resolved, extra, start=None):
    """Writes manifest.json, what produced this run: code, versions, devices, command, and `extra`.

    A later start of the same run is added to `starts`. Its length and its parameter rules replace the old
    ones, and nothing else changes."""
    if not is_main_process():
        return
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "processes": jax.process_count(),
        **(start or {}),
    }
    before = read_manifest(folder)
    if before:
        new = {key: extra[key] for key in ("total_steps", "param_rules") if key in extra}
        starts = [*before["starts"], start]
        write_json(folder / "manifest.json", {**before, **new, "starts": starts})
        return
    devices = jax.devices()
    manifest = {
        "starts": [start],
        "command": [sys.executable, *sys.argv],
        "commit": start["commit"],
        "uncommitted": git("diff", "HEAD"),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "flags": {k: os.environ[k] for k in sorted(os.environ) if k.startswith(("XLA_", "JAX_"))},
        "devices": {"kind": devices[0].device_kind, "platform": devices[0].platform,
                    "count": len(devices), "processes": jax.process_count()},
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "seed": resolved["seed"],
        **extra,
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)


def write_json(path, value):
    """Writes JSON as a whole: a reader never sees part of a file."""
    paths.write_text(path, json.dumps(value, indent=2) + "\n")


def git(*arguments):
    """The output of a git command in this checkout, '' if it fails."""
    root = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ("git", *arguments), cwd=root, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip("\n")[:1_000_000] if done.returncode == 0 else ""
