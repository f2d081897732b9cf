"""Makes any shipped config small, points it at text and labels written by the test, and reads runs."""

import json
import pathlib

import jax
import ml_collections
import numpy as np

import models
from data import tokenizer as tokenizers
from models.config import ModelConfig, complete_config
from training import checkpoint, run_directory
from training import config as config_lib
from training.param_rules import flatten_params, unflatten_params

WORDS = """
the a of to in and is that it was for on are with as this be by at from or an have not they which you
one had but all were when we there can more if would who about up out so said what river stone light
water harbor garden letter window music winter summer forest mountain city
""".split()  # noqa: SIM905  one word per line would be no easier to read


def corpus(folder, documents=300, seed=0):
    """Writes documents of a random word chain to `folder`/corpus.txt; returns its glob."""
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


def labeled(folder, rows=120, pairs=False):
    """Writes {train,validation,test}.tsv whose label is the presence of a word; returns the source.

    Without pairs there are columns for other tasks too: a value, several labels, and two choices."""
    random = np.random.default_rng(1)
    for split in ("train", "validation", "test"):
        lines = (
            ["sentence\tother\tlabel"]
            if pairs
            else ["sentence\tlabel\tvalue\tlabels\tfirst\tsecond\tchoice"]
        )
        for _ in range(rows):
            words = [WORDS[i] for i in random.integers(0, len(WORDS), 12)]
            label = bool(random.integers(2))
            words = [w for w in words if w != "river"] + (["river"] if label else [])
            random.shuffle(words)
            label = "wet" if label else "dry"
            half = len(words) // 2
            if pairs:
                cells = [" ".join(words[:half]), " ".join(words[half:]), label]
            else:
                length = len(words[0])
                several = f"{label},long" if length > 4 else label
                cells = [" ".join(words), label, f"{length / 2}", several, "sun", "rain"]
                cells.append(str(int(label == "wet")))
            lines.append("\t".join(cells))
        text = "\n".join(lines) + "\n"
        (pathlib.Path(folder) / f"{split}.tsv").write_text(text, encoding="utf-8")
    return f"files:{folder}/{{train,validation,test}}.tsv"


def tagged(folder, rows=60):
    """Writes {train,validation,test}.conll whose tags follow from the words; returns the source."""
    random = np.random.default_rng(3)
    for split in ("train", "validation", "test"):
        lines = []
        for _ in range(rows):
            words = [WORDS[i] for i in random.integers(0, len(WORDS), random.integers(3, 30))]
            lines += [f"{word} {'B-LONG' if len(word) > 4 else 'O'}" for word in words] + [""]
        (pathlib.Path(folder) / f"{split}.conll").write_text("\n".join(lines), encoding="utf-8")
    return f"files:{folder}/{{train,validation,test}}.conll"


def questions(folder, rows=24, splits=("train", "dev", "test")):
    """Writes SQuAD files, {split}-v2.0.json, whose answer is the word after the question's; a fourth of the
    questions has none. Returns the source."""
    random = np.random.default_rng(2)
    for split in splits:
        paragraphs = []
        for number in range(rows):
            words = [WORDS[i] for i in random.permutation(len(WORDS))[: 12 + number % 20]]
            at = int(random.integers(len(words) - 1))
            answer = {"text": words[at + 1], "answer_start": len(" ".join(words[: at + 1])) + 1}
            question = {"id": f"{split}{number}", "question": f"what follows {words[at]}?",
                        "answers": [answer] if number % 4 else []}  # fmt: skip
            paragraphs.append({"context": " ".join(words), "qas": [question]})
        content = {"version": "v2.0", "data": [{"title": "x", "paragraphs": paragraphs}]}
        (pathlib.Path(folder) / f"{split}-v2.0.json").write_text(json.dumps(content))
    return f"files:{folder}/{{{','.join(splits)}}}-v2.0.json"


# The fields that every tiny run shares.
LOOP = {
    "training.duration": "2 steps", "training.batch_size": 8, "checkpoint.every": "1 steps",
    "logging.every": "1 step", "logging.tensorboard": False,
}  # fmt: skip


def pretraining(folder, config="configs/decoder.py", **overrides):
    """A shipped pretraining config with a tiny model, batch and corpus.

    Args:
      folder: where corpus.txt and the caches go.
      config: `file.py[:arg]`.
      **overrides: dotted keys with '__' for the dot, such as training__duration='4 steps'.
    """
    source = f"text:{folder}/corpus.txt"
    if not (pathlib.Path(folder) / "corpus.txt").exists():
        corpus(folder)
    tiny = {
        **LOOP, "model.num_layers": 1, "model.emb_dim": 32, "model.num_heads": 2, "model.mlp_dim": 64,
        "data.source": source, "data.cache_dir": f"{folder}/cache", "data.workers": 1,
        "data.validation_fraction": 0.1, "tokenizer.vocab_size": 512, "training.seq_len": 32,
        "optimizer.warmup": "1 step", "evaluation.num_batches": 2, "evaluation.every": "never",
    }  # fmt: skip
    return _overridden(config, tiny, overrides)


def untrained(folder, architecture):
    """Writes a run of a tiny model with random parameters and a word-level tokenizer; returns its path."""
    run, tokenizer = pathlib.Path(folder), tokenizers.of_words((*WORDS, "dry", "wet"))
    model = ModelConfig(
        architecture=architecture, num_layers=1, emb_dim=32, num_heads=2, mlp_dim=64
    )
    model = complete_config(model, tokenizer.size, 64)
    tokens, mask = np.ones((1, 4), np.int32), np.ones((1, 4), np.int32)
    inputs = [models.make_inputs(tokens, mask, "bidirectional"), None]
    if architecture == "encoder_decoder":
        inputs[1] = models.make_inputs(tokens, mask, "causal")
    params = models.build(model).init(jax.random.key(0), *inputs)["params"]
    run.mkdir(parents=True)
    checkpoint.write_params(run, 0, jax.tree.map(np.asarray, params))
    tokenizer.save(run / "tokenizer.json")
    run_directory.write_config(run, {"seed": {}}, "pretrain", model)
    run_directory.write_manifest(run, {"seed": {}}, {"tokenizer": tokenizer.fingerprint})
    return run


# Config file of a task -> its fields for the files of `labeled`.
TASK_FIELDS = {
    "classification": {"task.text_column": "sentence", "task.label_column": "label"},
    "ag_news": {"task.text_column": "sentence", "task.text_pair_column": "label"},
    "imdb": {"task.text_column": "sentence"},
    "regression": {"task.text_column": "sentence", "task.label_column": "value"},
    "multi_label": {"task.text_column": "sentence", "task.label_column": "labels",
                    "task.label_separator": ","},
    "multiple_choice": {"task.text_column": "sentence", "task.choice_columns": "('first', 'second')",
                        "task.label_column": "choice"},
    "text_to_text": {"task.text_column": "sentence", "task.label_column": "label"},
    "seq2seq": {"task.source_column": "sentence", "task.target_column": "label",
                "task.max_target_len": 8, "task.num_generated": 2},
}  # fmt: skip


def finetuning(folder, run, config="configs/finetune/classification.py", **overrides):
    """A shipped finetuning config on `run`, with labels written to `folder`."""
    name = pathlib.Path(config.partition(":")[0]).stem
    data = DATA.get(name, classes)(folder)
    if name not in DATA:
        data |= TASK_FIELDS.get(name, TASK_FIELDS["classification"])
    tiny = {**LOOP, "init_from": str(run), "evaluation.every": "1 step", **data}
    return _overridden(config, tiny, overrides)


def classes(folder):
    """The task's fields for the files that `labeled` writes to `folder`, without the columns."""
    if not (pathlib.Path(folder) / "train.tsv").exists():
        labeled(folder)
    return {
        "task.source": f"files:{folder}/{{train,validation,test}}.tsv", "task.max_seq_len": 24
    }  # fmt: skip


def tags(folder):
    """The task's fields for the sentences that `tagged` writes to `folder`."""
    return {"task.source": tagged(folder), "task.max_seq_len": 24}


def spans(folder):
    """The task's fields for the questions that `questions` writes to `folder`."""
    return {
        "task.source": questions(folder), "task.no_answer": True, "task.max_seq_len": 32,
        "task.max_query_len": 8, "task.stride": 8,
    }  # fmt: skip


# Config file of a task: the function that writes its data; by default `classes`.
DATA = {"question_answering": spans, "tagging": tags}


def _overridden(config, tiny, overrides):
    tiny = tiny | {key.replace("__", "."): value for key, value in overrides.items()}
    given = config_lib.override(config_lib.load_config_file(config), tiny.items())
    return ml_collections.ConfigDict(given.to_dict(), type_safe=False)


def flags(config):
    """The fields of a config as command-line flags."""
    return [
        f"--config.{key}={value}" for key, value in config_lib.flatten(config.to_dict()).items()
    ]


def metrics(run):
    """The lines of metrics.jsonl without throughput."""
    lines = (pathlib.Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["split"] != "throughput"]


def read_params(run, step, use_ema=True):
    """{path: array} of a checkpoint."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for path, leaf in checkpoint.params_metadata(run, step).items()
    }
    tree = unflatten_params(target)
    params = checkpoint.read_params(pathlib.Path(run) / "checkpoints", step, tree, use_ema)
    return flatten_params(jax.device_get(params))
