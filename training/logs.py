"""Where numbers go: console, metrics.jsonl, TensorBoard.

metrics.jsonl has each update and each evaluation once, whatever interrupted the run: on resume, what
lies beyond the restored step is cut off before anything is appended.
"""

import dataclasses
import json
import logging
import sys
import time

from training import journal, paths
from training import mesh as meshes

log = logging.getLogger("triptych")


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """How often the host looks at the device, and where it writes what it saw."""

    every: str = dataclasses.field(
        default="50 steps", metadata={"help": "cadence of console lines"}
    )
    tensorboard: bool = dataclasses.field(default=True, metadata={"help": "write event files"})


def to_console(stream=None):
    """Plain lines on `stream`, by default standard output. Touches no device: processes may still
    have to join."""
    if not log.handlers:
        handler = logging.StreamHandler(stream or sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of files that we do not write


def only_main_speaks():
    """Once processes have joined: the others keep to warnings."""
    log.setLevel(logging.INFO if meshes.main_process() else logging.WARNING)


def banner(words):
    """One ruled line per phase, in the words of the entry file's banner."""
    log.info(f"---- {words} " + "-" * max(0, 74 - len(words)))


class Metrics:
    """Writer of one run's metrics; does nothing on processes other than the main one.

    Holds the run's lock from its making to `close`: two processes of one run would ruin it.

    Args:
      folder: run directory.
      tensorboard: also write event files.

    Raises ConfigError if another program is at work in the folder.
    """

    def __init__(self, folder, tensorboard):
        self._journal = self._events = None
        self._folder, self._tensorboard, self._begun = folder, tensorboard, False
        if meshes.main_process():
            self._journal = journal.open_journal(folder)

    def begin(self, step):
        """Goes on after `step`, -1 for a fresh run; lines of later steps are removed."""
        if self._journal is None:
            return
        self._journal.begin(step)
        self._begun = True
        if self._tensorboard and paths.remote(self._folder):
            log.info("no TensorBoard events in a bucket: metrics.jsonl has the same numbers")
        elif self._tensorboard:
            from tensorboardX import SummaryWriter  # a second to import: only where asked for

            self._events = SummaryWriter(str(self._folder), purge_step=step + 1)

    def write(self, step, split, values):
        """Appends one line {'step', 'split', **values}; flushed by `flush`."""
        if not self._begun:
            return
        self._journal.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._events.add_scalar(f"{split}/{name}", value, step)

    def flush(self):
        """On disk before a checkpoint says that these steps are done."""
        if self._begun:
            self._journal.flush()
        if self._events is not None:
            self._events.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Flushes and closes."""
        if self._events is not None:
            self._events.close()
        if self._journal is not None:
            self._journal.close()


def read(run, split):
    """Lines of one split of a run's metrics.jsonl, as dicts in order."""
    path = paths.of(run) / "metrics.jsonl"
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["split"] == split]


def last(run, split):
    """The values of the last line of a split, {} if there is none; for a run that is finished."""
    lines = read(run, split) if (paths.of(run) / "metrics.jsonl").exists() else []
    return {k: v for k, v in lines[-1].items() if k not in ("step", "split")} if lines else {}


class Rate:
    """Tokens per second and time left, over the steps since the last look (compilation excluded)."""

    def __init__(self, step, total, tokens_per_step, flops_per_step=0.0, peak=0.0):
        self.total, self.tokens = total, tokens_per_step
        self.flops, self.peak = flops_per_step, peak
        self._step, self._time = step, None

    def start(self, step):
        """Begins to count at `step`; called once the first update has been compiled and has run."""
        self._step, self._time = step, time.perf_counter()

    def words(self, step):
        """('12,345 tok/s  41.2 % mfu  eta 0:01:23', {'tokens_per_second': ...}); empty before data."""
        if self._time is None or step == self._step:
            return "", {}
        seconds = (time.perf_counter() - self._time) / (step - self._step)
        self.start(step)
        values = {"tokens_per_second": self.tokens / seconds, "seconds_per_step": seconds}
        words = f"{values['tokens_per_second']:>9,.0f} tok/s"
        if self.peak:
            values["model_flops_utilisation"] = self.flops / seconds / self.peak
            words += f"  {100 * values['model_flops_utilisation']:.1f} % mfu"
        return f"{words}  eta {clock(seconds * (self.total - step))}", values


def clock(seconds):
    """1234.5 -> '0:20:34'."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
