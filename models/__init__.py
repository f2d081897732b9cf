"""Models: from `ModelInputs` to hidden states, and the LM head that turns these into logits.
`build(ModelConfig)` returns a `Transformer` (one of three architectures) or `WordVectors`.
This package imports no other package of the project.
"""

from models.config import ModelConfig
from models.inputs import ModelInputs, make_attention_mask, make_inputs
from models.model import Transformer
from models.presets import PRESETS, preset, size_fields
from models.word_vectors import WordVectors

__all__ = [
    "PRESETS",
    "ModelConfig",
    "ModelInputs",
    "Transformer",
    "WordVectors",
    "build",
    "make_attention_mask",
    "make_inputs",
    "preset",
    "size_fields",
]


def build(config: ModelConfig) -> Transformer | WordVectors:
    """The model of a config. Parameters: model.init(rng, inputs, method='init_all')."""
    if not config.vocab_size or not config.max_length:
        raise ValueError(
            f"model.vocab_size={config.vocab_size} and model.max_length={config.max_length}: "
            "expected both above 0; call models.config.complete_config first"
        )
    return WordVectors(config) if config.architecture == "embeddings" else Transformer(config)
