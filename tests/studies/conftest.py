"""Stand-ins for train.run and finetune.run that leave behind what the real ones leave behind.

The fixtures of tests/studies/; no model is trained, so that a whole study takes a second.
"""

import json
import math
import pathlib
import zlib

import numpy as np
import pytest

from studies.config import StudyConfig
from studies.labels import Labels
from training.run_directory import Result

GAIN = {"none": 0.0, "embeddings": 0.06, "all": 0.19}
EASE = {"encoder": 0.05, "decoder": 0.0, "encoder_decoder": -0.03}
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
    """Counts what was run; `fail_at` makes the n-th finetuning run die, as an interruption would."""

    def __init__(self, fail_at=0):
        self.pretrained, self.finetuned, self.fail_at = [], [], fail_at

    def pretrain(self, config, workdir):
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True)
        self.pretrained.append(config.model.architecture)
        (folder / "manifest.json").write_text(json.dumps(MANIFEST))
        name = config.objective["name"]
        (folder / "config.json").write_text(json.dumps({"config": {"objective": {"name": name}}}))
        with open(folder / "metrics.jsonl", "w") as file:
            for step in range(1, 1001):
                loss = 3.5 + 3.2 * math.exp(-step / 200) + 0.1 * math.sin(step)
                file.write(json.dumps({"step": step, "split": "train", "loss": loss}) + "\n")
                if step % 100 == 0:
                    line = {"step": step, "split": "validation", "loss": loss + 0.1}
                    file.write(json.dumps(line) + "\n")
        return Result(1000, {}, str(folder))

    def finetune(self, config, workdir):
        self.finetuned.append(config)
        if len(self.finetuned) == self.fail_at:
            raise KeyboardInterrupt
        folder = pathlib.Path(workdir)
        (folder / "checkpoints" / "1").mkdir(parents=True)
        architecture = pathlib.Path(config.init_from).name
        words = f"{architecture}{config.transfer}{config.task.examples}{config.seed.order}"
        noise = np.random.default_rng(zlib.crc32(words.encode())).normal(0, 0.012)
        pair = np.random.default_rng(config.seed.order).normal(0, 0.02)
        test = 0.05 + 0.24 * math.log10(config.task.examples / 20) + EASE[architecture] + noise
        test += pair + GAIN[config.transfer] * min(1, 200 / config.task.examples + 0.4)
        with open(folder / "metrics.jsonl", "w") as file:
            for step in range(0, 401, 50):
                value = max(0.05, test * (1 - math.exp(-step / 120)) + 0.004 * math.sin(step))
                lines = {"step": step, "split": "validation", "accuracy": value}
                loss = {"step": step, "split": "train", "loss": 3.0 - 3 * value}
                file.write(json.dumps(lines) + "\n" + json.dumps(loss) + "\n")
        return Result(400, {"validation/accuracy": test + 0.01, "test/accuracy": test}, str(folder))


OBJECTIVES = {
    "encoder": "masked_lm",
    "decoder": "causal_lm",
    "encoder_decoder": "span_corruption",
}


@pytest.fixture(scope="session")
def fakes():
    """A maker of Fakes."""
    return Fakes


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    """A maker of StudyConfigs whose run configs lie in a folder of the tests."""
    folder = tmp_path_factory.mktemp("configs")
    for architecture, objective in OBJECTIVES.items():
        config = {"model": {"architecture": architecture}, "objective": {"name": objective}}
        (folder / f"{architecture}.py").write_text(
            f"import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n"
        )
    (folder / "finetune.py").write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )

    def make(**fields):
        rates = tuple((name, arm, 0, 1e-3) for name in OBJECTIVES for arm in GAIN)
        return StudyConfig(
            **{
                "pretrain_config": str(folder / "{architecture}.py"),
                "finetune_config": str(folder / "finetune.py"),
                "budgets": (20, 200),
                "seeds": (0, 1, 2),
                "rates": rates,
                **fields,
            }
        )

    return make


@pytest.fixture(scope="session")
def labelled():
    """Texts whose label is one of their words, as studies.labels gives them."""
    rng = np.random.default_rng(0)
    classes = ["json", "email", "asyncio", "xml"]
    filler = ["read", "the", "value", "of", "a", "file", "error", "return", "bytes"]

    def split(count):
        labels = [classes[i] for i in rng.integers(0, len(classes), count)]
        return [" ".join([*rng.choice(filler, 6), label]) for label in labels], labels

    def subset(labels, budget, seed):
        return np.random.default_rng(seed).permutation(len(labels))[:budget]

    return Labels(split(300), split(100), split(200), subset)
