"""ul2: a mixture of seven denoisers, each with a mode token (Tay et al. 2022)."""

from dataclasses import dataclass
from typing import ClassVar

from models.config import option
from objectives.mixture import Mixture


@dataclass(frozen=True)
class UL2(Mixture):
    """UL2's seven denoisers (Tay et al. 2022, table 1 and section 3.1.2) with equal weights, as in the
    paper's code (section 9.2, rates=None). R: short spans, as in T5; X: long spans or high density; S: a
    prefix LM that generates the last quarter of each document on average."""

    name: ClassVar[str] = "ul2"

    components: tuple = option(
        (
            (1.0, "span_0.15_sentinel_spans:mean_noise_span_length=3", "R"),
            (1.0, "span_0.15_sentinel_spans:mean_noise_span_length=8", "R"),
            (1.0, "prefix_lm:noise_density=0.25", "S"),
            (1.0, "span_0.5_sentinel_spans:mean_noise_span_length=3,max_sentinels=100", "X"),
            (1.0, "span_0.5_sentinel_spans:mean_noise_span_length=8", "X"),
            (1.0, "span_0.15_sentinel_spans:mean_noise_span_length=64", "X"),
            (1.0, "span_0.5_sentinel_spans:mean_noise_span_length=64", "X"),
        ),
        "((weight, objective, mode), ...)",
    )
