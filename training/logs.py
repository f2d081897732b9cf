"""The console log, throughput, and readers of metrics.jsonl (written by training/metric_writer.py)."""

import contextlib
import json
import logging
import os
import sys
import time

from training import paths

log = logging.getLogger("triptych")


def log_to_console(stream=None, is_needed=False):
    """Plain lines on `stream`, by default standard output. Needs no device: processes may not have joined
    yet."""
    if not log.handlers:
        handler = _Console(stream or sys.stdout, is_needed)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about files that are optional


class _Console(logging.StreamHandler):
    """A handler that discards further lines once nobody reads the stream; raises BrokenPipeError instead if
    the log is needed."""

    def __init__(self, stream, is_needed):
        super().__init__(stream)
        self._is_needed = is_needed

    def handleError(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, BrokenPipeError):
            super().handleError(record)
        elif self._is_needed:
            raise error
        else:
            discard(self.stream)


def discard(stream):
    """Redirects later output of `stream` to /dev/null."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def banner(title):
    """One ruled line per phase for --verbose, with the title of the entry file's banner."""
    log.debug(f"---- {title} " + "-" * max(0, 74 - len(title)))


def read_metrics(run, split):
    """The lines of one split of a run's metrics.jsonl, as dicts in order."""
    return [line for line in read_all_metrics(run) if line["split"] == split]


def read_all_metrics(run):
    """The lines of all splits; without the last one where a run that still writes has not ended it."""
    text = (paths.of(run) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def last_metrics(run, split):
    """{metric: value} of the last line of a split of a finished run, {} if there is none."""
    lines = read_metrics(run, split) if (paths.of(run) / "metrics.jsonl").exists() else []
    return {k: v for k, v in lines[-1].items() if k not in ("step", "split")} if lines else {}


seconds_compiling = 0.0  # of all programs: a throughput leaves them out


@contextlib.contextmanager
def compiling(what):
    """Logs that `what` is compiled inside it, and how long that took."""
    global seconds_compiling
    log.info(f"compiling {what}")
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    seconds_compiling += seconds
    log.info(f"compiled in {seconds:.1f} s")


class Throughput:
    """Tokens per second and time left, measured between reports, without compilation and pauses.

    Args:
      total_steps: steps of the run.
      tokens_per_step: tokens that the model reads per step.
      flops_per_step: model FLOPs per step.
      peak_flops: FLOP/s of all devices; 0.0: no utilization is reported.
    """

    def __init__(self, total_steps, tokens_per_step, flops_per_step=0.0, peak_flops=0.0):
        self.total_steps, self.tokens_per_step = total_steps, tokens_per_step
        self.flops_per_step, self.peak_flops = flops_per_step, peak_flops
        self._step = None

    def start(self, step):
        """Starts measuring at `step`; called after the first update, which includes compilation."""
        self._step, self._seconds, self._since = step, 0.0, time.perf_counter()
        self._compiling = seconds_compiling

    @contextlib.contextmanager
    def paused(self):
        """Evaluation and saving run inside it: they count neither in the rate nor in the ETA."""
        if self._step is None:
            yield
            return
        self._seconds += time.perf_counter() - self._since
        compiling = seconds_compiling
        try:
            yield
        finally:
            self._since = time.perf_counter()
            self._compiling += seconds_compiling - compiling

    def report(self, step):
        """('12,345 tok/s  41.2 % mfu  eta 0:01:23', {'tokens_per_second': ..., ...}) since the last
        report; empty if no step was measured."""
        if self._step is None or step == self._step:
            return "", {}
        seconds = self._seconds + time.perf_counter() - self._since
        seconds = max(seconds - (seconds_compiling - self._compiling), 1e-9)
        seconds_per_step = seconds / (step - self._step)
        self.start(step)
        values = {
            "tokens_per_second": self.tokens_per_step / seconds_per_step,
            "seconds_per_step": seconds_per_step,
        }
        text = f"{values['tokens_per_second']:>9,.0f} tok/s"
        if self.peak_flops:
            utilization = self.flops_per_step / seconds_per_step / self.peak_flops
            values["model_flops_utilization"] = utilization
            text += f"  {100 * utilization:.1f} % mfu"
        return (
            f"{text}  eta {format_duration(seconds_per_step * (self.total_steps - step))}",
            values,
        )


def format_duration(seconds):
    """1234.5 -> '0:20:34'."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
