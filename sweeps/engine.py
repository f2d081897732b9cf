"""Runs the commands of a sweep: each when the run that it starts from has finished, and none twice.

A run that fails is reported and the others continue. Ctrl-C and SIGTERM stop the commands, which save.
"""

import dataclasses
import logging
import pathlib
import time

from sweeps import executors, run_files
from sweeps.manifest import now
from sweeps.plan import Job, make_jobs
from training import preemption
from training.config import ConfigError

log = logging.getLogger("triptych.sweeps")


@dataclasses.dataclass
class Active:
    """A command that runs."""

    job: Job
    started: dict  # of the executor, with 'folder'
    log_file: pathlib.Path
    since: float
    records: list  # the attempt of each run, in the manifest


class Engine:
    """Runs commands of the runs of one workdir.

    Args:
      manifest: manifest.Manifest.
      executor: executors.Local or Slurm.
      display: display.Display.
      max_replicas: see plan.make_jobs.
      programs: see plan.Job.command.
    """

    def __init__(self, manifest, executor, display, max_replicas=1, programs=None):
        self.manifest, self.executor, self.display = manifest, executor, display
        self.max_replicas, self.programs = max_replicas, programs
        self.workdir, self.is_finished = manifest.workdir, manifest.is_finished

    def run(self, runs, stop_after="", is_done=None):
        """Runs those of `runs` that are not done, the runs that others start from first.

        Args:
          runs: list of Run.
          stop_after: duration at which they stop; '': at their end.
          is_done: function of a Run; by default whether it has finished.

        Raises preemption.Preempted after a signal, when all commands have saved.
        """
        is_done = is_done or self.is_finished
        left = []
        for run in runs:
            state = self._state(run, is_done)
            self._set(run, state)
            if state == "waiting":
                left.append(run)
        active = self._adopt(left, stop_after)
        busy = {run for each in active for run in each.job.runs}

        def commands(runs):
            return make_jobs(runs, self.workdir, self.max_replicas, stop_after)

        jobs = commands([run for run in left if run not in busy])
        self.manifest.write()
        with preemption.watch() as stop:
            try:
                while (jobs or active) and not stop:
                    for each in [a for a in active if self.executor.poll(a.started) is not None]:
                        active.remove(each)
                        jobs += commands(self._ended(each, is_done))
                    parents = {job.parent for job in jobs if job.parent}
                    missing = {run for each in active for run in each.job.runs}
                    missing |= {parent for parent in parents if not self.is_finished(parent)}
                    ready = [job for job in jobs if job.parent not in missing]
                    if not active and not ready:
                        break
                    for each in self._start(ready, active):
                        jobs.remove(each.job)
                        active.append(each)
                    self.display.update(active, jobs)
                    time.sleep(self.executor.wait_seconds)
            finally:
                self._stop(active, is_done)
        self.display.update([], jobs)
        if stop:
            raise preemption.Preempted(stop.signal)
        for job in jobs:
            for run in job.runs:
                self._set(run, "blocked", message=f"{job.parent.folder} has not finished")
        self.manifest.write()

    def _state(self, run, is_done):
        folder = self.workdir / run.folder
        if is_done(run):
            return "finished" if self.is_finished(run) else "paused"
        if (update := run_files.failed_update(folder)) is not None:
            self._fail(run, [f"update {update} was not finite; remove {folder} to train it again"])
            return "failed"
        return "waiting"

    def _set(self, run, state, **values):
        record = self.manifest.records[run.folder]
        if state != "failed":
            record.pop("message", None)
        record |= {"state": state, **values}

    def _adopt(self, runs, stop_after):
        """The commands of an earlier sweep that still run."""
        found = {}
        for run in runs:
            attempts = self.manifest.records[run.folder]["attempts"]
            last = attempts[-1] if attempts else {"end": ""}
            if "end" in last:
                continue
            if not executors.still_runs(last, self.workdir):
                last["end"] = ""  # the sweep ended before it
            elif last["executor"] != self.executor.name:
                raise ConfigError(
                    f"{run.folder} still runs: a sweep with --executor={last['executor']} started it; "
                    f"continue with that, or stop it ({executors.stop_command([last])})"
                )
            else:
                found.setdefault(last["folder"], []).append((run, last))
        active = []
        for pairs in found.values():
            job = Job(tuple(run for run, _ in pairs), stop_after)
            records = [record for _, record in pairs]
            file = pathlib.Path(records[0]["log"])
            log.info(f"{job.folder} still runs: an earlier sweep started it")
            active.append(Active(job, records[0], file, time.monotonic(), records))
            for run, _ in pairs:
                self._set(run, "running")
        return active

    def _start(self, ready, active):
        """Starts as many of the jobs as may run at a time."""
        taken = {each.started.get("slot") for each in active}
        free = [n for n in range(self.executor.capacity) if n not in taken]
        free = free[: max(0, self.executor.capacity - len(active))]
        batch = ready[: len(free)]
        if not batch:
            return []
        files = [self._log_file(job) for job in batch]
        commands = [job.command(self.workdir, self.programs) for job in batch]
        started = self.executor.start(commands, files, free[: len(batch)])
        found = []
        for job, file, command, about in zip(batch, files, commands, started, strict=True):
            about |= {"folder": str(self.workdir / job.folder), "log": str(file)}
            records = []
            for run in job.runs:
                attempt = {"start": now(), **about, "command": command}
                self.manifest.records[run.folder]["attempts"].append(attempt)
                self._set(run, "running")
                records.append(attempt)
            found.append(Active(job, about, file, time.monotonic(), records))
            self.display.started(job)
        self.manifest.write()
        return found

    def _log_file(self, job):
        file = self.workdir / "logs" / f"{job.folder}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _ended(self, each, is_done, stopping=False):
        """Records the end of a command; returns the runs that have to run again."""
        status, seconds = self.executor.poll(each.started), time.monotonic() - each.since
        again = []
        for run, attempt in zip(each.job.runs, each.records, strict=True):
            attempt |= {"end": now(), "exit": status, "seconds": seconds / len(each.job.runs)}
            state = self._state(run, is_done)
            if state == "waiting" and status == "unknown" and not stopping:
                again.append(run)
            elif state == "waiting" and (status == 143 or stopping):
                state = "stopped"
            elif state == "waiting":
                self._fail(run, _reason(status, each.log_file))
                state = "failed"
            self._set(run, state, seconds=self._seconds(run))
        self.manifest.write()
        self.display.ended(each.job, self.manifest.records, seconds)
        return again

    def _seconds(self, run):
        attempts = self.manifest.records[run.folder]["attempts"]
        return sum(attempt.get("seconds", 0.0) for attempt in attempts)

    def _fail(self, run, lines):
        self.manifest.records[run.folder]["message"] = lines

    def _stop(self, active, is_done):
        """Stops the commands that run, and waits for them to save."""
        if not active:
            return
        if self.executor.outlives:
            log.info(
                f"{len(active)} tasks stay in the queue; the same command waits for them and submits "
                "the runs that are left"
            )
            return
        for each in active:
            self.executor.stop(each.started)
        log.info(f"waiting for the running commands ({len(active)}) to save and end")
        while active:
            for each in [a for a in active if self.executor.poll(a.started) is not None]:
                active.remove(each)
                self._ended(each, is_done, stopping=True)
            time.sleep(0.1)


def _reason(status, log_file):
    """Lines about the end of a command that did not finish its runs."""
    lines = run_files.last_words(log_file)
    if isinstance(status, int) and status < 0:
        killed = f"killed by signal {-status}"
        killed += " (out of memory?)" * (status == -9)
        return [*lines[-1:], f"{killed}; the same command of the sweep resumes it"]
    return lines or [f"exit status {status}, and nothing in {log_file}"]
