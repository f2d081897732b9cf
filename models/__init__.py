"""Models: what turns a `Sequence` of tokens into hidden states and into the parts of a score.
`build(ModelConfig)` gives the one network, `Transformer`, in its three architectures.
Imports nothing of ours but this room; knows no objective, no task and no mesh.
"""

from models.config import ModelConfig
from models.model import Transformer, build
from models.presets import PRESETS, preset, sized
from models.sequence import Sequence, allowed, sequence_of

__all__ = [
    "PRESETS",
    "ModelConfig",
    "Sequence",
    "Transformer",
    "allowed",
    "build",
    "preset",
    "sequence_of",
    "sized",
]
