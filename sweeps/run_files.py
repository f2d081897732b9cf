"""What a run directory says about its run: whether it has finished, its progress and its scores.

The state of a sweep is read from here, so that nothing is lost with the program that ran it.
"""

import json
import math
import re

from training import logs, paths, run_directory
from training.replicas import FAILED

STEP = re.compile(r"^step\s+([\d,]+)/([\d,]+)\s+(.*)$")
# A metric whose last word has one of these is better when it is lower.
LOWER = ("loss", "perplexity", "error", "mse", "mae", "rmse", "entropy")


def is_finished(folder, program):
    """Whether the run in a directory has ended with its scores."""
    folder = paths.of(folder)
    if program == "finetune.py":
        return (folder / "scores.json").exists()
    total = paths.read_object(folder / "manifest.json").get("total_steps")
    if not total:
        return False
    if (folder / "checkpoints" / str(total)).exists():
        return True
    config = paths.read_object(folder / "config.json").get("config", {})
    keeps = config.get("checkpoint", {}).get("every") != "never"
    return not keeps and last_step(folder) == total


def failed_update(folder):
    """The update of a replica that was not finite, None if there was none."""
    found = paths.read_object(paths.of(folder) / FAILED)
    return found.get("update")


def is_started(folder):
    """Whether the directory holds updates of a run."""
    return paths.of(folder).exists() and run_directory.is_started(folder)


def last_step(folder):
    """The step of the newest line of metrics or checkpoint, 0 for none."""
    steps = [line["step"] for line in _lines(folder, "train")]
    return max([*steps[-1:], run_directory.newest_checkpoint(folder), 0])


def total_steps(folder):
    """The length of a run that has started, 0 for another."""
    return paths.read_object(paths.of(folder) / "manifest.json").get("total_steps", 0)


def best_metric(folder, program):
    """'+accuracy' or '-loss': the validation metric of the task, '' if the run has not started."""
    if program == "train.py":
        return "-loss"
    return paths.read_object(paths.of(folder) / "manifest.json").get("best_metric", "")


def scores(folder, program):
    """{'validation/loss': value, ...} of a finished run."""
    folder = paths.of(folder)
    if program == "finetune.py":
        found = paths.read_object(folder / "scores.json").items()
        return {k: v for k, v in found if isinstance(v, (int, float)) and k != "step"}
    found = {}
    for split in ("train", "validation"):
        values = {k: v for k, v in logs.last_metrics(folder, split).items() if k != "learning_rate"}
        found |= {f"{split}/{name}": value for name, value in values.items()}
    return {k: v for k, v in found.items() if isinstance(v, (int, float))}


def quantities(folder):
    """{'steps', 'tokens', 'parameters' (without embeddings), 'flops', 'targets'} of a whole run, by which
    runs are compared at equal cost: those that its manifest says."""
    found = paths.read_object(paths.of(folder) / "manifest.json")
    steps = found.get("total_steps", 0)
    named = {"steps": steps, "parameters": found.get("parameters", {}).get("non_embedding", 0)}
    for name in ("tokens", "flops", "targets"):
        named[name] = steps * found.get(f"{name}_per_step", 0)
    return {name: value for name, value in named.items() if value}


def score_at(folder, metric, step):
    """(step, value) of the newest evaluation of 'validation/NAME' after step 0 and up to `step`, or None."""
    split, _, name = metric.partition("/")
    found = [
        (line["step"], line[name])
        for line in _lines(folder, split)
        if 0 < line["step"] <= step and isinstance(line.get(name), (int, float))
    ]
    return found[-1] if found else None


def sign_of(metric, best):
    """1.0 if higher is better, -1.0 otherwise; best: the best_metric of the task."""
    if metric.rpartition("/")[2] == best[1:]:
        return -1.0 if best[0] == "-" else 1.0
    words = re.split(r"[^a-z]+", metric.rpartition("/")[2].lower())
    return -1.0 if set(words) & set(LOWER) else 1.0


def progress(log_file):
    """(step, total, 'loss 1.2  3,000 tok/s  eta 0:01:00') of the newest line of a run's log, or None."""
    for line in reversed(tail(log_file, 8192)):
        if found := STEP.match(line):
            step, total = (int(found[n].replace(",", "")) for n in (1, 2))
            return step, total, " ".join(found[3].split())
    return None


def tail(file, size=4096):
    """The last lines of a text file, [] if there is none."""
    try:
        with open(file, "rb") as opened:
            opened.seek(0, 2)
            opened.seek(max(0, opened.tell() - size))
            text = opened.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def last_words(file):
    """Why a run failed, from its log: its line 'error: ...', or its last three lines."""
    lines = tail(file)
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1:] or lines[-3:]


def _lines(folder, split):
    """The lines of a split in metrics.jsonl, without those that are cut off."""
    path = paths.of(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    from training import metric_writer

    text = metric_writer.lines_up_to(path, math.inf)
    return [line for line in map(json.loads, text.splitlines()) if line.get("split") == split]
