"""Generation: prompts of tokens -> generated tokens, with the language-modeling head of a model.
`generate` continues a text, `fill` fills its masks. Text belongs to tools/ and tasks/.
This package imports models/ and data.special_tokens.
"""

from generation.config import GenerationConfig, GenerationError
from generation.generate import generate
from generation.mask_filling import (
    FillConfig,
    Filled,
    fill,
    longest_row,
    mask_positions,
    top_tokens,
)
from generation.prompts import Generated, Prompt

__all__ = [
    "FillConfig", "Filled", "Generated", "GenerationConfig", "GenerationError", "Prompt", "fill",
    "generate", "longest_row", "mask_positions", "top_tokens",
]  # fmt: skip
