"""What the shipped configs share: the argument's grammar, the networks, the common recipe."""

import ml_collections

from models import presets

# (architecture, arm, labels (0: any other), learning rate) of the studies: found by studies.tune with the
# plan of configs/studies/study.py (docs/log.md).
RATES = (
    ("encoder", "none", 0, 3e-4),
    ("encoder", "none", 2000, 3e-4),
    ("encoder", "embeddings", 0, 3e-4),
    ("encoder", "embeddings", 2000, 1e-3),
    ("encoder", "all", 0, 1e-3),
    ("encoder", "all", 2000, 1e-3),
    ("decoder", "none", 0, 3e-4),
    ("decoder", "none", 2000, 1e-3),
    ("decoder", "embeddings", 0, 3e-4),
    ("decoder", "embeddings", 2000, 3e-4),
    ("decoder", "all", 0, 1e-3),
    ("decoder", "all", 2000, 1e-3),
    ("encoder_decoder", "none", 0, 3e-4),
    ("encoder_decoder", "none", 2000, 1e-4),
    ("encoder_decoder", "embeddings", 0, 3e-4),
    ("encoder_decoder", "embeddings", 2000, 3e-3),
    ("encoder_decoder", "all", 0, 1e-3),
    ("encoder_decoder", "all", 2000, 1e-3),
)


def parse(arg, **defaults):
    """'size=small,objective=prefix_lm' -> the defaults with these replaced; unknown names refused."""
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, equals, value = part.partition("=")
        if name not in defaults or not equals:
            raise ValueError(
                f"argument {part!r}: expected NAME=VALUE with a name of {sorted(defaults)}"
            )
        values[name] = value
    return values


RECIPES = ("classic", "modern")


def network(architecture, size="", recipe="classic", preset=""):
    """The ModelConfig fields of a size by a recipe, or those of a published network.

    classic: pre-norm blocks as GPT-2's, with rotary positions and an output bias; modern: that of
    models.presets.modern.
    """
    if preset and (size or recipe != "classic"):
        raise ValueError(
            f"preset={preset} is a whole network: leave out size and recipe, or take "
            f"size={size or 'mini'},recipe={recipe} without a preset"
        )
    if recipe not in RECIPES:
        raise ValueError(f"recipe={recipe} is unknown: expected one of {', '.join(RECIPES)}")
    if preset:
        return presets.preset(preset, architecture)
    fields = {"architecture": architecture, "positions": "rotary", "output_bias": True}
    fields |= presets.sized(size or "mini")
    return presets.modern(fields) if recipe == "modern" else fields


def pretraining(architecture, objective, arg, **hyperparameters):
    """What all three architectures share, so that they can be compared: text, length, AdamW with a
    cosine to a tenth. `arg`: size=, recipe=, preset=, objective=, as the config files say; an
    objective that it names has its own values, without one it is `objective` with `hyperparameters`.

    A preset brings the size of its vocabulary along, for the tokenizer that is trained here.
    """
    arg = parse(arg, size="", recipe="classic", preset="", objective="")
    named = arg.pop("objective")
    config = ml_collections.ConfigDict()
    config.model = {"dropout": 0.0, **network(architecture, **arg)}
    config.objective = {"name": named} if named else {"name": objective, **hyperparameters}
    config.data = {"source": "python_docs"}
    config.tokenizer = {"kind": "bpe", "vocab_size": config.model.get("vocab_size", 4096)}
    config.training = {"duration": "2000 steps", "batch_size": 32, "length": 128}
    config.optimizer = {"name": "adamw", "learning_rate": 2e-3, "schedule": "cosine"}
    config.optimizer.warmup = "6 %"
    if arg["recipe"] == "modern":
        config.objective.z_loss = 1e-4
    return config


def plan(title, finetuning, **values):
    """What all plans of studies share, so that they can be compared: finetuning runs looked at four
    times, judged by their end and not kept; five paired seeds, and rates tuned with another one."""
    config = ml_collections.ConfigDict()
    config.title = title
    config.finetune = (
        f"training.duration={finetuning}",
        "evaluation.every=25 %",
        "evaluation.select=last",
        "checkpoint.every=never",
        "logging.tensorboard=false",
    )
    config.seeds = (0, 1, 2, 3, 4)
    config.tune_seeds = (1000,)
    config.update(values)
    return config
