"""Objectives: how a model learns from plain text, (key, raw row) -> Batch, hidden states -> sums.
`REGISTRY` is the one place that knows them by name; a new one is a file and a line here.
Imports models/ alone; pure JAX inside the jitted step.
"""

from objectives.base import Objective
from objectives.causal_lm import CausalLM
from objectives.denoising import Denoising
from objectives.fill_in_the_middle import FillInTheMiddle
from objectives.mixture import UL2, Mixture
from objectives.named import NAMED
from objectives.prefix_lm import PrefixLM
from objectives.registry import REGISTRY, build, check, pairs_by_architecture, parse, reason
from objectives.replaced_token_detection import ReplacedTokenDetection
from objectives.sentence_pairs import NextSentence, SentenceOrder
from objectives.skip_gram import SkipGram

_LANGUAGE_MODELS = (CausalLM, PrefixLM, FillInTheMiddle)
_OF_THEIR_OWN = (NextSentence, SentenceOrder, ReplacedTokenDetection, SkipGram)
_CLASSES = (*_LANGUAGE_MODELS, *NAMED.values(), Denoising, UL2, Mixture, *_OF_THEIR_OWN)
REGISTRY |= {cls.name: cls for cls in _CLASSES}

__all__ = ["REGISTRY", "Objective", "build", "check", "pairs_by_architecture", "parse", "reason"]
