"""The directory of a sweep whose programs never ran: this file writes what they would leave behind."""

import json
import math
import zlib

import numpy as np
import pytest

from data.examples import Examples
from sweeps import manifest, plan
from training import config as config_lib

GAIN = {"random": 0.0, "embeddings": 0.06, "pretrained": 0.19}
MANIFEST = {
    "commit": "0" * 40,
    "python": "3.11",
    "versions": {"jax": "0.10"},
    "devices": {"kind": "cpu", "platform": "cpu", "count": 1, "processes": 1},
    "cores": 2,
    "data": "fingerprint-of-data",
    "target_entropy": {"loss": 6.4},
    "total_steps": 100,
    "tokens_per_step": 4096,
    "targets_per_step": 640,
    "flops_per_step": 1.5e10,
    "parameters": {"non_embedding": 400_000},
}


def score(run):
    """Test accuracy of a finetuning run."""
    budget, seed = run.config["task"]["num_train_examples"], run.config["seed"]["data"]
    own = np.random.default_rng(zlib.crc32(run.folder.encode())).normal(0, 0.012)
    shared = np.random.default_rng(seed).normal(0, 0.02)
    gain = GAIN[run.config["init"]] * min(1, 200 / budget + 0.4)
    return 0.05 + 0.24 * math.log10(budget / 20) + own + shared + gain


def finish(folder, run):
    """Writes the files of a finished run."""
    folder.mkdir(parents=True)
    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(1, 101):
            loss = 3.5 + 3.2 * math.exp(-step / 20) + 0.1 * math.sin(step)
            lines = [{"split": "train", "loss": loss}]
            if step % 25 == 0:
                lines.append({"split": "validation", "loss": loss + 0.1, "accuracy": 1 / loss})
            file.writelines(json.dumps({"step": step, **line}) + "\n" for line in lines)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    if run.program == "finetune.py":
        accuracies = {"validation/accuracy": score(run) + 0.01, "test/accuracy": score(run)}
        (folder / "scores.json").write_text(json.dumps({"step": 100, **accuracies}))
    else:
        (folder / "checkpoints" / "100").mkdir(parents=True)


@pytest.fixture(scope="session")
def sweep_directory():
    """A function (folder, argument of the shipped sweep, which runs have finished, its name) that writes a
    sweep."""

    def make(folder, arg, is_finished=lambda run: True, name="three_ways"):
        file = f"configs/sweeps/{name}.py:{arg}"
        sweep = config_lib.load_config_file(file, "get_sweep")
        book = manifest.Manifest(folder)
        runs = plan.make_runs(sweep, book.known())
        folder.mkdir(exist_ok=True)
        book.plan(runs, manifest.head(sweep, file))
        for run in runs:
            if is_finished(run) and not (folder / run.folder).exists():
                finish(folder / run.folder, run)
        return folder

    return make


@pytest.fixture(scope="session")
def labeled():
    """Texts whose label is one of their words."""
    rng = np.random.default_rng(0)
    classes = ["json", "email", "asyncio", "xml"]
    filler = ["read", "the", "value", "of", "a", "file", "error", "return", "bytes"]

    def split(count):
        labels = [classes[i] for i in rng.integers(0, len(classes), count)]
        texts = [" ".join([*rng.choice(filler, 6), label]) for label in labels]
        return Examples({"text": texts, "label": labels})

    return {"train": split(300), "validation": split(100), "test": split(200)}
