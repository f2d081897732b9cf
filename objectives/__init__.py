"""Pretraining objectives: (rng, raw row of tokens) -> Batch, and the losses of a Batch.
`OBJECTIVES` lists them by name; a new objective is a file and a line here.
Imports only models/. Corruption and losses run inside the jitted step, the rest on the host.
"""

from objectives.base import Objective
from objectives.causal_lm import CausalLM
from objectives.denoising import Denoising
from objectives.fill_in_the_middle import FillInTheMiddle
from objectives.hybrid import Hybrid
from objectives.lm_loss import loss_of
from objectives.mixture import Mixture
from objectives.named import NAMED
from objectives.prefix_lm import PrefixLM
from objectives.registry import (
    OBJECTIVES,
    build,
    check,
    names_by_architecture,
    parse,
    why_unsupported,
)
from objectives.replaced_token_detection import ReplacedTokenDetection
from objectives.sentence_pairs import NextSentence, SentenceOrder
from objectives.skip_gram import SkipGram
from objectives.ul2 import UL2

_CLASSES = (
    CausalLM, PrefixLM, FillInTheMiddle, *NAMED.values(), Denoising, UL2, Mixture, Hybrid,
    NextSentence, SentenceOrder, ReplacedTokenDetection, SkipGram,
)  # fmt: skip
OBJECTIVES |= {cls.name: cls for cls in _CLASSES}

__all__ = [
    "OBJECTIVES", "Objective", "build", "check", "loss_of", "names_by_architecture", "parse",
    "why_unsupported",
]  # fmt: skip
