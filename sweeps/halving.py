"""Successive halving (Jamieson & Talwalkar 2016): all candidates train a share of their steps, and the
best of them continue.

A candidate is a point with all of its seeds. A run stops at `training.stop_after` with a checkpoint and
continues with the same schedule, so that a survivor is the run made without halving.
"""

import logging
import math

from sweeps import results, run_files
from training import preemption
from training.config import ConfigError

log = logging.getLogger("triptych.sweeps")


def shares(num_candidates, factor):
    """The shares of the steps, in %, at which candidates are compared: (11.11, 33.33) for 9 and factor 3.

    Raises ConfigError for a factor that never drops one."""
    if factor < 2 or num_candidates < factor:
        raise ConfigError(
            f"--halving={factor} of {num_candidates} candidates: expected at least 2, and as many candidates"
        )
    rungs = int(math.log(num_candidates, factor) + 1e-9)
    return tuple(round(100 / factor**n, 2) for n in range(rungs, 0, -1))


def check(runs, factor):
    """Raises ConfigError if the runs cannot be compared before their end.

    runs: those of the last stage."""
    first = shares(len(results.candidates(runs)), factor)[0]
    for run in runs:
        if run.config["checkpoint"]["every"] == "never":
            raise ConfigError(
                f"--halving={factor}: {run.folder} keeps no checkpoint to continue from; set checkpoint.every"
            )
        every = run.config["evaluation"]["every"].replace("%", " %").split()
        if every[-1] == "never" or (every[-1] == "%" and float(every[0]) > first):
            raise ConfigError(
                f"--halving={factor}: {run.folder} has no evaluation in the first {first:g} % of its steps; "
                f"set evaluation.every='{math.floor(first)} %', or a smaller number"
            )


def run(engine, runs, factor, metric):
    """Runs a sweep with halving; dropped runs get the state 'dropped'.

    Args:
      engine: engine.Engine.
      runs: all runs of the sweep.
      factor: of the candidates, 1 in `factor` continues at each rung.
      metric: 'validation/NAME', or 'test/NAME' for the same, '+' or '-' in front; another, or '': that of
        the task.

    Raises preemption.Preempted if a run was stopped before it could be compared.
    """
    last = [each for each in runs if each.stage is runs[-1].stage]
    _run(engine, [each for each in runs if each.stage is not runs[-1].stage])
    groups = results.candidates(last)
    for share in shares(len(groups), factor):
        alive = [each for group in groups.values() for each in group]

        def is_done(each, share=share):
            return _reached(engine, each, share)

        _run(engine, alive, stop_after=f"{share} %", is_done=is_done)
        scores = {key: _score(engine, group, metric, share) for key, group in groups.items()}
        order = sorted(groups, key=lambda key: scores[key], reverse=True)
        kept = [key for key in order if scores[key] > -math.inf][: max(1, len(groups) // factor)]
        log.info(f"{share:g} % of the steps: {len(kept)} of {len(groups)} candidates continue")
        for key in groups:
            if key not in kept:
                for each in groups[key]:
                    if engine.manifest.records[each.folder]["state"] == "paused":
                        engine.manifest.records[each.folder]["state"] = "dropped"
        groups = {key: groups[key] for key in groups if key in kept}
    engine.run([each for group in groups.values() for each in group])


def _run(engine, runs, **arguments):
    """engine.run; raises Preempted if one of the runs has to be continued by another command."""
    engine.run(runs, **arguments)
    if any(engine.manifest.records[each.folder]["state"] == "stopped" for each in runs):
        raise preemption.Preempted


def _step(folder, share):
    """The step at which training.stop_after='SHARE %' stops a run; 0 if it has not started."""
    total = run_files.total_steps(folder)
    return max(1, round(share * total / 100)) if total else 0


def _reached(engine, each, share):
    """Whether a run holds a checkpoint at its rung."""
    folder = engine.workdir / each.folder
    if engine.is_finished(each):
        return True
    step = _step(folder, share)
    return bool(step) and run_files.run_directory.newest_checkpoint(folder) >= step


def _score(engine, group, metric, share):
    """The mean over seeds of the newest evaluation before a rung, higher is better; -inf if one of the runs
    did not reach it."""
    if not all(_reached(engine, each, share) for each in group):
        return -math.inf
    values = []
    for each in group:
        folder = engine.workdir / each.folder
        best = run_files.best_metric(folder, each.program)
        name, prefix = results.on_validation(metric.lstrip("+-")), metric[:1]
        if not name.startswith("validation/"):
            name, prefix = f"validation/{best[1:]}", ""
        found = run_files.score_at(folder, name, _step(folder, share))
        if found is None:
            raise ConfigError(
                f"{folder} has no {name} before {share:g} % of its steps: lower evaluation.every, choose "
                f"another --metric, or run without --halving"
            )
        sign = {"+": 1.0, "-": -1.0}.get(prefix) or run_files.sign_of(name, best)
        values.append(sign * found[1])
    return sum(values) / len(values)
