"""The results of a sweep as text: the table for the console and the page, results.csv, the best commands.

Called by sweeps/report.py with the content of results.json.
"""

import csv
import io
import shlex

from sweeps.algebra import short
from sweeps.plan import as_text
from sweeps.results import is_number, is_seed, text


def cells(row, found):
    """{column: text} of a row, for the table and the page."""
    score, paired = row["score"], row.get("paired")
    edges = [key for key in row["edges"] if row["in_table"]]
    cells = {
        short(key): value + " (edge)" * (key in edges) for key, value in row["coordinates"].items()
    }
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


def shown_rows(found):
    """The rows of the table: without the rows that differ from a better one in tuned keys alone."""
    return [row for row in found["rows"] if row["in_table"]]


def is_best(row, found):
    """Whether it is the best of all rows."""
    return found["best"] is not None and row is found["rows"][found["best"]]


def lines(found):
    """The table as lines of text, the best row marked by '*', and the notes below it."""
    rows = shown_rows(found)
    table = [cells(row, found) for row in rows]
    names = list(dict.fromkeys(name for row in table for name in row))
    widths = {name: max(len(name), *(len(row[name]) for row in table)) for name in names}
    yield "  " + "  ".join(f"{name:<{widths[name]}}" for name in names).rstrip()
    for row, texts in zip(rows, table, strict=True):
        mark = "* " if is_best(row, found) else "  "
        yield mark + "  ".join(f"{texts[name]:<{widths[name]}}" for name in names).rstrip()
    yield from notes(found)


def notes(found):
    """Lines below the table."""
    better, name = "higher" if found["higher_is_better"] else "lower", found["metric"]
    if found["best"] is not None:
        yield (
            f"{name}: {better} is better; s.d. and Student's 95 % interval over seeds; *: the best mean of "
            f"{found['chosen_by']}"
        )
    if found["baseline"]:
        values = ", ".join(f"{short(key)}={value}" for key, value in found["baseline"].items())
        yield (
            f"minus baseline ({values}): mean ± 95 % interval over pairs of the same seed (one that contains "
            f"0 shows no difference), and in how many of the pairs it is higher"
        )
    if len(shown_rows(found)) < len(found["rows"]):
        tuned = ", ".join(map(short, found["tuned"]))
        yield (
            f"{tuned}: the best of those tried for each row, by {found['chosen_by']}; edge: it is "
            f"the lowest or the highest; results.json and report.html have all"
        )
    for entry in found["runs"]:
        if entry["stage"] != found["runs"][-1]["stage"] and entry["quantities"]:
            yield f"{entry['folder']}: {quantities(entry['quantities'])}"
    if found["num_finished"] < found["num_planned"]:
        yield f"{found['num_finished']} of {found['num_planned']} runs have finished"


def tuned_rows(found):
    """The best values of tuned keys as lines of Python: a tuple of the values of the columns for each row."""
    keys = [key for key in found["columns"] if key not in found["tuned"]] + found["tuned"]
    if len(shown_rows(found)) == len(found["rows"]):
        return
    yield f"({', '.join(map(short, keys))}):"
    for row in shown_rows(found):
        if row["score"]:
            values = [
                value if is_number(value) else repr(value)
                for value in (row["coordinates"][key] for key in keys)
            ]
            edge = f"  # {', '.join(map(short, row['edges']))}: at an edge of the grid"
            yield f"    ({', '.join(values)}),{edge * bool(row['edges'])}"


def quantities(values):
    """'500 steps, 791 k non-embedding parameters, 2.05 M tokens, 12.2 T FLOPs'."""
    names = {"flops": "FLOPs", "parameters": "non-embedding parameters"}
    return ", ".join(f"{quantity(n)} {names.get(name, name)}" for name, n in values.items())


def quantity(value):
    """1234567 -> '1.23 M'; powers of ten from 10^15."""
    for power, unit in enumerate(("", " k", " M", " G", " T")):
        if abs(value) < 999.5 * 1000.0**power:
            return f"{value / 1000.0**power:.3g}{unit}"
    return f"{value:.2e}"


def to_csv(found):
    """results.csv: a line per run."""
    keys = list(dict.fromkeys(key for entry in found["runs"] for key in entry["coordinates"]))
    metrics = list(dict.fromkeys(name for entry in found["runs"] for name in entry["metrics"]))
    amounts = list(dict.fromkeys(name for entry in found["runs"] for name in entry["quantities"]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["folder", "stage", "state", "step", "seconds", *keys, *metrics, *amounts])
    for entry in found["runs"]:
        about = [entry[name] for name in ("folder", "stage", "state", "step")]
        row = [text(entry["coordinates"], key) for key in keys]
        scores = [entry["metrics"].get(name, "") for name in metrics]
        scores += [entry["quantities"].get(name, "") for name in amounts]
        writer.writerow([*about, f"{entry['seconds']:.1f}", *row, *scores])
    return buffer.getvalue()


def best_commands(found, runs):
    """The commands that train the best point again in best/, without its seeds: a line per stage."""
    if found["best"] is None:
        return []
    folder = found["rows"][found["best"]]["folders"][0]
    run = next(run for run in runs if run.folder == folder)
    lines = []
    while run is not None:
        words = [f"--config={run.config_file}", f"--workdir=best/{run.stage.name}"]
        if run.parent:
            words.append(f"--config.init_from=best/{run.parent.stage.name}")
        words += [f"--config.{k}={as_text(v)}" for k, v in run.overrides.items() if not is_seed(k)]
        lines.insert(0, f"python {run.program} {shlex.join(words)}")
        run = run.parent
    return lines
