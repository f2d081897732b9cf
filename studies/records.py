"""The records of a study on disk: one record.json in the directory of each finished run.

Written by studies/runner.py, read again when a study is resumed or reported.
"""

import json
import pathlib

from training import logs, paths

MAX_CURVE_POINTS = 200


def write(path, value):
    """Writes JSON; a reader never sees a part of it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.write_text(path, json.dumps(value, indent=2) + "\n")


def read(path):
    """The content of a JSON file, None if there is none."""
    path = pathlib.Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def find(workdir, folder):
    """The record of the run in `folder` (may contain '*'), None if it has not finished."""
    path = next(pathlib.Path(workdir).glob(f"{folder}/record.json"), None)
    return read(path) if path else None


def curve(run, split, metric):
    """[[step, value], ...] of a metric in a run's metrics.jsonl, thinned out for plots."""
    lines = logs.read_metrics(run, split)
    return thin_out([[line["step"], line[metric]] for line in lines if metric in line])


def thin_out(points, limit=MAX_CURVE_POINTS):
    """At most `limit` points: the mean of each group of neighbors, at the last step of the group."""
    size = -(-len(points) // limit) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [[group[-1][0], sum(value for _, value in group) / len(group)] for group in groups]
