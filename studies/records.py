"""What a study keeps on disk: one small JSON for each run that ended, and the curves of its log.

Written by studies/three_ways.py as each run ends, read back when a study is resumed or reported.
"""

import json
import pathlib

from training import config as configs
from training import logs, run_directory

# A study may be continued with more of these; anything else makes it another study.
MAY_GROW = ("architectures", "arms", "budgets", "seeds")
IGNORED = ("title", "rates", "grid", "tune_seeds", "keep_checkpoints")  # a cell checks its own rate
LONGEST_CURVE = 200


def write(path, record):
    """Writes a record; it is there whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    run_directory.write_json(path, record)


def read(path):
    """The record at `path`, or None where the run has not ended."""
    path = pathlib.Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def claim(workdir, config):
    """Makes `workdir` the folder of this study, or checks that it already is.

    Raises ValueError when it holds another study, naming what differs: its cells would be mixed up.
    """
    path = pathlib.Path(workdir) / "study.json"
    new, old = configs.to_dict(config), read(path)
    if old is not None:
        fixed = [
            f"{key} was {was!r}, is {now!r}"
            for key, was, now in configs.difference(old, new)
            if key not in (*MAY_GROW, *IGNORED)
        ]
        if fixed:
            raise ValueError(
                f"{workdir} holds a study with another config: {'; '.join(fixed)}; expected the same "
                f"(only {', '.join(MAY_GROW)} may change); use another --workdir"
            )
    write(path, new)


def curve(run, split, metric):
    """[[step, value], ...] of one metric from a run's metrics.jsonl, thinned for drawing."""
    return thinned(
        [[line["step"], line[metric]] for line in logs.read(run, split) if metric in line]
    )


def thinned(points, longest=LONGEST_CURVE):
    """At most `longest` points: groups of equal size, each at its last step with its mean value."""
    size = -(-len(points) // longest)
    groups = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [[group[-1][0], sum(value for _, value in group) / len(group)] for group in groups]
