"""One helper that makes any shipped config small and points it at text made here."""

import json
import pathlib

import ml_collections
import numpy as np

from training import config as configs

WORDS = """
the a of to in and is that it was for on are with as this be by at from or an have not they which you
one had but all were when we there can more if would who about up out so said what river stone light
water house garden letter window music winter summer forest mountain city
""".split()  # noqa: SIM905  eighty words, one a line, would be no easier to read


def corpus(folder, documents=300, seed=0):
    """Writes documents of a second-order word chain to `folder`/corpus.txt; returns its glob."""
    random = np.random.default_rng(seed)
    follow = random.integers(0, len(WORDS), (len(WORDS), 4))
    lines = []
    for _ in range(documents):
        word = int(random.integers(len(WORDS)))
        text = []
        for _ in range(int(random.integers(5, 60))):
            text.append(WORDS[word])
            word = int(follow[word, random.integers(4)])
        lines.append(" ".join(text) + ".")
    path = pathlib.Path(folder) / "corpus.txt"
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return f"text:{path}"


def labelled(folder, rows=120, pairs=False):
    """Writes {train,validation,test}.tsv whose label is the presence of a word; returns the source."""
    random = np.random.default_rng(1)
    for split in ("train", "validation", "test"):
        lines = ["sentence\tother\tlabel"] if pairs else ["sentence\tlabel"]
        for _ in range(rows):
            words = [WORDS[i] for i in random.integers(0, len(WORDS), 12)]
            label = bool(random.integers(2))
            words = [w for w in words if w != "river"] + (["river"] if label else [])
            random.shuffle(words)
            label = "wet" if label else "dry"
            half = len(words) // 2
            cells = [" ".join(words[:half]), " ".join(words[half:])] if pairs else [" ".join(words)]
            lines.append("\t".join([*cells, label]))
        (pathlib.Path(folder) / f"{split}.tsv").write_text(
            "\n".join(lines) + "\n", encoding="utf-8"
        )
    return f"files:{folder}/{{train,validation,test}}.tsv"


def pretraining(folder, config="configs/decoder.py", **overrides):
    """A shipped pretraining config with its network, batch and text made tiny.

    Args:
      folder: where corpus.txt and the caches go.
      config: `file.py[:arg]`.
      **overrides: dotted keys with '__' for the dot, such as training__duration='4 steps'.
    """
    source = f"text:{folder}/corpus.txt"
    if not (pathlib.Path(folder) / "corpus.txt").exists():
        corpus(folder)
    tiny = {
        "model.layers": 2, "model.width": 32, "model.heads": 2, "model.mlp_size": 64,
        "data.source": source, "data.cache_dir": f"{folder}/cache", "data.workers": 1,
        "data.validation_fraction": 0.1, "tokenizer.vocab_size": 512,
        "training.duration": "2 steps", "training.batch_size": 8, "training.length": 32,
        "optimizer.warmup": "1 step", "evaluation.batches": 2, "evaluation.every": "never",
        "checkpoint.every": "1 steps", "logging.every": "1 step", "logging.tensorboard": False,
    }  # fmt: skip
    tiny.update({key.replace("__", "."): value for key, value in overrides.items()})
    given = configs.override(configs.load_file(config), tiny.items())
    return ml_collections.ConfigDict(given.to_dict(), type_safe=False)


def finetuning(folder, run, config="configs/finetune/classification.py", **overrides):
    """The same for a finetuning config."""
    if not (pathlib.Path(folder) / "train.tsv").exists():
        labelled(folder)
    tiny = {
        "init_from": str(run), "task.source": f"files:{folder}/{{train,validation,test}}.tsv",
        "task.text": "sentence", "task.label": "label", "task.length": 24,
        "training.duration": "2 steps", "training.batch_size": 8, "evaluation.every": "1 step",
        "checkpoint.every": "1 step", "logging.every": "1 step", "logging.tensorboard": False,
    }  # fmt: skip
    tiny.update({key.replace("__", "."): value for key, value in overrides.items()})
    given = configs.override(configs.load_file(config), tiny.items())
    return ml_collections.ConfigDict(given.to_dict(), type_safe=False)


def flags(config):
    """The leaves of a config as words of a command line."""
    return [f"--config.{key}={value}" for key, value in configs.flatten(config.to_dict()).items()]


def metrics(run):
    """Lines of metrics.jsonl without timings."""
    lines = (pathlib.Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["split"] != "speed"]
