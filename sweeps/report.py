"""The report of a sweep: results.json, results.csv, best.txt, a PNG of each figure, report.html.

Called by tools/sweep.py at its end, also of a sweep that was stopped.
"""

import logging

from sweeps import drawing, figures, page, table
from sweeps.algebra import short
from sweeps.manifest import first_and_count, write_json
from training import config as config_lib
from training import logs, paths

log = logging.getLogger("triptych.sweeps")

# Fields of the config that say what the runs of a stage did, on the page where all of them agree.
SETUP = {
    "train.py": ("model.architecture", "objective.name", "data.source", "training.duration"),
    "finetune.py": ("task.name", "task.source", "task.max_seq_len", "task.num_train_examples",
                    "training.duration", "training.batch_size"),
}  # fmt: skip
# (quantity of a run, heading of its column on the page), where runs have it.
AMOUNTS = (("tokens", "tokens"), ("parameters", "parameters*"), ("flops", "FLOPs"))


def write(found, runs, workdir, head):
    """Writes the report and logs the table.

    Args:
      found: results.collect(...).
      runs: the runs of the sweep.
      workdir: directory of the sweep.
      head: entries of the manifest about the sweep.
    """
    best = table.best_commands(found, runs)
    write_json(workdir / "results.json", found)
    paths.write_text(workdir / "results.csv", table.to_csv(found))
    if best:
        paths.write_text(workdir / "best.txt", "".join(line + "\n" for line in best))
    panels = figures.panels(found)
    if panels:
        drawing.save_png(panels, workdir / "axes.png")
    page_text = render(found, panels, best, head, list(setup(runs)))
    paths.write_text(workdir / "report.html", page_text)
    for line in table.lines(found):
        log.info(line)
    for line in (*table.tuned_rows(found), *failures(found)):
        log.info(line)
    if best:
        log.info("the best point (best.txt):")
    for line in best:
        log.info(f"    {line}")
    names = [
        "results.csv",
        "results.json",
        *["best.txt"] * bool(best),
        *["axes.png"] * bool(panels),
    ]
    names.append("report.html")
    log.info(f"wrote {', '.join(names)} in {workdir}")


def failures(found):
    """A line for each reason for which runs failed."""
    reasons = {}
    for entry in found["runs"]:
        if entry["state"] == "failed":
            reasons.setdefault("; ".join(entry["message"]), []).append(entry["folder"])
    for reason, folders in reasons.items():
        yield f"failed: {first_and_count(folders)}: {reason}"


def setup(runs):
    """(stage, what all of its runs did) of each stage, as text."""
    for stage in dict.fromkeys(run.stage for run in runs):
        members = [config_lib.flatten(run.config) for run in runs if run.stage is stage]
        fields = {key: {repr(each.get(key)) for each in members} for key in SETUP[stage.program]}
        equal = {key: members[0].get(key) for key, values in fields.items() if len(values) == 1}
        yield stage.name, ", ".join(f"{k}={v}" for k, v in equal.items() if v not in (None, ""))


def render(found, panels, best, head, stages):
    """The page as text."""
    states = {}
    for entry in found["runs"]:
        states[entry["state"]] = states.get(entry["state"], 0) + 1
    with_score = [row for row in found["rows"] if row["score"]]
    tables = {"Table": table.shown_rows(found), "All points": found["rows"]}
    if len(tables["Table"]) == len(found["rows"]):
        tables.pop("All points")
    return (
        page.environment()
        .get_template("sweep.html")
        .render(
            found,
            head=head,
            stages=stages,
            keys={short(key) for key in found["columns"]},
            tables={
                name: [(table.cells(row, found), table.is_best(row, found)) for row in rows]
                for name, rows in tables.items()
            },
            best_row=found["rows"][found["best"]] if best else None,
            best_commands=best,
            number=table.number,
            quantity=table.quantity,
            amounts=[
                pair for pair in AMOUNTS if any(pair[0] in e["quantities"] for e in found["runs"])
            ],
            short=short,
            panels=panels,
            parallel=(lambda axes: figures.parallel(found, axes))
            if panels and len(with_score) > 1
            else None,
            parallel_size=(max(6.0, 1.9 * (1 + len(panels))), 4.2),
            svg=drawing.svg,
            states=states,
            failures=list(failures(found)),
            notes=list(table.notes(found)),
            tuned_rows=list(table.tuned_rows(found)),
            seconds=logs.format_duration(sum(entry["seconds"] for entry in found["runs"])),
        )
    )
