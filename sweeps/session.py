"""One call of tools.sweep: plans the runs, compares them with the workdir, runs what is left, reports."""

import collections
import dataclasses
import logging
import os
import pathlib
import shlex

from sweeps import display, engine, executors, halving, manifest, plan, report, results
from sweeps.sweep_file import Sweep
from training import config as config_lib
from training import paths, preemption
from training.config import ConfigError

log = logging.getLogger("triptych.sweeps")


def run(given, programs=None, cluster="slurm"):
    """Runs or continues a sweep; returns the content of results.json, None if nothing was to be reported.

    Args:
      given: the flags of tools.sweep.
      programs: see plan.Job.command.
      cluster: see executors.Slurm.

    Raises ConfigError, at the end if runs failed, and preemption.Preempted after a signal, or if runs were
    stopped by one or by their time limit.
    """
    log.setLevel(logging.INFO)
    sweep, workdir = _load(given), pathlib.Path(given.workdir)
    book = manifest.Manifest(workdir)
    runs = plan.make_runs(sweep, book.known())
    last = [each for each in runs if each.stage is sweep.stage]
    results.check_sweep(sweep, last, given.metric)
    if given.halving:
        halving.check(last, given.halving)
    changes = book.compare(runs)
    for line in changes.describe():
        log.info(line)
    log.info(sweep.title)
    log.info(_counts(runs, changes, book))
    if not given.report:
        plan.check_init_from([each for each in runs if each.folder in changes.new])
    if given.dry_run:
        print("\n".join(_commands(runs, book, given, changes.stale)))
        if changes.stale:
            log.info("--stale=redo runs the stale ones again, --stale=keep leaves them out")
        return None
    if given.stale == "keep":
        runs = [each for each in runs if each.folder not in changes.stale]
        if not any(each.stage is sweep.stage for each in runs):
            raise ConfigError(
                f"--stale=keep leaves out all {len(last)} runs that are compared; --stale=redo runs them "
                f"again, or choose another --workdir"
            )
    if given.stale == "refuse":
        changes.check(workdir)
    executor = None if given.report else _executor(given, workdir, cluster)
    paths.make_directory(workdir, "workdir")
    lock = manifest.lock(workdir)
    try:
        if given.stale == "redo" and changes.stale:
            book.set_aside([each.folder for each in runs if each.folder in changes.stale])
        book.plan(runs, manifest.head(sweep, given.config))
        if given.executor == "print" and not given.report:
            print("\n".join(_commands(runs, book, given, ())))
        stop = _execute(given, sweep, runs, book, executor, programs) if executor else None
        for each in runs:
            if book.is_finished(each):
                book.records[each.folder]["state"] = "finished"
        book.write()
        found = results.collect(sweep, runs, book.records, workdir, given.metric)
        report.write(found, runs, workdir, book.head)
    finally:
        lock.release()
    states = {each.folder: book.records[each.folder].get("state", "waiting") for each in runs}
    if stop:
        left = sum(state not in ("finished", "dropped") for state in states.values())
        log.info(f"stopped; the same command continues with the {left} runs that are left")
        raise stop
    if found["wrong_metric"]:
        raise ConfigError(found["wrong_metric"])
    if given.report:
        return found
    if failed := [folder for folder, state in states.items() if state == "failed"]:
        attempts = book.records[failed[0]]["attempts"]
        logged = f": see {attempts[-1]['log']}" if attempts else ""
        raise ConfigError(
            f"{len(failed)} of {len(runs)} runs failed, the first is {failed[0]}{logged}; the same command "
            "tries them again"
        )
    if "stopped" in states.values():
        log.info("some runs were stopped before their end; the same command continues them")
        raise preemption.Preempted
    return found


def _counts(runs, changes, book):
    """'7 runs (1 pretrain, 6 finetune): 1 finished, 2 unfinished, 4 new, 0 stale'."""
    stages = collections.Counter(run.stage.name for run in runs)
    of_stages = ", ".join(f"{count} {name}" for name, count in stages.items())
    finished = sum(run.folder not in changes.stale and book.is_finished(run) for run in runs)
    unfinished = len(runs) - finished - len(changes.new) - len(changes.stale)
    return (
        f"{len(runs)} runs ({of_stages}): {finished} finished, {unfinished} unfinished, "
        f"{len(changes.new)} new, {len(changes.stale)} stale"
    )


def _load(given):
    """The Sweep of the flags; raises ConfigError for a flag that cannot be used."""
    if paths.remote(given.workdir):
        raise ConfigError(
            f"--workdir={given.workdir!r}: a sweep needs a local or shared folder for its manifest and logs"
        )
    if given.jobs < 0 or given.replicas < 1:
        raise ConfigError("--jobs and --replicas: expected at least 1")
    if os.path.exists(os.path.join(given.workdir, "config.json")):
        raise ConfigError(
            f"--workdir={given.workdir!r} holds a run, not a sweep; choose another one"
        )
    sweep = config_lib.load_config_file(given.config, "get_sweep")
    if not isinstance(sweep, Sweep):
        raise ConfigError(
            f"{given.config}: get_sweep() returned {type(sweep).__name__}, expected a Sweep (docs/sweeps.md)"
        )
    if not given.baseline:
        return sweep
    pairs = [part.partition("=") for part in given.baseline.split(",")]
    if not all(key and equals for key, equals, _ in pairs):
        raise ConfigError(
            f"--baseline={given.baseline!r}: expected KEY=VALUE,..., such as init=random"
        )
    return dataclasses.replace(sweep, baseline={key: value for key, _, value in pairs})


def _executor(given, workdir, cluster):
    """The executor of the flags, None for print."""
    if given.executor == "local":
        return executors.Local(given.jobs or 1, given.pin)
    if given.executor == "slurm":
        options = executors.parse_options(given.slurm)
        return executors.Slurm(workdir / executors.SLURM_FOLDER, given.jobs or 32, options, cluster)
    return None


def _execute(given, sweep, runs, book, executor, programs):
    """Runs what is left; returns the Preempted that stopped it, or None."""
    log.info(executor.describe())
    with display.Display(runs, book, executor.slots) as shown:
        machine = engine.Engine(book, executor, shown, given.replicas, programs)
        try:
            if given.halving:
                halving.run(machine, runs, given.halving, given.metric or sweep.metric)
            else:
                machine.run(runs)
        except preemption.Preempted as stop:
            return stop
    return None


def _commands(runs, book, given, stale):
    """Lines with the commands that are left, in an order in which they can run; comments say for what."""
    done = [each for each in runs if each.folder not in stale and book.is_finished(each)]
    for each in done:
        yield f"# finished: {each.folder}"
    left = [each for each in runs if each not in done]
    for job in plan.make_jobs(left, book.workdir, given.replicas):
        state = "stale" if job.runs[0].folder in stale else "to run"
        yield f"# {state}: {display.describe(job)}"
        yield shlex.join(job.command(os.fspath(book.workdir)))
