"""The throughput in the log: compilation, evaluation and saving count neither in the rate nor in the ETA."""

import pytest

from training import logs


class Clock:
    """time.perf_counter that a test sets by hand."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(logs, "time", made)
    return made


def test_pauses_and_everything_before_the_start_are_left_out(clock):
    throughput = logs.Throughput(100, tokens_per_step=50, flops_per_step=8.0, peak_flops=10.0)
    with throughput.paused():  # an evaluation before the first step
        clock.now += 1000
    assert throughput.report(0) == ("", {})
    clock.now += 1000  # compilation
    throughput.start(1)
    assert throughput.report(1) == ("", {})
    clock.now += 6
    with throughput.paused():
        clock.now += 500
    with pytest.raises(RuntimeError), throughput.paused():
        clock.now += 500
        raise RuntimeError
    clock.now += 3
    text, values = throughput.report(10)
    assert values["seconds_per_step"] == pytest.approx(1.0)
    assert values["tokens_per_second"] == pytest.approx(50)
    assert values["model_flops_utilization"] == pytest.approx(0.8)
    assert text.split() == ["50", "tok/s", "80.0", "%", "mfu", "eta", "0:01:30"]


def test_each_report_covers_the_steps_since_the_last_one(clock):
    throughput = logs.Throughput(100, tokens_per_step=50)
    throughput.start(0)
    for step, seconds in ((10, 20.0), (20, 5.0)):
        clock.now += seconds
        _, values = throughput.report(step)
        assert values == pytest.approx(
            {"seconds_per_step": seconds / 10, "tokens_per_second": 500 / seconds}
        )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (1234.5, "0:20:34"), (36e3, "10:00:00")],
)
def test_a_duration_is_hours_minutes_and_seconds(seconds, text):
    assert logs.format_duration(seconds) == text
