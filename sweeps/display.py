"""The progress of a sweep: a live table on a terminal, a line per event elsewhere."""

import logging
import statistics
import sys
import time

import rich.console
import rich.live
import rich.table

from sweeps import run_files
from training import logs

log = logging.getLogger("triptych.sweeps")


class Display:
    """Shows what runs, with a context manager for the live table.

    Args:
      runs: all runs of the sweep.
      manifest: manifest.Manifest.
      jobs: commands at a time, for the time left.
      live: whether to draw a table; None: if standard output is a terminal.
    """

    def __init__(self, runs, manifest, jobs=1, live=None):
        self.runs, self.manifest, self.slots = runs, manifest, jobs
        self._live, self._drawn = None, 0.0
        if sys.stdout.isatty() if live is None else live:
            console = rich.console.Console(file=sys.stdout)
            self._live = rich.live.Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self):
        if self._live:
            self._live.start()  # replaces sys.stdout by one that prints above the table
            self._streams = [(handler, handler.setStream(sys.stdout)) for handler in _handlers()]
        return self

    def __exit__(self, *error):
        if self._live:
            self._live.stop()
            for handler, stream in self._streams:
                handler.setStream(stream)

    def started(self, job):
        """Notes that a command starts."""
        log.info(f"start     {describe(job)}")

    def ended(self, job, records, seconds):
        """Notes that a command has ended: one line, and the reasons of runs that failed."""
        states = [records[run.folder]["state"] for run in job.runs]
        counts = {each: states.count(each) for each in states}
        state = (
            ", ".join(f"{n} {each}" for each, n in counts.items()) if len(counts) > 1 else states[0]
        )
        done = sum(each.get("state") == "finished" for each in self._records())
        log.info(
            f"{state:<9} {describe(job)}  {logs.format_duration(seconds)}  "
            f"[{done}/{len(self.runs)}]  {self.eta({})}".rstrip()
        )
        reasons = {}
        for run in job.runs:
            for line in records[run.folder].get("message", ()):
                reasons.setdefault(line, run.folder)
        for line, folder in reasons.items():
            log.info(f"          {folder}: {line}")

    def update(self, active, waiting):
        """Draws the table, at most twice a second."""
        if self._live is None or time.monotonic() - self._drawn < 0.5:
            return
        self._drawn = time.monotonic()
        self._live.update(self.table(active, waiting), refresh=True)

    def table(self, active, waiting):
        """rich.table.Table of the commands that run, and the counts."""
        table = rich.table.Table(box=None, pad_edge=False)
        for column in ("running", "step", "metrics", "time"):
            table.add_column(
                column, overflow="fold", justify="right" if column == "time" else "left"
            )
        shares = {}
        for each in active:
            found, spent = run_files.progress(each.log_file), time.monotonic() - each.since
            step, text = "starting", ""
            if found:
                step, text = f"{found[0]:,}/{found[1]:,}", found[2]
                shares[each.job] = found[0] / max(found[1], 1), spent
            table.add_row(describe(each.job), step, text, logs.format_duration(spent))
        counts = {}
        for record in self._records():
            counts[record.get("state", "waiting")] = (
                counts.get(record.get("state", "waiting"), 0) + 1
            )
        text = ", ".join(f"{count} {state}" for state, count in counts.items())
        table.caption = "; ".join(filter(None, (text, self.eta(shares))))
        return table

    def eta(self, shares):
        """'eta 0:10:00': for each run that is left the median time of finished runs of its program, or before
        there is one, what those that run will take; '' if nothing is left, or a program has neither.

        shares: {job that runs: (share of its steps that is done, seconds so far)}."""
        done, left, running = {}, {}, {}
        progress = {run.folder: share for job, (share, _) in shares.items() for run in job.runs}
        for job, (share, spent) in shares.items():
            if share:
                running.setdefault(job.runs[0].program, []).append(spent / share / len(job.runs))
        for run in self.runs:
            record = self.manifest.records[run.folder]
            if record.get("state") == "finished":
                if record.get("seconds"):
                    done.setdefault(run.program, []).append(record["seconds"])
            elif record.get("state") in ("waiting", "running", "paused"):
                left[run.program] = left.get(run.program, 0.0) + 1.0 - progress.get(run.folder, 0.0)
        done = running | done
        seconds = sum(
            count * statistics.median(done[program])
            for program, count in left.items()
            if program in done
        )
        if not left or any(program not in done for program in left):
            return ""
        return f"eta {logs.format_duration(seconds / self.slots)}"

    def _records(self):
        return [self.manifest.records[run.folder] for run in self.runs]


def _handlers():
    """The handlers of the log that write to a stream."""
    handlers = logging.getLogger("triptych").handlers
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]


def describe(job):
    """The directory of a command, and the number of its replicas."""
    return f"{job.folder} ({len(job.runs)} replicas)" if len(job.runs) > 1 else job.folder
