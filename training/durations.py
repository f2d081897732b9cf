"""Durations with a unit: '2000 steps', '3e9 tokens', '50 examples', '2 epochs', '3e14 FLOPs', '6 %', 'never'.

Every length and interval of a config is one; a run converts them to steps here.
"""

import dataclasses
import math

from training.config import LARGEST, ConfigError

UNITS = ("steps", "examples", "tokens", "epochs", "FLOPs", "%")


@dataclasses.dataclass(frozen=True)
class StepConverter:
    """Converts durations to steps.

    Attributes:
      batch_size: examples per step.
      tokens_per_step: tokens that the model reads per step.
      epoch_size: examples per epoch (0: unknown).
      flops_per_step: model FLOPs per step (training/flops.py; 0: unknown).
      total_steps: steps of the whole run, for '%' (0: not known yet).
    """

    batch_size: int
    tokens_per_step: int
    epoch_size: int = 0
    flops_per_step: float = 0.0
    total_steps: int = 0

    @classmethod
    def of(cls, config, task, flops_per_step=0.0):
        """The converter of a run of `config.training.duration`.

        task: LoadedTask, or anything with batch_size, tokens_per_step and epoch_size.

        Raises ConfigError if the duration is 0 steps.
        """
        sizes = task.batch_size, task.tokens_per_step, task.epoch_size
        return cls(*sizes, flops_per_step).of_length(config.training.duration)

    def of_length(self, duration):
        """The converter of a run of another `training.duration`, whose steps are the same.

        Raises ConfigError if it is 0 steps."""
        total = dataclasses.replace(self, total_steps=0).steps(duration, "training.duration")
        if not total:
            raise ConfigError(
                f"config.training.duration={duration!r} is 0 steps; expected at least '1 step'"
            )
        return dataclasses.replace(self, total_steps=total)

    def steps(self, duration, name):
        """Steps in `duration`, the value of `config.name`: at least 1 if positive, 0 for 'never'.

        Raises ConfigError if the text is not a duration, its unit does not apply, or it is too long.
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
        steps_in = {"step": 1.0, "example": 1 / self.batch_size, "token": 1 / self.tokens_per_step,
                    "epoch": self.epoch_size / self.batch_size, "%": self.total_steps / 100,
                    "FLOP": self.flops_per_step and 1 / self.flops_per_step}  # fmt: skip
        if not steps_in.get(unit):
            raise ConfigError(
                f"config.{name}={duration!r}: unit {words[1]!r} cannot be used here; "
                f"expected one of {', '.join(UNITS)}"
            )
        steps = number * steps_in[unit]
        if steps > LARGEST:
            raise ConfigError(
                f"config.{name}={duration!r} is {steps:.3g} steps; expected at most {LARGEST:,}, or 'never'"
            )
        return max(1, round(steps)) if number else 0

    def step_range(self, text, name):
        """(100, 110) of '100:110', the value of `config.name`: the updates from step 100 to step 110; (0, 0)
        of ''. Raises ConfigError if it is no range, or beyond the run."""
        if not text:
            return 0, 0
        try:
            first, last = map(int, text.split(":"))
        except ValueError:
            first, last = -1, -1
        end = f" <= {self.total_steps}" if self.total_steps else ""
        if not 0 <= first < last <= (self.total_steps or last):
            raise ConfigError(
                f"config.{name}={text!r} is not a range of updates of this run; expected FIRST:LAST with "
                f"0 <= FIRST < LAST{end}, such as '10:20'"
            )
        return first, last
