"""hybrid: a mixture of causal and masked language modeling for one decoder."""

from dataclasses import dataclass
from typing import ClassVar

from models.config import option
from objectives.mixture import SampledObjective


@dataclass(frozen=True)
class Hybrid(SampledObjective):
    """Trains one decoder in both ways: each update trains causal_lm, or masked next-token
    prediction with bidirectional attention (GPT-BERT; Charpentier and Samuel 2024, section 2)."""

    name: ClassVar[str] = "hybrid"
    sample_per: ClassVar[str] = "batch"

    causal_share: float = option(
        0.5,
        "share of the updates that train causal_lm; the others train `masked`",
        min=0.0,
        max=1.0,
    )
    masked: str = option("mntp", "objective of the other updates, such as 'mntp:noise_density=0.3'")

    @property
    def components(self) -> tuple:
        shares = (self.causal_share, "causal_lm"), (1 - self.causal_share, self.masked)
        return tuple(part for part in shares if part[0])
