"""GenerationConfig: the options of generation, checked on construction.
Names and meanings follow transformers' GenerationConfig.
"""

import math
from dataclasses import dataclass, fields

from models.config import option

SAMPLING = ("top_k", "top_p", "min_p", "typical_p")
BEAMS = ("length_penalty", "early_stopping")


class GenerationError(ValueError):
    """Options or prompts that cannot be used; the message is one line and says what to do."""


def check_ranges(config) -> None:
    """Raises GenerationError for a field of a dataclass that is not within the limits of its `option`."""
    for field in fields(config):
        value, limits = getattr(config, field.name), field.metadata
        ok = True
        if isinstance(value, int | float):
            low, high = limits.get("min", value), limits.get("max", value)
            ok = math.isfinite(value) and low <= value <= high
            ok = ok and value > limits.get("above", -math.inf)
        expected = [
            f"{word} {limits[key]}"
            for key, word in (("min", "at least"), ("above", "above"), ("max", "at most"))
            if key in limits
        ]
        if value not in limits.get("choices", (value,)):
            ok, expected = False, [f"one of {', '.join(limits['choices'])}"]
        if not ok:
            words = " and ".join(expected) or "a finite number"
            raise GenerationError(f"{field.name}={value!r}: expected {words}")


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen. The defaults are greedy search."""

    max_new_tokens: int = option(64, "tokens generated after a prompt at most", min=1)
    min_new_tokens: int = option(0, "no end token before this many tokens", min=0)
    temperature: float = option(0.0, "sample from logits / temperature; 0: greedy", min=0.0)
    top_k: int = option(0, "sample from the k most likely tokens; 0: from all", min=0)
    top_p: float = option(
        1.0, "sample from the fewest tokens of this probability", above=0.0, max=1.0
    )
    min_p: float = option(
        0.0, "no token below this share of the likeliest's probability", min=0.0, max=1.0
    )
    typical_p: float = option(
        1.0,
        "as top_p, of the tokens whose information is closest to the entropy (Meister et al. 2023)",
        above=0.0,
        max=1.0,
    )
    repetition_penalty: float = option(
        1.0, "divides the positive logits of tokens in the text (Keskar et al. 2019)", above=0.0
    )
    no_repeat_ngram_size: int = option(0, "no n-gram of this size twice; 0: no limit", min=0)
    num_beams: int = option(1, "beams of beam search; 1: none", min=1)
    length_penalty: float = option(1.0, "beams are ranked by log-probability / length ** this")
    early_stopping: str = option(
        "false",
        "beam search ends with num_beams finished beams (true), when no beam is likely to improve them "
        "(false), or when none can (never)",
        choices=("false", "true", "never"),
    )
    num_return_sequences: int = option(
        1, "sequences per prompt, best score first: samples, or beams of the search", min=1
    )
    banned_tokens: tuple = option((), "ids that are never generated")
    logit_bias: tuple = option((), "(id, value) pairs, added to the logits of the tokens")
    seed: int = option(0, "of samples; prompt i without a seed of its own has seed + i", min=0)
    batch_size: int = option(16, "rows decoded together at most, beams and samples included", min=1)

    def __post_init__(self):
        for name in ("banned_tokens", "logit_bias"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_ranges(self)
        self._check_lists()
        changed = {f.name for f in fields(self) if getattr(self, f.name) != f.default}
        self._check_combinations(changed)

    def _check_lists(self):
        for token in self.banned_tokens:
            if type(token) is not int or token < 0:
                raise GenerationError(f"banned_tokens: {token!r} is not the id of a token")
        for pair in self.logit_bias:
            ok = isinstance(pair, tuple | list) and len(pair) == 2 and type(pair[0]) is int
            if not ok or pair[0] < 0 or type(pair[1]) not in (int, float):
                raise GenerationError(f"logit_bias: expected pairs of id and value, not {pair!r}")

    def _check_combinations(self, changed):
        sampling = [name for name in ("temperature", *SAMPLING) if name in changed]
        if self.num_beams > 1 and sampling:
            raise GenerationError(
                f"num_beams={self.num_beams} with {sampling[0]}={getattr(self, sampling[0])}: beam search "
                f"does not sample; set num_beams=1, or leave {sampling[0]} out"
            )
        if sampling and not self.temperature:
            raise GenerationError(
                f"{sampling[0]}={getattr(self, sampling[0])} without a temperature has no effect: greedy "
                f"search does not sample; set temperature too, such as 1.0"
            )
        if self.num_beams == 1 and (names := [name for name in BEAMS if name in changed]):
            raise GenerationError(
                f"{names[0]}={getattr(self, names[0])} without num_beams has no effect; set num_beams too"
            )
        several = self.num_return_sequences
        if several > 1 and not self.temperature and several > self.num_beams:
            raise GenerationError(
                f"num_return_sequences={several}: greedy search has one sequence and beam search num_beams="
                f"{self.num_beams}; set temperature to sample, or num_beams to at least {several}"
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise GenerationError(
                f"min_new_tokens={self.min_new_tokens} is more than max_new_tokens={self.max_new_tokens}; "
                f"change one of them"
            )

    @property
    def rows_per_prompt(self) -> int:
        """Rows of the batch that one prompt takes."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences
