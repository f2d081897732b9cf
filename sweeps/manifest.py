"""The manifest of a sweep: sweep.json has its file, command and runs with their states; configs.json has
the resolved config of each run, by which a changed sweep file is compared with the workdir.
"""

import dataclasses
import datetime
import hashlib
import json
import logging
import pathlib
import sys

from sweeps import executors, run_files
from sweeps.plan import SAME_RUN, SCHEMAS, swept_keys
from training import config as config_lib
from training import metric_writer, paths, run_directory
from training.config import ConfigError

log = logging.getLogger("triptych.sweeps")

MANIFEST, CONFIGS, SET_ASIDE = "sweep.json", "configs.json", "set_aside"


class Manifest:
    """The records of the runs in a workdir, those that a sweep file no longer has included.

    Attributes:
      records: {folder: {'program', 'overrides', 'state', 'attempts', ...}}.
      configs: {folder: {'program', 'config'}}.
    """

    def __init__(self, workdir):
        self.workdir = pathlib.Path(workdir)
        self.head = {}
        self.records = {
            each["folder"]: each for each in _read(self.workdir / MANIFEST).get("runs", ())
        }
        self.configs = _read(self.workdir / CONFIGS)

    def is_finished(self, run):
        """Whether a run has finished."""
        return run_files.is_finished(self.workdir / run.folder, run.program)

    def known(self):
        """{folder: {'program', 'config'}} for sweeps.plan.make_runs: a field that is newer than a record has
        its default there."""
        found = {}
        for folder, record in self.configs.items():
            try:
                resolved = config_lib.resolve(SCHEMAS[record["program"]], record["config"])
            except ConfigError:  # of a version with other fields
                found[folder] = record
                continue
            found[folder] = {
                **record,
                "config": json.loads(json.dumps(config_lib.to_dict(resolved))),
            }
        return found

    def compare(self, runs):
        """Changes: what the plan and the workdir disagree about."""
        known, stale, new = self.known(), {}, []
        swept = {
            stage: swept_keys([r for r in runs if r.stage is stage])
            for stage in {r.stage for r in runs}
        }
        for run in runs:
            there = run_files.is_started(self.workdir / run.folder)
            record = known.get(run.folder) or self._own_config(run)
            changed = [
                f"{key} was {was!r}, is {now!r}"
                for key, was, now in config_lib.difference(record["config"], run.config)
                if key in swept[run.stage] or not key.startswith(SAME_RUN)
            ]
            if run.parent is not None and run.parent.folder in stale:
                stale[run.folder] = f"{run.parent.folder} is stale"
            elif changed and (there or self._running(run.folder)):
                stale[run.folder] = "; ".join(changed[:2])
            elif not there:
                new.append(run.folder)
        planned = {run.folder for run in runs}
        gone = [
            folder
            for folder in self.records
            if folder not in planned and (self.workdir / folder).exists()
        ]
        return Changes(new, stale, gone)

    def _running(self, folder):
        """[the attempt whose command still runs or is queued], [] if there is none."""
        last = self.records.get(folder, {}).get("attempts", [])[-1:]
        return [each for each in last if executors.still_runs(each, self.workdir)]

    def _own_config(self, run):
        """The record of a run that the manifest does not know: its config as the run stored it, with the
        fields that come from where it started as they are planned."""
        stored = run_directory.read_config(self.workdir / run.folder, missing_ok=True)
        planned = dict(run.config)
        kept = {key: planned[key] for key in ("model", "init_from") if key in planned}
        return {"config": {**(stored or {"config": {}})["config"], **kept}}

    def plan(self, runs, head):
        """Records the planned runs, and writes the manifest."""
        self.head = head
        for run in runs:
            record = self.records.setdefault(run.folder, {"folder": run.folder, "attempts": []})
            record |= {
                "program": run.program, "config": run.config_file, "overrides": dict(run.overrides),
                "parent": run.parent.folder if run.parent else "",
                "fingerprint": hashlib.sha256(run.identity().encode()).hexdigest()[:16],
            }  # fmt: skip
            if record.get("state") == "gone":  # it is planned again
                record["state"] = "waiting"
            self.configs[run.folder] = {"program": run.program, "config": run.config}
        planned = {run.folder for run in runs}
        for folder, record in self.records.items():
            if folder not in planned:
                record["state"] = "gone"
        write_json(self.workdir / CONFIGS, self.configs)
        self.write()

    def write(self):
        """Writes sweep.json as a whole."""
        write_json(self.workdir / MANIFEST, {**self.head, "runs": list(self.records.values())})

    def set_aside(self, folders):
        """Moves directories of stale runs to set_aside/N/, those that started from another one first.

        Raises ConfigError if a command still writes to one of them."""
        running = {folder: found for folder in folders if (found := self._running(folder))}
        if running:
            command = executors.stop_command(each for found in running.values() for each in found)
            raise ConfigError(
                f"--stale=redo: {first_and_count([*running])} still runs with its old config; stop it "
                f"({command}), then use the same command again"
            )
        for folder in folders:
            self.records.pop(folder, None)
        folders = [folder for folder in folders if (self.workdir / folder).exists()]
        target = self.workdir / SET_ASIDE
        number = 1 + max((int(p.name) for p in target.glob("*") if p.name.isdigit()), default=0)
        for folder in reversed(folders):
            place = target / str(number) / folder
            place.parent.mkdir(parents=True, exist_ok=True)
            (self.workdir / folder).rename(place)
        log.info(f"moved {len(folders)} stale runs to {target / str(number)}")


@dataclasses.dataclass(frozen=True)
class Changes:
    """What a sweep file and a workdir disagree about.

    Attributes:
      new: folders of planned runs that have not started.
      stale: {folder: what changed} of runs that have started, or whose command still runs, with another
        config than that of the plan; and of all runs that start from one of these.
      gone: folders of runs that are no longer planned.
    """

    new: list
    stale: dict
    gone: list

    def describe(self):
        """Lines for the log."""
        if self.gone:
            yield f"gone: {first_and_count(self.gone)}: not in the sweep file any more; the directory stays"
        reasons = {}
        for folder, why in self.stale.items():
            reasons.setdefault(why, []).append(folder)
        for why, folders in reasons.items():
            yield f"stale: {first_and_count(folders)}: {why}"

    def check(self, workdir):
        """Raises ConfigError if there are stale runs."""
        if self.stale:
            folder, why = next(iter(self.stale.items()))
            raise ConfigError(
                f"{len(self.stale)} runs in {str(workdir)!r} are stale, the first is {folder} "
                f"({why[:120]}); --stale=redo moves them to {SET_ASIDE}/ and runs them again, --stale=keep "
                f"leaves them out, or choose another --workdir"
            )


def first_and_count(folders):
    """The first of these names, and how many there are besides."""
    return folders[0] + (f" and {len(folders) - 1} more" if len(folders) > 1 else "")


def read_sweep(workdir):
    """(head of the manifest, {folder: {'program', 'config'}}, records of the runs that the sweep has) of the
    sweep in a directory; the head is {} and there are no runs if it has none."""
    found, configs = (paths.read_object(workdir / name) for name in (MANIFEST, CONFIGS))
    return found, configs, [run for run in found.get("runs", ()) if run.get("state") != "gone"]


def head(sweep, specification):
    """The entries of the manifest about the sweep itself."""
    path = specification.partition(":")[0]
    text = pathlib.Path(path).read_bytes() if pathlib.Path(path).is_file() else b""
    return {
        "format": 1,
        "title": sweep.title,
        "file": specification,
        "file_sha256": hashlib.sha256(text).hexdigest(),
        "commit": run_directory.git("rev-parse", "HEAD"),
        "command": [sys.executable, *sys.argv],
        "time": now(),
    }


def now():
    """The time as text."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_json(path, value):
    """Writes JSON; a reader never sees a part of it."""
    paths.write_text(path, json.dumps(value, indent=1) + "\n")


def lock(workdir):
    """A lock on the workdir of a sweep. Raises ConfigError if another sweep holds it."""
    return metric_writer.FileLock(workdir)


def _read(path):
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{path} is not readable JSON ({error}); restore or remove it: the runs are found again"
        ) from error
