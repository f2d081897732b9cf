"""From the runs of a sweep to its table: one row per point with the mean over its seeds, compared with a
baseline seed by seed. Reads run directories; sweeps/table.py is its text.
"""

import pathlib
import re

from sweeps import run_files, statistics
from sweeps.algebra import short
from sweeps.plan import as_text
from sweeps.sweep_file import nearest
from training.config import ConfigError

FORMAT = 1


def is_seed(key):
    """Whether a key is a seed: runs that differ in it alone are one row."""
    return "seed" in key.split(".")


def columns(runs):
    """The keys in which the rows differ."""
    keys = dict.fromkeys(key for run in runs for key in run.coordinates)
    return [
        key
        for key in keys
        if not is_seed(key) and len({repr(run.coordinates.get(key)) for run in runs}) > 1
    ]


def candidates(runs):
    """{(text of each column): [its runs, one per seed]}, in order."""
    keys, groups = columns(runs), {}
    for run in runs:
        group = tuple(text(run.coordinates, key) for key in keys)
        groups.setdefault(group, []).append(run)
    return groups


def text(values, key):
    """The value of a key as a cell: '' if it is not set."""
    return as_text(values[key]) if key in values else ""


def check_sweep(sweep, runs, metric=""):
    """Raises ConfigError if no run has the values of the baseline or a tuned key, or for a metric that no
    run can have. metric: overrides `sweep.metric`."""
    metric = metric or sweep.metric
    split = metric.lstrip("+-").partition("/")[0]
    if metric and split not in ("train", "validation", "test"):
        raise ConfigError(f"metric {metric!r}: expected SPLIT/NAME, such as validation/{metric}")
    if split == "test" and any(
        run.program == "train.py" or not run.config["evaluation"]["test"] for run in runs
    ):
        raise ConfigError(f"metric {metric!r}: not all runs are scored on the test split; "
                          "train.py never is, finetune.py with evaluation.test=True")  # fmt: skip
    keys = columns(runs)
    for key, value in sweep.baseline.items():
        if key not in keys or key in sweep.tuned:
            names = [short(each) for each in keys if each not in sweep.tuned]
            expected = nearest(key, names) if names else "there is one row, so leave it out"
            raise ConfigError(
                f"baseline: {short(key)!r} is not a key in which the rows differ; {expected}"
            )
        values = list(dict.fromkeys(text(run.coordinates, key) for run in runs))
        if as_text(value) not in values:
            raise ConfigError(
                f"baseline: no run has {short(key)}={value}; {nearest(as_text(value), values)}"
            )
    wanted = {key: as_text(value) for key, value in sweep.baseline.items()}
    if not any(all(text(run.coordinates, k) == v for k, v in wanted.items()) for run in runs):
        values = " and ".join(f"{short(key)}={value}" for key, value in wanted.items())
        raise ConfigError(f"baseline: no run has {values} together; name the values of one row")
    known = dict.fromkeys(key for run in runs for key in run.coordinates if not is_seed(key))
    for key in sweep.tuned:
        if key not in known:
            names = [short(each) for each in known]
            raise ConfigError(
                f"tuned: {short(key)!r} is not a key of the runs; {nearest(key, names)}"
            )


def on_validation(metric):
    """The metric that selects points: the validation metric, since the test split selects nothing."""
    return re.sub(r"^test/", "validation/", metric)


def config_names(values):
    """{'configs/encoder.py:size=tiny,objective=a': 'encoder:objective=a'} of config files: without their
    folder, and without the arguments that all of them have."""
    parts = {value: value.partition(":") for value in values}
    arguments = [set(arg.split(",")) for _, _, arg in parts.values()]
    common = set.intersection(*arguments) if len(arguments) > 1 else set()
    found = {}
    for value, (path, _, arg) in parts.items():
        own = [each for each in arg.split(",") if each and each not in common]
        found[value] = ":".join(filter(None, (pathlib.PurePath(path).stem, ",".join(own))))
    return found if len(set(found.values())) == len(found) else {}


def collect(sweep, runs, records, workdir, metric=""):
    """The content of results.json.

    Args:
      sweep: Sweep.
      runs: all runs of the sweep.
      records: {folder: record} of the manifest, for the states.
      workdir: directory of the sweep.
      metric: overrides that of the sweep.
    """
    compared = [run for run in runs if run.stage is runs[-1].stage]
    found = [_row_of_run(run, records[run.folder], workdir) for run in runs]
    scored = [
        entry for entry in found if entry["metrics"] and entry["stage"] == runs[-1].stage.name
    ]
    metric, sign, wrong = _metric(metric or sweep.metric, compared, scored, workdir)
    keys, entries = columns(compared), {entry["folder"]: entry for entry in found}
    names = {}
    for key in keys:
        if key.rpartition(".")[2] == "config":
            names |= config_names({run.coordinates[key]: 0 for run in compared})
    rows = [_row(group, keys, names, entries, metric) for group in candidates(compared).values()]
    chosen_by = on_validation(metric)
    if not all(chosen_by in row["metrics"] for row in rows if row["score"]):
        chosen_by = metric
    baseline = {key: as_text(value) for key, value in sweep.baseline.items()}
    baseline = {key: names.get(value, value) for key, value in baseline.items()}
    rest = [key for key in keys if key not in sweep.tuned]
    chosen = _choose(rows, rest, keys, chosen_by, sign)
    for row in chosen:
        _compare(row, chosen, rest, baseline)
    best = _best(rows, chosen_by, sign)
    for row in rows:
        row.pop("values")
    return {
        "format": FORMAT,
        "title": sweep.title,
        "metric": metric,
        "wrong_metric": wrong,
        "higher_is_better": sign > 0,
        "chosen_by": chosen_by,
        "baseline": baseline,
        "columns": keys,
        "tuned": [key for key in keys if key not in rest],
        "num_finished": sum(entry["state"] == "finished" for entry in found),
        "num_planned": len(found),
        "rows": rows,
        "best": rows.index(best) if best else None,
        "runs": found,
    }


def _row_of_run(run, record, workdir):
    folder = workdir / run.folder
    state = record.get("state", "waiting")
    done = state == "finished"
    return {
        "folder": run.folder,
        "stage": run.stage.name,
        "state": state,
        "message": record.get("message", []),
        "coordinates": run.coordinates,
        "step": run_files.last_step(folder) if folder.exists() else 0,
        "seconds": record.get("seconds", 0.0),
        "metrics": run_files.scores(folder, run.program) if done else {},
        "quantities": run_files.quantities(folder) if done else {},
    }


def _metric(given, runs, scored, workdir):
    """(name, sign, error message): the metric to compare; the default metric and a message if no finished
    run has `given`."""
    best = ""
    for run in runs:
        best = best or run_files.best_metric(workdir / run.folder, run.program)
    default, wrong = f"validation/{best[1:]}" if best else "", ""
    known = dict.fromkeys(each for entry in scored for each in entry["metrics"])
    # Without generated text there is no chrf, for example.
    if default not in known and "validation/loss" in known:
        best, default = "-loss", "validation/loss"
    name = given.lstrip("+-") or default
    if scored and name not in known:
        wrong = (
            f"metric {name!r} is not a metric of these runs; {nearest(name, known)}. The report compares "
            f"{default!r}; correct the sweep file, and --report writes it again"
        )
        given, name = "", default
    sign = {"+": 1.0, "-": -1.0}.get(given[:1]) or (
        run_files.sign_of(name, best or "+") if name else 1.0
    )
    return name, sign, wrong


def _row(group, keys, names, entries, metric):
    """A row: the statistics of the finished runs of a point."""
    values, others = {}, {}
    for run in group:
        metrics = entries[run.folder]["metrics"]
        if metric in metrics:
            seeds = repr([(k, v) for k, v in sorted(run.coordinates.items()) if is_seed(k)])
            values[seeds] = metrics[metric]
        for name, value in metrics.items():
            others.setdefault(name, []).append(value)
    states = [entries[run.folder]["state"] for run in group]
    cells = {key: text(group[0].coordinates, key) for key in keys}
    return {
        "coordinates": {key: names.get(value, value) for key, value in cells.items()},
        "folders": [run.folder for run in group],
        "states": {state: states.count(state) for state in dict.fromkeys(states)},
        "score": _spread(list(values.values())),
        "metrics": {name: _spread(each) for name, each in others.items()},
        "values": values,
    }


def _spread(values):
    """Mean, s.d. and 95 % interval of some values, None without one."""
    if not values:
        return None
    spread = statistics.spread(values)
    return {**statistics.record(spread),
            "min": min(values), "max": max(values)}  # fmt: skip


def _best(rows, chosen_by, sign):
    """The row with the best mean among those with the most finished runs, None if no run has finished."""
    finished = [row for row in rows if row["score"]]
    most = max((row["score"]["count"] for row in finished), default=0)
    full = [row for row in finished if row["score"]["count"] == most]
    return max(full, key=lambda row: sign * row["metrics"][chosen_by]["mean"], default=None)


def _choose(rows, rest, keys, chosen_by, sign):
    """The best row for each combination of the keys `rest`. Adds to each row 'in_table', and 'edges': the
    other keys whose best value is the lowest or the highest of several numbers."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row["coordinates"][key] for key in rest), []).append(row)
    for group in groups.values():
        best = _best(group, chosen_by, sign) or group[0]
        for row in group:
            row |= {"in_table": row is best, "edges": []}
        for key in keys:
            values = {row["coordinates"][key] for row in group}
            if len(values) > 1 and all(map(is_number, values)):
                ends = min(values, key=float), max(values, key=float)
                best["edges"] += [key] * (best["coordinates"][key] in ends)
    return [row for row in rows if row["in_table"]]


def is_number(value):
    """Whether a cell is a number."""
    try:
        float(value)
    except ValueError:
        return False
    return True


def _compare(row, rows, keys, baseline):
    """Adds 'paired', the difference from the row of the baseline that is otherwise the nearest, by `keys`, if
    there is one."""
    matching = [each for each in rows if _has(each, baseline)]
    if not baseline or not matching or _has(row, baseline):
        return

    def shared(other):
        return sum(row["coordinates"][key] == other["coordinates"][key] for key in keys)

    matching.sort(key=shared, reverse=True)
    if len(matching) > 1 and shared(matching[0]) == shared(matching[1]):
        return  # two are as near: there is no one reference
    reference = matching[0]
    if row["values"].keys() & reference["values"].keys():
        paired = statistics.paired(row["values"], reference["values"])
        row["paired"] = {**statistics.record(paired),
                         "reference": reference["coordinates"]}  # fmt: skip


def _has(row, baseline):
    """Whether a row has the values of the baseline; rows that --stale=keep left out may have been all."""
    return all(row["coordinates"].get(key) == value for key, value in baseline.items())
