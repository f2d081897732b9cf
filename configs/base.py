"""What the shipped configs share: the argument's grammar, the common network, the common recipe."""

import ml_collections

from models.config import sized


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
