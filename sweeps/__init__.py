"""Sweeps: many runs of train.py and finetune.py from one file, and their table (docs/sweeps.md).

A sweep file imports the names below. Each run is a subprocess of the command that a user would type.
"""

from sweeps.algebra import (
    Space,
    choice,
    fixed,
    grid,
    integers,
    log_uniform,
    sample,
    uniform,
    zip_,
)
from sweeps.sweep_file import Stage, Sweep, finetune, train

__all__ = [
    "Space", "Stage", "Sweep", "choice", "finetune", "fixed", "grid", "integers", "log_uniform", "sample",
    "train", "uniform", "zip_",
]  # fmt: skip
