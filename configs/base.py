"""The common parts of the shipped configs: their argument, the models, the pretraining recipe, the tuned
learning rates.

Every file in configs/ calls it; it reads models/presets.py.
"""

import ml_collections

from models import presets
from sweeps import finetune, fixed, grid

# (architecture, init, labels (0: any other number), learning rate) of configs/sweeps/three_ways.py, found
# by its argument preset=study,tune=1 (docs/log.md).
LEARNING_RATES = (
    ("encoder", "random", 0, 3e-4),
    ("encoder", "random", 2000, 3e-4),
    ("encoder", "embeddings", 0, 3e-4),
    ("encoder", "embeddings", 2000, 1e-3),
    ("encoder", "pretrained", 0, 1e-3),
    ("encoder", "pretrained", 2000, 1e-3),
    ("decoder", "random", 0, 3e-4),
    ("decoder", "random", 2000, 1e-3),
    ("decoder", "embeddings", 0, 3e-4),
    ("decoder", "embeddings", 2000, 3e-4),
    ("decoder", "pretrained", 0, 1e-3),
    ("decoder", "pretrained", 2000, 1e-3),
    ("encoder_decoder", "random", 0, 3e-4),
    ("encoder_decoder", "random", 2000, 1e-4),
    ("encoder_decoder", "embeddings", 0, 3e-4),
    ("encoder_decoder", "embeddings", 2000, 3e-3),
    ("encoder_decoder", "pretrained", 0, 1e-3),
    ("encoder_decoder", "pretrained", 2000, 1e-3),
)


def learning_rate(architecture, init, labels):
    """The tuned learning rate of finetuning, of this number of labels or of any other number."""
    tuned = {row[:3]: row[3] for row in LEARNING_RATES}
    return tuned.get((architecture, init, labels), tuned[architecture, init, 0])


def parse(arg, **defaults):
    """'size=small,objective=prefix_lm' -> the defaults with these replaced.

    Raises ValueError for a name that is not in the defaults.
    """
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, equals, value = part.partition("=")
        if name not in defaults or not equals:
            raise ValueError(
                f"argument {part!r}: expected NAME=VALUE with NAME one of {', '.join(defaults)}"
            )
        values[name] = value
    return values


def parse_preset(arg, presets, **defaults):
    """`parse` with an argument `preset`, the name of more defaults; without it, the first of `presets`."""
    named = [part.partition("=")[2] for part in arg.split(",") if part.startswith("preset=")]
    name = named[-1] if named else next(iter(presets))
    if name not in presets:
        raise ValueError(f"argument 'preset={name}': expected one of {', '.join(presets)}")
    return parse(arg, preset=name, **defaults, **presets[name])


def short_finetuning(duration):
    """The fields of the many short finetuning runs of a sweep: four evaluations, the last step is scored,
    no checkpoint is kept. duration: such as '200_steps'; '' keeps the duration of the config file."""
    length = {"training.duration": duration.replace("_", " ")} if duration else {}
    return {
        **length, "evaluation.every": "25 %", "evaluation.select": "last", "checkpoint.every": "never",
        "logging.tensorboard": False,
    }  # fmt: skip


def tuned_finetuning(given, init_from):
    """The sweep stage that finetunes the runs of another one: three learning rates, for `tuned=["lr"]`, and
    several seeds. given: the arguments finetuning, labels and seeds of a sweep file, and config, the file
    of another task."""
    return finetune(
        given.get("config", "configs/finetune/classification.py"),
        fixed(short_finetuning(given["finetuning"]))
        * fixed(task__num_train_examples=int(given["labels"]))
        * grid(lr=[3e-4, 1e-3, 3e-3], seed=range(int(given["seeds"]))),
        init_from=init_from,
    )


def model_fields(architecture, size="", recipe="", preset=""):
    """The ModelConfig fields of a size with a recipe, or of a published model; default: a classic mini."""
    if preset and (size or recipe):
        raise ValueError(
            f"preset={preset} defines the whole model: expected neither size nor recipe; leave out "
            f"{'size=' + size if size else 'recipe=' + recipe}, or preset"
        )
    if preset:
        return presets.preset(preset, architecture)
    fields = {"architecture": architecture, **presets.size_fields(size or "mini")}
    return presets.recipe(recipe or "classic", fields)


def pretraining(architecture, objective, arg, **hyperparameters):
    """The config that all three architectures share, so that their runs are comparable: same text,
    sequence length and optimizer (AdamW with a cosine schedule).

    `arg` is the argument of the config file (size, recipe, preset, objective). If it names an
    objective, that one runs with its own defaults, otherwise `objective` with `hyperparameters`. A
    preset also sets the vocabulary size of the tokenizer, which is trained on the run's text.
    """
    arg = parse(arg, size="", recipe="", preset="", objective="")
    named = arg.pop("objective")
    config = ml_collections.ConfigDict()
    config.model = {"dropout_rate": 0.0, **model_fields(architecture, **arg)}
    config.objective = {"name": named} if named else {"name": objective, **hyperparameters}
    config.data = {"source": "python_docs"}
    config.tokenizer = {"type": "bpe", "vocab_size": config.model.get("vocab_size", 4096)}
    config.training = {"duration": "2000 steps", "batch_size": 32, "seq_len": 128}
    config.optimizer = {"name": "adamw", "learning_rate": 2e-3, "schedule": "cosine"}
    config.optimizer.warmup = "6 %"
    if arg["recipe"] == "modern":
        config.objective.z_loss = 1e-4
    return config
