"""Where the time of a run is spent: a trace of some updates (config.profile), and the split of all of them.

Used by the train loop. The split needs no synchronization of the loop: a thread notes when each update is
done on the device.
"""

import contextlib
import dataclasses
import logging
import pathlib
import queue
import resource
import shutil
import sys
import tempfile
import threading
import time

import jax

from training import paths

log = logging.getLogger("triptych")

INPUT_BOUND = 0.1  # share of the time of the updates: with more the end of a run gives the remedy


@dataclasses.dataclass(frozen=True)
class Profile:
    """The updates from step `first` to step `last` are traced into `folder`; none if they are equal."""

    first: int = 0
    last: int = 0
    folder: object = None

    @classmethod
    def of(cls, config, converter, run_dir) -> "Profile":
        """The `profile` of a config, in the run directory; each process of several has its own folder."""
        folder = paths.of(run_dir) / "profile"
        if jax.process_count() > 1:
            folder = folder / f"process_{jax.process_index()}"
        return cls(*converter.step_range(config.profile, "profile"), folder)


class Trace:
    """Traces the updates of a Profile; updates before step `start` are done and are not traced again."""

    def __init__(self, profile: Profile, start: int):
        self._profile, self._first = profile, max(profile.first, start)
        self._local = None  # where the trace is written: not in a bucket
        if profile.folder is not None and profile.first < profile.last <= start:
            log.info(f"nothing is profiled: the updates {profile.first} to {profile.last} are done")

    @contextlib.contextmanager
    def update(self, step: int, state):
        """The update from `step` to step + 1 runs inside it. Starts the trace before the first one."""
        if not self._first <= step < self._profile.last:
            yield
            return
        if step == self._first:
            jax.block_until_ready(state)
            remote = paths.remote(self._profile.folder)
            self._local = tempfile.mkdtemp() if remote else str(self._profile.folder)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = (
                0  # it slows the host, and fills the trace with calls of Python
            )
            jax.profiler.start_trace(
                self._local, create_perfetto_trace=True, profiler_options=options
            )
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def is_last(self, step: int) -> bool:
        """Whether the trace ends at `step`."""
        return self._local is not None and step == self._profile.last

    def stop(self, step: int, output) -> None:
        """Ends the trace after the update whose `output` it is, and writes it."""
        jax.block_until_ready(output)
        self.close()
        folder = self._profile.folder
        log.info(
            f"profile of the updates from step {self._first:,} to step {step:,} in {folder}: tensorboard "
            f"--logdir={folder} shows it, and ui.perfetto.dev its perfetto_trace.json.gz"
        )

    def close(self) -> None:
        """Writes a trace that is not ended, of a run that stops inside it."""
        if self._local is None:
            return
        local, self._local = pathlib.Path(self._local), None
        jax.profiler.stop_trace()
        if paths.remote(self._profile.folder):
            for file in filter(pathlib.Path.is_file, local.rglob("*")):
                target = self._profile.folder / file.relative_to(local).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
            shutil.rmtree(local)


def peak_memory() -> tuple[float, str]:
    """(MiB, whose they are): the most that a device of this process has held so far, or the process itself
    where the backend does not say (a CPU)."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if peak := max(each.get("peak_bytes_in_use", 0) for each in stats):
        return peak / 2**20, "a device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, "the process"


class StepTimes:
    """Splits the time of a run into what the device waits for, and its work.

    input: the device is idle and the host waits for the next batch. compute: the device works on updates.
    other: everything else, such as evaluation, checkpoints and the log. Compilation is left out.
    """

    def __init__(self):
        self._queue, self._thread, self._steps = queue.Queue(), None, 0
        self._seconds = dict.fromkeys(("input", "compute", "other"), 0.0)  # since the last report
        self._totals = dict(self._seconds)

    def start(self) -> None:
        """Starts measuring; no update is in progress."""
        self._done = time.perf_counter()  # when the last update was
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def add(self, waiting: float, began: float, compiling: float, output) -> None:
        """Counts an update.

        Args:
          waiting: time.perf_counter() when the host started to wait for its batch.
          began: when the update was called.
          compiling: seconds of compilation inside the call.
          output: an array that is ready when the update is done.
        """
        if self._thread is not None:
            self._steps += 1
            self._queue.put((waiting, began, compiling, output))

    def _watch(self):
        while (item := self._queue.get()) is not None:
            waiting, began, compiling, output = item
            with contextlib.suppress(Exception):  # the loop meets it too, and raises
                output.block_until_ready()
            done, free = time.perf_counter(), self._done
            seconds = self._seconds
            seconds["input"] += max(0.0, began - max(free, waiting))
            seconds["other"] += max(0.0, min(waiting, began) - free)
            seconds["compute"] += max(0.0, done - max(free, began) - compiling)
            self._done = done
            del item, output
            self._queue.task_done()

    @contextlib.contextmanager
    def paused(self):
        """Time inside it is not counted. All updates are done."""
        yield
        self._queue.join()
        self._done = time.perf_counter()

    def report(self) -> dict[str, float]:
        """{'input_seconds_per_step': ..., 'compute_...', 'other_...'} since the last report; {} without an
        update. All updates are done."""
        self._queue.join()
        steps, seconds = self._steps, self._seconds
        self._steps, self._seconds = 0, dict.fromkeys(seconds, 0.0)
        if not steps:
            return {}
        self._totals = {name: total + seconds[name] for name, total in self._totals.items()}
        return {f"{name}_seconds_per_step": value / steps for name, value in seconds.items()}

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._queue.put(None)

    def log(self, remedy: str) -> None:
        """Logs the split of the reported updates, and the remedy where data is the bottleneck."""
        updates = self._totals["input"] + self._totals["compute"]
        if not updates:
            return
        shares = {name: total / updates for name, total in self._totals.items()}
        log.info(
            f"time of the updates: {shares['compute']:.0%} computes, {shares['input']:.0%} waits for data; "
            f"evaluation, checkpoints and the log add {shares['other']:.0%}"
        )
        # not of a run of seconds
        if shares["input"] > INPUT_BOUND and self._totals["input"] >= 1.0:
            log.warning(
                f"input-bound: {100 * shares['input']:.0f} % of the time waits for data; {remedy}"
            )


def input_remedy(config) -> str:
    """What makes the batches of a config faster."""
    if hasattr(config, "data"):
        return (
            f"raise config.data.threads ({config.data.threads}) and config.data.prefetch "
            f"({config.data.prefetch}), or put config.data.cache_dir on a local disk"
        )
    return (
        "the host makes batches more slowly than the device uses them: give it more or faster cores"
    )
