"""The train loop alone, with updates that compute nothing."""

import logging
import tracemalloc
import types

import numpy as np
import pytest

from training import logs, loop, preemption


def run(
    steps, start=0, on_update=lambda step: None, on_write=lambda step: None, save=None, **intervals
):
    """Runs updates whose sums are (step, 2) and that log once, at the end."""
    state = types.SimpleNamespace(first_nonfinite_step=np.int32(-1))

    def train_step(state, step, learning_rate):
        on_update(step)
        return state, {"lm": (np.float32(step), np.float32(2))}

    metrics = types.SimpleNamespace(
        write=lambda step, split, values: on_write(step), flush=lambda: None
    )
    loop.train_loop(
        state, iter(range(start, steps)), train_step, start=start, resumed=start > 0, metrics=metrics,
        intervals=loop.Intervals(steps, log=steps, evaluate=0, save=0, **intervals), evaluate=None, save=save,
        learning_rates=np.ones(steps, np.float32), loss_coefficients={"lm": 1.0},
        throughput=logs.Throughput(steps, 1),
    )  # fmt: skip


def test_memory_does_not_grow_with_the_updates_between_log_lines(caplog):
    memory, written, waiting = {}, [0], []

    def on_update(step):
        waiting.append(step - written[-1])
        if step in (4_000, 12_000):
            memory[step] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        with caplog.at_level(logging.INFO, "triptych"):
            run(12_001, on_update=on_update, on_write=written.append)
    finally:
        tracemalloc.stop()
    lists = 2 * 8_000 * 50  # `written` and `waiting`
    assert memory[12_000] - memory[4_000] < lists + 200_000
    assert max(waiting) <= 1_000 and len(set(written)) == 12_002
    assert "loss 3000.0000" in caplog.text  # the mean of all updates: 6000 / 2


def test_a_run_that_stop_after_ended_does_not_say_that_the_same_command_resumes(caplog):
    saved = []
    for start, stop, updates in ((0, 2, 2), (2, 2, 0)):  # the second command is the same one
        made = []
        with caplog.at_level(logging.INFO, "triptych"), pytest.raises(preemption.Preempted):
            run(4, start, made.append, save=lambda *_: saved.append(True), stop=stop)
        assert len(made) == updates
        line = "stopped by training.stop_after at step 2; a later training.stop_after, or none, resumes"
        assert line in caplog.text and "the same command" not in caplog.text
        caplog.clear()
    assert len(saved) == 2  # steps 0 and 2
