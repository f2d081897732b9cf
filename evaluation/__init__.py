"""Evaluation: the log-probability of a continuation, asked of every architecture in its own way.

`Scorer.score` is the one interface; the suites (perplexity, minimal pairs, multiple choice) are built on it.
"""

from evaluation.choice import SCORINGS, choose_way
from evaluation.minimal_pairs import MinimalPairs
from evaluation.multiple_choice import MultipleChoice
from evaluation.perplexity import Perplexity
from evaluation.scorer import Scorer, TokenScores

SUITES = {suite.name: suite for suite in (Perplexity, MinimalPairs, MultipleChoice)}

__all__ = ["SCORINGS", "SUITES", "Scorer", "TokenScores", "choose_way"]
