"""From the runs of a sweep to its table: one row per point with the mean over its seeds, compared with a
baseline seed by seed. Reads run directories; sweeps/report.py writes what it returns.
"""

import csv
import dataclasses
import io
import re
import shlex

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


def check_baseline(baseline, runs):
    """Raises ConfigError if no run has the values of the baseline."""
    keys = columns(runs)
    for key, value in baseline.items():
        if key not in keys:
            names = [short(each) for each in keys]
            expected = nearest(key, names) if names else "there is one row, so leave it out"
            raise ConfigError(
                f"baseline: {short(key)!r} is not a key in which the rows differ; {expected}"
            )
        values = list(dict.fromkeys(text(run.coordinates, key) for run in runs))
        if as_text(value) not in values:
            raise ConfigError(
                f"baseline: no run has {short(key)}={value}; {nearest(as_text(value), values)}"
            )


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
    metric, sign = _metric(metric or sweep.metric, compared, scored, workdir)
    keys, entries = columns(compared), {entry["folder"]: entry for entry in found}
    rows = []
    for group in candidates(compared).values():
        rows.append(_row(group, keys, entries, metric))
    for row in rows:
        _compare(row, rows, sweep.baseline)
    finished = [row for row in rows if row["score"]]
    most = max((row["score"]["count"] for row in finished), default=0)
    full = [row for row in finished if row["score"]["count"] == most]
    chosen_by = re.sub(r"^test/", "validation/", metric)  # nothing is chosen on the test split
    if not all(chosen_by in row["metrics"] for row in full):
        chosen_by = metric
    best = max(full, key=lambda row: sign * row["metrics"][chosen_by]["mean"], default=None)
    for row in rows:
        row.pop("values")
    return {
        "format": FORMAT,
        "title": sweep.title,
        "metric": metric,
        "higher_is_better": sign > 0,
        "chosen_by": chosen_by,
        "baseline": {key: as_text(value) for key, value in sweep.baseline.items()},
        "columns": keys,
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
    }


def _metric(given, runs, scored, workdir):
    """(name, sign): the metric that is compared. Raises ConfigError if finished runs do not have it."""
    best = ""
    for run in runs:
        best = best or run_files.best_metric(workdir / run.folder, run.program)
    name = given.lstrip("+-") or (f"validation/{best[1:]}" if best else "")
    known = dict.fromkeys(each for entry in scored for each in entry["metrics"])
    if scored and name not in known:
        raise ConfigError(f"metric {name!r} is not one of the runs'; {nearest(name, known)}")
    sign = {"+": 1.0, "-": -1.0}.get(given[:1]) or (
        run_files.sign_of(name, best or "+") if name else 1.0
    )
    return name, sign


def _row(group, keys, entries, metric):
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
    return {
        "coordinates": {key: text(group[0].coordinates, key) for key in keys},
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
    return {**dataclasses.asdict(spread), "interval95": statistics.interval95(spread),
            "min": min(values), "max": max(values)}  # fmt: skip


def _compare(row, rows, baseline):
    """Adds 'paired', the difference from the row of the baseline that is otherwise the nearest."""
    if not baseline or _has(row, baseline):
        return
    matching = [each for each in rows if _has(each, baseline)]

    def shared(other):
        return sum(row["coordinates"][k] == v for k, v in other["coordinates"].items())

    matching.sort(key=shared, reverse=True)
    if len(matching) > 1 and shared(matching[0]) == shared(matching[1]):
        return  # two are as near: there is no one reference
    reference = matching[0]
    if row["values"].keys() & reference["values"].keys():
        paired = statistics.paired(row["values"], reference["values"])
        row["paired"] = {**dataclasses.asdict(paired), "interval95": statistics.interval95(paired),
                         "reference": reference["coordinates"]}  # fmt: skip


def _has(row, baseline):
    return all(row["coordinates"][key] == as_text(value) for key, value in baseline.items())


def cells(row, found):
    """{column: text} of a row, for the table and the page."""
    score, paired = row["score"], row.get("paired")
    cells = {short(key): value for key, value in row["coordinates"].items()}
    states = ", ".join(f"{n} {state}" for state, n in row["states"].items() if state != "finished")
    cells["runs"] = str(row["states"].get("finished", 0)) + f" ({states})" * bool(states)
    cells[found["metric"] or "metric"] = number(score["mean"]) if score else ""
    cells["s.d."] = number(score["std"]) if score else ""
    cells["95 %"] = f"± {number(score['interval95'])}" if score and score["std"] is not None else ""
    if found["baseline"]:
        cells["minus baseline"] = difference(paired) if paired else ""
    for name in other_metrics(found):
        other = row["metrics"].get(name)
        cells[name] = number(other["mean"]) if other else ""
    return cells


def other_metrics(found):
    """The same metric of the test split."""
    name = f"test/{found['metric'].rpartition('/')[2]}"
    has = any(name in row["metrics"] for row in found["rows"])
    return [name] if has and name != found["metric"] else []


def number(value):
    """'0.4125', '12.31', '3.1e-05'; '' for None."""
    if value is None:
        return ""
    value = 0.0 if abs(value) < 1e-12 else value  # rounding
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 or value == 0 else f"{value:.4g}"


def difference(paired):
    """'+0.0123 ± 0.0040, 4/5': mean, 95 % interval, and the pairs in which the row is higher."""
    half = "" if paired["interval95"] is None else f" ± {number(paired['interval95'])}"
    sign = "-" if paired["mean"] < -1e-12 else "+"
    return f"{sign}{number(abs(paired['mean']))}{half}, {paired['wins']}/{paired['count']}"


def lines(found):
    """The table as lines of text, the best row marked by '*'."""
    table = [cells(row, found) for row in found["rows"]]
    names = list(dict.fromkeys(name for row in table for name in row))
    widths = {name: max(len(name), *(len(row[name]) for row in table)) for name in names}
    yield "  " + "  ".join(f"{name:<{widths[name]}}" for name in names).rstrip()
    for number_of_row, row in enumerate(table):
        mark = "* " if number_of_row == found["best"] else "  "
        yield mark + "  ".join(f"{row[name]:<{widths[name]}}" for name in names).rstrip()
    better = "higher" if found["higher_is_better"] else "lower"
    name = found["metric"] or "metric"
    yield (
        f"{name}: {better} is better; s.d. and Student's 95 % interval over seeds; marked: the best mean of "
        f"{found['chosen_by'] or name}"
    )
    if found["baseline"]:
        chosen = ", ".join(f"{short(key)}={value}" for key, value in found["baseline"].items())
        yield (
            f"minus baseline ({chosen}): mean ± 95 % interval over pairs of the same seed, and the share of "
            f"pairs that are higher"
        )
    if found["num_finished"] < found["num_planned"]:
        yield f"{found['num_finished']} of {found['num_planned']} runs have finished"


def to_csv(found):
    """results.csv: a line per run."""
    keys = list(dict.fromkeys(key for entry in found["runs"] for key in entry["coordinates"]))
    metrics = list(dict.fromkeys(name for entry in found["runs"] for name in entry["metrics"]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["folder", "stage", "state", "step", "seconds", *keys, *metrics])
    for entry in found["runs"]:
        about = [entry[name] for name in ("folder", "stage", "state", "step")]
        row = [text(entry["coordinates"], key) for key in keys]
        scores = [entry["metrics"].get(name, "") for name in metrics]
        writer.writerow([*about, f"{entry['seconds']:.1f}", *row, *scores])
    return buffer.getvalue()


def best_commands(found, runs):
    """The commands of the best point without seeds and directories, a line per stage, to paste."""
    if found["best"] is None:
        return []
    folder = found["rows"][found["best"]]["folders"][0]
    run = next(run for run in runs if run.folder == folder)
    lines = []
    while run is not None:
        words = [f"--config={run.config_file}"]
        words += [f"--config.{k}={as_text(v)}" for k, v in run.overrides.items() if not is_seed(k)]
        lines.insert(0, f"python {run.program} {shlex.join(words)}")
        run = run.parent
    return lines
