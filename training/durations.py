"""Durations with their unit: '2000 steps', '3e9 tokens', '500 examples', '2 epochs', '6 %', 'never'.

Used by the entry points to turn every cadence and length of the config into a number of updates.
"""

import dataclasses
import math

from training.config import ConfigError

UNITS = ("steps", "examples", "tokens", "epochs", "%")


@dataclasses.dataclass(frozen=True)
class Clock:
    """What one update and one epoch are worth.

    Attributes:
      batch: examples (rows) per update.
      tokens: tokens read per update.
      epoch: examples in one pass over the data (0 = unknown).
      total: updates of the whole run, for '%' (0 while it is being determined).
    """

    batch: int
    tokens: int
    epoch: int = 0
    total: int = 0

    def steps(self, duration, name):
        """Updates in `duration`; a positive duration is at least one update, 'never' is 0.

        Raises ConfigError when the text is no duration or its unit means nothing here.
        """
        words = duration.replace("%", " %").split()
        if words == ["never"] or not words:
            return 0
        try:
            number, unit = float(words[0]), words[1].removesuffix("s")
            if len(words) != 2 or not math.isfinite(number) or number < 0:
                raise ValueError
        except (ValueError, IndexError):
            raise ConfigError(
                f"config.{name}={duration!r} is not a duration; expected a number and one of "
                f"{', '.join(UNITS)} (or 'never'), such as '2000 steps', '3e9 tokens' or '6 %'"
            ) from None
        worth = {"step": 1.0, "example": 1 / self.batch, "token": 1 / self.tokens,
                 "epoch": self.epoch / self.batch, "%": self.total / 100}  # fmt: skip
        if (
            unit not in worth
            or (unit == "%" and not self.total)
            or (unit == "epoch" and not self.epoch)
        ):
            raise ConfigError(
                f"config.{name}={duration!r}: unit {words[1]!r} means nothing here; "
                f"expected one of {', '.join(UNITS)}"
            )
        return max(1, round(number * worth[unit])) if number else 0

    def whole(self, duration, name):
        """This clock with `total` set to the run's duration.

        Raises ConfigError for a run of no updates."""
        total = self.steps(duration, name)
        if not total:
            raise ConfigError(
                f"config.{name}={duration!r} is no update at all; expected at least '1 step'"
            )
        return dataclasses.replace(self, total=total)
