"""Models: from `ModelInputs` to hidden states, and the LM head that turns these into logits.
`build(ModelConfig)` returns a `Transformer` (one of three architectures) or `WordVectors`.
This package imports no other package of the project.
"""

from models.adapted_model import ADAPTERS, AdaptedModel
from models.adapters import Adapter
from models.attention_kernels import describe_attention
from models.cache import Cache, decode_step, prefill
from models.config import ModelConfig
from models.inputs import ModelInputs, make_attention_mask, make_inputs
from models.layer_loop import LayerLoop
from models.model import Transformer
from models.presets import PRESETS, preset, size_fields
from models.word_vectors import WordVectors

__all__ = [
    "ADAPTERS",
    "PRESETS",
    "AdaptedModel",
    "Adapter",
    "Cache",
    "LayerLoop",
    "ModelConfig",
    "ModelInputs",
    "Transformer",
    "WordVectors",
    "build",
    "decode_step",
    "describe_attention",
    "make_attention_mask",
    "make_inputs",
    "prefill",
    "preset",
    "size_fields",
]


def build(
    config: ModelConfig, adapter: Adapter | None = None, loop: LayerLoop | None = None
) -> Transformer | WordVectors | AdaptedModel:
    """The model of a config. Parameters: model.init(rng, inputs, method='init_all').

    With an adapter, `apply` computes with params['adapter'] too."""
    if not config.vocab_size or not config.max_length:
        raise ValueError(
            f"model.vocab_size={config.vocab_size} and model.max_length={config.max_length}: "
            "expected both above 0; call models.config.complete_config first"
        )
    model = Transformer(config, loop or LayerLoop())
    if config.architecture == "embeddings":
        model = WordVectors(config)
    return model if adapter is None or adapter.name == "none" else AdaptedModel(model, adapter)
