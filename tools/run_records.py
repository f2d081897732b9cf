"""What a run directory says about its run, read without JAX: tools/watch.py, compare.py and reproduce.py.

A run may be written while it is read, or have stopped anywhere.
"""

import dataclasses
import datetime
import os
import pathlib
import platform
import time
from typing import Any

from training import logs, paths
from training.config import ConfigError

QUIET_SECONDS = 600  # a run on another host that has written nothing for so long is taken for dead


@dataclasses.dataclass(frozen=True)
class Record:
    """A run.

    Attributes:
      name: shown; the end of the path.
      folder: its directory.
      kind: 'pretrain', 'finetune' or 'replicas'.
      config: the resolved config, nested dicts.
      manifest: {} if there is none yet.
      metrics: lines of metrics.jsonl.
      state: starting, running, finished, preempted, failed or killed.
      message: of an error.
    """

    name: str
    folder: Any
    kind: str
    config: dict
    manifest: dict
    metrics: list[dict]
    state: str
    message: str = ""

    def lines(self, split: str) -> list[dict]:
        return [line for line in self.metrics if line["split"] == split]

    def last(self, split: str) -> dict[str, float]:
        """{metric: value} of the last line of a split, {} if there is none."""
        lines = self.lines(split)
        last = lines[-1] if lines else {}
        return {key: value for key, value in last.items() if key not in ("step", "split")}

    @property
    def step(self) -> int:
        return max((line["step"] for line in self.metrics), default=0)

    @property
    def total_steps(self) -> int:
        """0 before it is known."""
        return self.manifest.get("total_steps", 0)

    @property
    def eta(self) -> float:
        """Seconds of the steps that are left, at the last measured speed; 0.0 if none is known."""
        return self.last("throughput").get("seconds_per_step", 0.0) * (self.total_steps - self.step)

    def samples(self, number: int) -> list[str]:
        """The last rows of the newest predictions file, as text."""
        files = sorted(self.folder.glob("predictions_*.tsv"), key=lambda file: file.stat().st_mtime)
        if not files or number < 1:
            return []
        header, *rows = files[-1].read_text(encoding="utf-8").splitlines()
        names = header.split("\t")
        return [
            "  ".join(f"{n}: {v}" for n, v in zip(names, row.split("\t"), strict=False) if v)
            for row in rows[-number:]
        ]


def find(places) -> list:
    """The run directories among the paths: each that is one, and those one or two levels below the others.

    Raises ConfigError if a path has no run."""
    found = []
    for place in places:
        folder = paths.of(place)
        runs = [folder] if (folder / "config.json").exists() else []
        if not runs or paths.read_object(folder / "config.json").get("kind") == "replicas":
            runs = [file.parent for pattern in ("*/config.json", "*/*/config.json")
                    for file in folder.glob(pattern)]  # fmt: skip
        if not runs:
            raise ConfigError(
                f"{place} has no run (no config.json in it or in its directories); expected the --workdir of "
                f"a run, or a directory of runs"
            )
        found += sorted(runs)
    return list(dict.fromkeys(found))


def read(folder) -> Record:
    """The Record of a run directory. Raises ConfigError for one that is none."""
    folder = paths.of(folder)
    content = paths.read_object(folder / "config.json")
    if not isinstance(content.get("config"), dict):
        raise ConfigError(f"{folder} is not a run directory; expected the --workdir of a run")
    metrics = []
    if (folder / "metrics.jsonl").exists():
        try:
            metrics = logs.read_all_metrics(folder)
        except ValueError as error:
            raise ConfigError(f"{folder}/metrics.jsonl is damaged: {error}") from error
    manifest = paths.read_object(folder / "manifest.json")
    state, message = _state(folder, manifest)
    name = "/".join(folder.parts[-2:]) if folder.name.startswith("seed=") else folder.name
    return Record(
        name, folder, content.get("kind", ""), content["config"], manifest, metrics, state, message
    )


def _state(folder, manifest):
    ended = paths.read_object(folder / "ended.json")
    if (folder / "failed.json").exists():
        return "failed", "its update was not finite"
    if ended:
        return ended.get("state", "failed"), ended.get("message", "")
    if not manifest:
        return "starting", ""
    lock = folder / ".lock"
    if paths.remote(folder):
        return ("running" if lock.exists() else "killed"), ""
    host = lock.read_text().strip() if lock.exists() else ""
    if host == platform.node() and os.path.exists("/proc/locks"):
        return ("running" if _is_locked(lock) else "killed"), ""
    newest = max(file.stat().st_mtime for file in folder.glob("m*.json*"))
    return ("running" if time.time() - newest < QUIET_SECONDS else "killed"), ""


def _is_locked(file) -> bool:
    """Whether a program of this host has the lock, without trying to take it."""
    inode = f":{file.stat().st_ino} "
    return any(inode in line for line in pathlib.Path("/proc/locks").read_text().splitlines())


def started(record: Record) -> str:
    """The time of the last start, for people."""
    starts = record.manifest.get("starts", [])
    if not starts:
        return ""
    moment = datetime.datetime.fromisoformat(starts[-1]["time"]).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M")
