"""Stand-ins for train.run and finetune.run that leave behind the same files; no model is trained."""

import json
import math
import pathlib
import zlib

import numpy as np
import pytest

from data.examples import Examples
from studies.config import StudyConfig
from training import config as configs
from training.run_directory import Result
from training.schema import FinetuneConfig

GAIN = {"random": 0.0, "embeddings": 0.06, "pretrained": 0.19}
EASE = {"encoder": 0.05, "decoder": 0.0, "encoder_decoder": -0.03}
OBJECTIVES = {
    "encoder": "masked_lm",
    "decoder": "causal_lm",
    "encoder_decoder": "span_corruption",
}
MANIFEST = {
    "command": ["python", "-m", "studies.three_ways", "--config=x.py"],
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


class Fakes:
    """Entry points that record the configs they get; `fail_at` interrupts the n-th finetuning run."""

    def __init__(self, fail_at=0):
        self.pretrained, self.finetuned, self.fail_at = [], [], fail_at

    def manifest(self, config):
        return MANIFEST

    def score(self, config):
        """Test accuracy of a finetuning run."""
        architecture = pathlib.Path(config.init_from).name
        budget, seed = config.task.num_train_examples, config.seed.data
        key = f"{architecture}{config.init}{budget}{seed}".encode()
        score = 0.05 + 0.24 * math.log10(budget / 20) + EASE[architecture]
        score += np.random.default_rng(zlib.crc32(key)).normal(0, 0.012)
        score += np.random.default_rng(seed).normal(0, 0.02)
        return score + GAIN[config.init] * min(1, 200 / budget + 0.4)

    def pretrain(self, config, workdir):
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True)
        self.pretrained.append(config)
        (folder / "manifest.json").write_text(json.dumps(self.manifest(config)))
        with open(folder / "metrics.jsonl", "w") as file:
            for step in range(1, 1001):
                loss = 3.5 + 3.2 * math.exp(-step / 200) + 0.1 * math.sin(step)
                file.write(json.dumps({"step": step, "split": "train", "loss": loss}) + "\n")
                if step % 100 == 0:
                    line = {"step": step, "split": "validation", "loss": loss + 0.1}
                    file.write(json.dumps(line) + "\n")
        return Result(1000, {}, workdir)

    def finetune(self, config, workdir):
        """One run, or one for each of `config.seeds` in a directory below."""
        resolved = configs.resolve(FinetuneConfig, config)
        for seed in resolved.seeds:
            alone = configs.override(config, [("seeds", ()), ("seed", seed)])
            self.finetune_one(configs.resolve(FinetuneConfig, alone), f"{workdir}/seed={seed}")
        if not resolved.seeds:
            self.finetune_one(resolved, workdir)

    def finetune_one(self, config, workdir):
        self.finetuned.append(config)
        if len(self.finetuned) == self.fail_at:
            raise KeyboardInterrupt
        folder, score = pathlib.Path(workdir), self.score(config)
        (folder / "checkpoints" / "1").mkdir(parents=True)
        with open(folder / "metrics.jsonl", "w") as file:
            for step in range(0, 401, 50):
                value = max(0.05, score * (1 - math.exp(-step / 120)) + 0.004 * math.sin(step))
                accuracy = {"step": step, "split": "validation", "accuracy": value}
                loss = {"step": step, "split": "train", "loss": 3.0 - 3 * value}
                file.write(json.dumps(accuracy) + "\n" + json.dumps(loss) + "\n")
        (folder / "scores.json").write_text(json.dumps({"step": 400, **self.scores(config)}))

    def scores(self, config):
        score = self.score(config)
        return {"validation/accuracy": score + 0.01, "test/accuracy": score}


@pytest.fixture(scope="session")
def fakes():
    """The class Fakes."""
    return Fakes


@pytest.fixture(scope="session")
def config_files(tmp_path_factory):
    """Folder of small config files: one per architecture, and finetune.py."""
    folder = tmp_path_factory.mktemp("configs")
    for architecture, objective in OBJECTIVES.items():
        config = {"model": {"architecture": architecture}, "objective": {"name": objective}}
        (folder / f"{architecture}.py").write_text(
            f"import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n"
        )
    (folder / "finetune.py").write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )

    return folder


@pytest.fixture(scope="session")
def settings(config_files):
    """A maker of StudyConfigs."""

    def make(**fields):
        rows = tuple((name, condition, 0, 1e-3) for name in OBJECTIVES for condition in GAIN)
        return StudyConfig(
            **{
                "pretrain_config": str(config_files / "{architecture}.py"),
                "finetune_config": str(config_files / "finetune.py"),
                "label_budgets": (20, 200),
                "seeds": (0, 1, 2),
                "learning_rates": rows,
                **fields,
            }
        )

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
