"""Generation: prompts of tokens -> generated tokens, with the language-modeling head of a model.
`generate` is the one entry. Text belongs to tools/ and tasks/, which make the prompts.
This package imports models/ and data.special_tokens.
"""

from generation.config import GenerationConfig, GenerationError
from generation.generate import generate
from generation.prompts import Generated, Prompt

__all__ = ["Generated", "GenerationConfig", "GenerationError", "Prompt", "generate"]
