"""Models: what turns a `Sequence` of tokens into hidden states and into the parts of a score.
`build(ModelConfig)` gives a `Transformer` in one of three architectures, or `WordVectors`.
Imports nothing of ours but this room; knows no objective, no task and no mesh.
"""

from models.config import ModelConfig
from models.model import Transformer
from models.presets import PRESETS, preset, sized
from models.sequence import Sequence, allowed, sequence_of
from models.word_vectors import WordVectors

__all__ = [
    "PRESETS",
    "ModelConfig",
    "Sequence",
    "Transformer",
    "WordVectors",
    "allowed",
    "build",
    "preset",
    "sequence_of",
    "sized",
]


def build(config: ModelConfig) -> Transformer | WordVectors:
    """The network of a config. Parameters: model.init(key, inputs, method='initialise')."""
    if not config.vocab_size or not config.max_length:
        raise ValueError(
            "model.vocab_size or model.max_length is 0: fill them in with models.config.completed"
        )
    return WordVectors(config) if config.architecture == "embeddings" else Transformer(config)
