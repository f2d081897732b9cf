"""Tiny sequence-to-sequence tasks of word-level pairs, with untrained models."""

import functools
import json

import labeled_tasks
import numpy as np
from labeled_tasks import WORDS

import models
from data import tokenizer as tokenizers
from training import config as config_lib
from training.schema import FinetuneConfig

MODELS = ("causal", "prefix", "encoder_decoder")  # decoders by their attention


def tokenizer_folder(folder):
    """Writes the tokenizer of WORDS to a folder and returns it."""
    tokenizers.of_words(WORDS).save(folder / "tokenizer.json")
    return folder


def load(folder, kind, splits, batch=(4, 4), model_fields=(), process=(0, 1), log=None, **options):
    """The task of {split: (sources, targets or None)}."""
    for split, (sources, targets) in splits.items():
        rows = [{"source": text} for text in sources]
        for row, target in zip(rows, targets or [], strict=bool(targets)):
            row["target"] = target
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ",".join(f"{split}.jsonl" for split in splits)
    options = {"max_seq_len": 8, "max_target_len": 6, **options}
    architecture = "encoder_decoder" if kind == "encoder_decoder" else "decoder"
    if kind == "prefix":
        options["attention"] = "prefix"
    config = config_lib.resolve(FinetuneConfig, {
        "init_from": "unused",
        "task": {"name": "seq2seq", "source": f"files:{folder}/{{{files},}}", **options},
        "training": {"batch_size": batch[0]}, "evaluation": {"batch_size": batch[1]},
    })  # fmt: skip
    model = models.ModelConfig(**{
        "architecture": architecture, "num_layers": 1, "emb_dim": 16, "num_heads": 2, "mlp_dim": 32,
        "vocab_size": 143, "max_length": 32, "dropout_rate": 0.1, "init_std": 0.3,
        "lm_head_bias": True, **dict(model_fields),
    })  # fmt: skip
    config.task.load_without_data(config, model, "")
    return config.task.load(
        config, model, folder / "tokenizer.json", log or (lambda line: None),
        process_index=process[0], process_count=process[1],
    )  # fmt: skip


@functools.cache
def trained_on(folder, kind, smoothing=0.0):
    """(task, model, params): 64 pairs whose target is the source, and 11 for validation."""
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(WORDS[:8], random.integers(1, 4))) for _ in range(75)]
    splits = {"train": (texts[:64], texts[:64]), "validation": (texts[64:], texts[64:])}
    task = load(folder, kind, splits, (16, 16), label_smoothing=smoothing)
    return task, *labeled_tasks.start(task)
