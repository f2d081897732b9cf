"""Tiny labeled tasks for tests: a tokenizer of words, rows as JSON lines, a model of one layer."""

import functools
import json

import jax
import numpy as np
import optax

import models
from data import tokenizer as tokenizers
from training import config as config_lib
from training.schema import FinetuneConfig

PAD, CLS, SEP, EOS, START = 0, 2, 3, 4, 6
FIRST = 113  # the special tokens precede the words
WORDS = [f"w{n}" for n in range(30)]
LENGTH = 8
ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")


def ids(text):
    """The token ids of words."""
    return [FIRST + int(word[1:]) for word in text.split()]


def random_texts(count, seed=0, longest=6):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, longest + 1))) for _ in range(count)]


def model_config(architecture, **fields):
    sizes = {"num_layers": 1, "emb_dim": 16, "num_heads": 2, "mlp_dim": 32, "vocab_size": 143,
             "max_length": 8 * LENGTH, "dropout_rate": 0.1, "init_std": 0.3}  # fmt: skip
    return models.ModelConfig(architecture=architecture, **{**sizes, **fields})


def write(folder, splits):
    """Writes {split: rows} or {split: text of a .tsv file}; returns the source."""
    names = []
    for split, rows in splits.items():
        is_text = isinstance(rows, str)
        text = rows if is_text else "".join(json.dumps(row) + "\n" for row in rows)
        names.append(f"{split}.{'tsv' if is_text else 'jsonl'}")
        (folder / names[-1]).write_text(text, encoding="utf-8")
    return f"files:{folder}/{{{','.join(names)}}}"


def resolve(name, source, batch=(16, 16), **options):
    """The FinetuneConfig of a task; batch: sizes for training and evaluation."""
    return config_lib.resolve(FinetuneConfig, {
        "init_from": "unused", "task": {"name": name, "source": source, "max_seq_len": LENGTH, **options},
        "training": {"batch_size": batch[0]}, "evaluation": {"batch_size": batch[1]},
    })  # fmt: skip


def load(folder, name, model, splits, batch=(16, 16), process=(0, 1), **options):
    """The loaded task of {split: rows}; model: its architecture, or a ModelConfig."""
    tokenizers.of_words(WORDS).save(folder / "tokenizer.json")
    config = resolve(name, write(folder, splits), batch, **options)
    model = model_config(model) if isinstance(model, str) else model
    return config.task.load(
        config, model, folder / "tokenizer.json", lambda line: None,
        process_index=process[0], process_count=process[1],
    )  # fmt: skip


def start(task):
    """(model, random parameters) of a task."""
    model = models.build(task.model_config)
    rngs = {"init": jax.random.key(0), "head": jax.random.key(1)}
    return model, jax.jit(functools.partial(task.init, model=model))(rngs)


def computing(task, model):
    """Jitted (params, batch) -> (losses, outputs)."""
    return jax.jit(
        lambda params, batch: (
            task.losses(model, params, batch, None), task.outputs(model, params, batch)
        )
    )  # fmt: skip


def adam(task, model):
    """(Adam's state for the parameters, a jitted step (params, state, batch, rng) -> (loss, params, state,
    gradients)) that minimizes the task's loss."""
    tx = optax.adam(0.01)

    def mean(params, batch, rng):
        total, weight = task.losses(model, params, batch, rng)[task.name]
        return total / weight

    @jax.jit
    def step(params, state, batch, rng):
        loss, grads = jax.value_and_grad(mean)(params, batch, rng)
        updates, state = tx.update(grads, state)
        return loss, optax.apply_updates(params, updates), state, grads

    return tx.init, step
