"""What the shipped configs share: the argument's grammar, the common network, the common recipe."""

import ml_collections

from models.config import sized

# (architecture, arm, labels (0: any), learning rate) of the studies: found by studies.tune at 200 labels
# with the plan of configs/studies/study.py (docs/log.md).
RATES = (
    ("encoder", "none", 0, 3e-4),
    ("encoder", "embeddings", 0, 3e-4),
    ("encoder", "all", 0, 1e-3),
    ("decoder", "none", 0, 3e-4),
    ("decoder", "embeddings", 0, 3e-4),
    ("decoder", "all", 0, 1e-3),
    ("encoder_decoder", "none", 0, 3e-4),
    ("encoder_decoder", "embeddings", 0, 3e-4),
    ("encoder_decoder", "all", 0, 3e-3),
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


def pretraining(architecture, objective, size):
    """The recipe that all three architectures share, so that they can be compared.

    Pre-norm blocks with rotary positions and tied embeddings; AdamW with a cosine to a tenth.
    """
    config = ml_collections.ConfigDict()
    config.model = {
        "architecture": architecture,
        "positions": "rotary",
        "dropout": 0.0,
        **sized(size),
    }
    config.objective = {"name": objective}
    config.data = {"source": "python_docs"}
    config.tokenizer = {"kind": "bpe", "vocab_size": 4096}
    config.training = {"duration": "2000 steps", "batch_size": 32, "length": 128}
    config.optimizer = {"learning_rate": 2e-3, "schedule": "cosine", "warmup": "6 %"}
    return config
