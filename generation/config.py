"""GenerationConfig: the options of generation, checked on construction.
Names and meanings are those of transformers' GenerationConfig.
"""

from dataclasses import dataclass

from models.config import option


class GenerationError(ValueError):
    """Options or prompts that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen. The defaults are greedy search."""

    max_new_tokens: int = option(64, "tokens generated after a prompt at most", min=1)
    min_new_tokens: int = option(0, "no end token before this many tokens", min=0)
    temperature: float = option(0.0, "sample from logits / temperature; 0: greedy", min=0.0)
    top_k: int = option(0, "sample from the k most likely tokens; 0: from all", min=0)
    top_p: float = option(1.0, "sample from the fewest tokens of this probability", max=1.0)
    min_p: float = option(
        0.0, "no token below this share of the likeliest's probability", min=0.0, max=1.0
    )
    typical_p: float = option(
        1.0, "as top_p, of the tokens whose information is closest to the entropy", max=1.0
    )
    repetition_penalty: float = option(
        1.0, "divides positive logits of tokens in the text (Keskar et al. 2019)"
    )
    no_repeat_ngram_size: int = option(0, "no n-gram of this size twice; 0: no limit", min=0)
    num_beams: int = option(1, "beams of beam search; 1: none", min=1)
    length_penalty: float = option(1.0, "beams are ranked by log-probability / length ** this")
    early_stopping: str = option(
        "false",
        "stop with num_beams finished ones (true), when none can improve by a heuristic (false), or never "
        "before none can improve at all (never)",
        choices=("false", "true", "never"),
    )
    num_return_sequences: int = option(
        1, "sequences per prompt, best score first: samples, or beams of the search", min=1
    )
    banned_tokens: tuple = option((), "ids that are never generated")
    logit_bias: tuple = option((), "(id, value) pairs: added to the logits of a token")
    seed: int = option(0, "of the samples; row i without a seed of its own has seed + i")
