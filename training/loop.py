"""The train loop of both entry files: evaluate, save, fetch, step, log; in this order.

It knows nothing of text, objectives or tasks: it receives an iterator and functions.
"""

import collections
import contextlib
import dataclasses
import logging
import math
import time

import jax
import numpy as np

from tasks.sums import add_sums, format_metrics, weighted_mean
from training import logs, preemption, profiling
from training.sharding import any_across_processes

log = logging.getLogger("triptych")

MAX_PENDING = 1000  # updates whose sums wait on the device


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Steps between events; 0: never. An event at step k sees k updates."""

    total: int
    log: int
    evaluate: int
    save: int
    stop: int = 0  # the step at which the run stops with a checkpoint; 0: at its end
    profile: profiling.Profile = profiling.Profile()
    input_remedy: str = ""  # what makes batches faster
    deadline: float = math.inf  # time.monotonic() at which the run stops

    @classmethod
    def of(cls, config, converter, run_dir) -> "Intervals":
        """The intervals of the sections `logging`, `evaluation` and `checkpoint`, and of `profile`."""
        return cls(
            total=converter.total_steps,
            log=converter.steps(config.logging.every, "logging.every") or converter.total_steps,
            evaluate=converter.steps(config.evaluation.every, "evaluation.every"),
            save=converter.steps(config.checkpoint.every, "checkpoint.every"),
            stop=converter.steps(config.training.stop_after, "training.stop_after"),
            profile=profiling.Profile.of(config, converter, run_dir),
            input_remedy=profiling.input_remedy(config),
            deadline=preemption.deadline(config.training.max_hours),
        )


def is_due(step: int, every: int, total: int) -> bool:
    """Whether an event happens at `step`: at each multiple of `every`, and at the end."""
    return bool(every) and (step % every == 0 or step == total)


def train_loop(
    state, inputs, train_step, *, start, resumed, intervals, learning_rates, loss_coefficients, evaluate,
    save, metrics, throughput, save_evaluated=False,
):  # fmt: skip
    """Runs the updates start .. total - 1 and returns the last state.

    Args:
      state: TrainState with `start` updates.
      inputs: iterator over the inputs of the updates start, start + 1, ...
      train_step: (state, inputs, learning rate) -> (state, sums), asynchronous.
      start: int(state.step).
      resumed: `state` comes from a checkpoint of this run: the events of `start` have happened.
      intervals: Intervals.
      learning_rates: float32[total], the learning rate of each update; [total, R] for R replicas.
      loss_coefficients: {name: coefficient} of the minimized losses.
      evaluate: (step, state) -> {metric: value}; None: no evaluation.
      save: (state, metrics) -> None; None: no checkpoints.
      metrics: MetricWriter, or replicas.ReplicaWriters.
      throughput: logs.Throughput.
      save_evaluated: save at every evaluation too, so that the best checkpoint exists.

    Raises:
      preemption.Preempted: after a save, when a signal asked to stop, at `intervals.stop`, or when the
        deadline has passed.
      FloatingPointError: an update was not finite (found at the next log line or save, at most MAX_PENDING
        updates later); of replicas, an update of each of them: if others remain, those with one are left out.
    """
    pending = collections.deque()  # updates whose sums are not read yet
    unlogged = {}  # the sums since the last log line
    saved = start if resumed else -1  # the newest checkpoint
    trace, times = profiling.Trace(intervals.profile, start), profiling.StepTimes()

    def fetch():
        """Writes the metrics of all finished updates; they wait on the device until here."""
        if not pending:
            return
        steps, used_learning_rates, sums = zip(*pending, strict=True)
        pending.clear()
        sums, nonfinite = jax.device_get((sums, state.first_nonfinite_step))
        nonfinite = np.atleast_1d(nonfinite)
        for step, learning_rate, values in zip(steps, used_learning_rates, sums, strict=True):
            metrics.write(
                step,
                "train",
                weighted_mean(values, loss_coefficients) | {"learning_rate": learning_rate},
            )
        unlogged.update(add_sums((unlogged, *sums)))
        failed = np.flatnonzero(nonfinite >= 0)
        if 0 < failed.size < nonfinite.size:
            for number in failed.tolist():
                metrics.mark_failed(number, int(nonfinite[number]))
        elif failed.size:
            nonfinite = nonfinite.min()
            metrics.flush()
            remedy = "No checkpoint is kept: choose another --workdir, with a lower learning rate"
            if saved >= 0:
                remedy = (
                    f"Checkpoint {saved} is good: repeat the command with --config.resume_from={saved} "
                    f"--config.optimizer.learning_rate={np.max(learning_rates) / 2:g}, or with a longer "
                    f"warmup or a smaller grad_clip_norm"
                )
            raise FloatingPointError(
                f"update {int(nonfinite)} had a loss or gradient that is not finite; it was not applied. "
                f"{remedy}"
            )

    def write_log_line(step):
        fetch()
        text, values = throughput.report(step)
        if values:
            values |= times.report() | {"peak_memory_mib": profiling.peak_memory()[0]}
            metrics.write(step, "throughput", values)
        mean = weighted_mean(unlogged, loss_coefficients)
        log.info(
            f"step {step:>7,}/{intervals.total:,}  {format_metrics(mean, loss_coefficients)}  {text}"
        )
        unlogged.clear()

    with contextlib.closing(trace), contextlib.closing(times), preemption.watch() as stop:
        for step in range(start, intervals.total + 1):
            # Evaluation precedes the save of the same step, and both precede the next update, so that
            # checkpoint k and evaluation k hold k updates. A resumed run has done both.
            new, evaluated = step > start or not resumed, None
            if new and evaluate and is_due(step, intervals.evaluate, intervals.total):
                fetch()
                with throughput.paused():
                    evaluated = evaluate(step, state)
            # One update at least, so that a start that is too short for more makes progress.
            late = start < step < intervals.total and time.monotonic() >= intervals.deadline
            stopping = _is_stopping(bool(stop) or late, step, intervals)
            planned = step == 0 or is_due(step, intervals.save, intervals.total)
            planned = planned or (save_evaluated and evaluated is not None)
            if save and ((new and planned) or (stopping and step > start)):
                fetch()
                metrics.flush()
                with throughput.paused():
                    save(state, evaluated)
                saved = step
            if stopping:
                then = "resumes from here" if save else "starts again: no checkpoints are kept"
                # Without `stop`, another process may have got the signal.
                why, command = "a signal", "the same command"
                if not stop and late:
                    why = "training.max_hours"
                elif not stop and _is_last(step, intervals):
                    why, command = "training.stop_after", "a later training.stop_after, or none,"
                log.info(f"stopped by {why} at step {step}; {command} {then}")
                raise preemption.Preempted(stop.signal)
            if step == intervals.total:
                break
            with trace.update(step, state):
                waiting = time.perf_counter()
                batch = next(inputs)
                began, compiling = time.perf_counter(), logs.seconds_compiling
                state, sums = train_step(state, batch, learning_rates[step])
                compiling = logs.seconds_compiling - compiling
                times.add(waiting, began, compiling, jax.tree.leaves(sums)[0])
            pending.append((step + 1, learning_rates[step].tolist(), sums))
            if len(pending) >= MAX_PENDING:
                fetch()
            if step == start:  # the first update, which is compiled, is left out of the rate
                jax.block_until_ready(sums)
                throughput.start(step + 1)
                times.start()
            if trace.is_last(step + 1):
                with throughput.paused(), times.paused():
                    trace.stop(step + 1, sums)
            if is_due(step + 1, intervals.log, intervals.total):
                write_log_line(step + 1)
    metrics.flush()
    times.log(intervals.input_remedy)
    log.info("peak memory of {1}: {0:,.0f} MiB".format(*profiling.peak_memory()))
    return state


def _is_last(step, intervals) -> bool:
    """Whether `training.stop_after` ends the run at a step."""
    return 0 < intervals.stop <= step < intervals.total


def _is_stopping(stop, step, intervals) -> bool:
    """True where all processes stop. They wait for each other to agree, so only every tenth step."""
    if _is_last(step, intervals):
        return True
    if jax.process_count() == 1:
        return stop
    return is_due(step, min(intervals.log, 10), intervals.total) and any_across_processes(stop)
