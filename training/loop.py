"""The one loop, for pretraining and finetuning: evaluate, save, fetch, update, log; in this order.

It receives an iterator and functions, and knows nothing of text, objectives or tasks.
"""

import collections
import dataclasses
import logging

import jax

from training import mesh as meshes
from training import preemption

log = logging.getLogger("triptych")


@dataclasses.dataclass(frozen=True)
class Cadence:
    """Updates between events; 0 = never. An event at step k sees k updates."""

    total: int
    log: int
    evaluate: int
    save: int


def cadence(clock, config):
    """The Cadence of a config with the sections `logging`, `evaluation` and `checkpoint`."""
    return Cadence(
        total=clock.total,
        log=clock.steps(config.logging.every, "logging.every") or clock.total,
        evaluate=clock.steps(config.evaluation.every, "evaluation.every"),
        save=clock.steps(config.checkpoint.every, "checkpoint.every"),
    )


def due(step, every, total):
    """Cadenced events happen at multiples and at the end; `every` = 0 means never."""
    return bool(every) and (step % every == 0 or step == total)


def run(
    state, start, batches, update, cadence, *, evaluate, save, rates, metrics, rate, coefficients,
    resumed=False, save_measured=False,
):  # fmt: skip
    """Runs updates start .. total - 1 and returns the last state.

    Args:
      state: TrainState holding `start` updates.
      start: int(state.step), known on the host.
      batches: iterator; its next element is the source of update `start`.
      update: (state, source, step, rate) -> (state, sums), asynchronous.
      cadence: Cadence.
      evaluate: (step, state) -> {name: number} or None, or None for no evaluation.
      save: (state, metrics) -> None, or None.
      rates: float32[total], learning rate of each update.
      metrics: logs.Metrics.
      rate: logs.Rate.
      save_measured: save at every evaluation too, so that the best one can be gone back to.
      resumed: `state` comes from a checkpoint of this run: what was due at `start` has been done.
      coefficients: {loss name: coefficient} of the minimised losses.

    Raises:
      preempted: preemption.Preempted after a save, when a signal asked to stop.
      FloatingPointError: an update was not finite (found at the next log or save).
    """
    pending = collections.deque()
    measured = None
    with preemption.watch() as stop:
        for step in range(start, cadence.total + 1):
            # Evaluation comes before the save of the same step, and both before the next update, so
            # that checkpoint k and evaluation k speak of k updates. A resumed run has done both.
            fresh = step > start or not resumed
            if fresh and evaluate and due(step, cadence.evaluate, cadence.total):
                _report(pending, state, metrics, rate, cadence, step, coefficients)
                measured = evaluate(step, state)
                rate.start(step)
            stopping = _stopping(stop, step, cadence)
            planned = step == 0 or due(step, cadence.save, cadence.total)
            planned = planned or (save_measured and measured is not None)
            if save and ((fresh and planned) or (stopping and step > start)):
                _report(pending, state, metrics, rate, cadence, step, coefficients)
                metrics.flush()
                save(state, measured)
            measured = None
            if stopping:
                kept = "goes on from here" if save else "starts anew: no checkpoints are kept"
                log.info(f"stopped by a signal at step {step}; the same command {kept}")
                raise preemption.Preempted
            if step == cadence.total:
                break
            source = next(batches)
            state, sums = update(state, source, step, rates[step])
            pending.append((step + 1, float(rates[step]), sums))
            if step == start:  # wait for the compilation, so that rates and ETA leave it out
                jax.block_until_ready(sums)
                rate.start(step + 1)
            elif due(step + 1, cadence.log, cadence.total):
                _report(pending, state, metrics, rate, cadence, step + 1, coefficients)
    _report(pending, state, metrics, rate, cadence, cadence.total, coefficients)
    metrics.flush()
    return state


def _stopping(stop, step, cadence):
    """True where all processes stop. To agree they have to wait for each other: every tenth step."""
    if jax.process_count() == 1:
        return bool(stop)
    return due(step, min(cadence.log, 10), cadence.total) and meshes.any_process(stop)


def _report(pending, state, metrics, rate, cadence, step, coefficients):
    """Fetches the pending sums in one transfer, writes a line per update and one to the console."""
    if not pending:
        return
    steps, learning_rates, sums = zip(*pending, strict=True)
    pending.clear()
    fetched, nonfinite = jax.device_get((sums, state.nonfinite))
    lines = [summary(one, coefficients) for one in fetched]
    for number, learning_rate, line in zip(steps, learning_rates, lines, strict=True):
        metrics.write(number, "train", {**line, "learning_rate": learning_rate})
    if nonfinite >= 0:
        metrics.flush()
        raise FloatingPointError(
            f"update {int(nonfinite)} had a loss or gradient that is not finite; it was not applied. "
            f"Lower config.optimizer.learning_rate, lengthen the warmup, or set a clip_norm; the last "
            f"checkpoint is good"
        )
    words, values = rate.words(step)
    if values:
        metrics.write(step, "speed", values)
    totals = {}
    for one in fetched:
        add(totals, one)
    mean = words_of(summary(totals, coefficients), coefficients)
    log.info(f"step {step:>7,}/{cadence.total:,}  {mean}  {words}")


def divide(sums):
    """{name: (sum, weight)} -> {name: float}: the one division. No weight at all gives 0."""
    return {
        name: float(total) / float(weight) if weight else 0.0
        for name, (total, weight) in sums.items()
    }


def summary(sums, coefficients):
    """Divided sums with the minimised loss, sum of coefficient * value, in front."""
    values = divide(sums)
    return {"loss": sum(c * values[name] for name, c in coefficients.items()), **values}


def words_of(values, coefficients):
    """'loss 3.2140  accuracy 0.4120'; a single minimised loss is not said twice."""
    hidden = set(coefficients) if len(coefficients) == 1 else set()
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name not in hidden)


def add(totals, sums):
    """Adds host sums of one evaluation batch; float64, so that their order does not matter much."""
    for name, (total, weight) in sums.items():
        old = totals.get(name, (0.0, 0.0))
        totals[name] = (old[0] + float(total), old[1] + float(weight))
    return totals
