"""config.profile, and the split of the time of the updates: what waits for data, what computes."""

import gzip
import json
import logging
import time

import jax
import pytest
import tiny_configs

import finetune
import train
from tasks.pretraining import LoadedPretraining
from training import logs, profiling
from training.config import ConfigError
from training.durations import StepConverter


@pytest.mark.parametrize(
    "text", ["110:100", "5:5", "-1:5", "5", "a:b", "1:2:3", "90:101", "5:", "5.0:6"]
)
def test_a_wrong_range_is_one_line_with_the_range_that_there_is(text):
    with pytest.raises(ConfigError, match="config.profile='.*FIRST < LAST <= 100") as error:
        StepConverter(8, 64, total_steps=100).step_range(text, "profile")
    assert "\n" not in str(error.value)


def test_a_range_of_a_run_whose_length_is_unknown_is_checked_later():
    assert StepConverter(8, 64).step_range("90:101", "profile") == (90, 101)
    assert StepConverter(8, 64, total_steps=9).step_range("", "profile") == (0, 0)


class Output:
    """An array that is ready at a time of the clock."""

    def __init__(self, clock, done):
        self.clock, self.done = clock, done

    def block_until_ready(self):
        self.clock.now = self.done


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


def split(monkeypatch, updates):
    """The report of updates (waiting, began, compiling, done), in seconds."""
    clock = Clock()
    monkeypatch.setattr(profiling, "time", clock)
    times = profiling.StepTimes()
    times.start()
    for waiting, began, compiling, done in updates:
        times.add(waiting, began, compiling, Output(clock, done))
    found = {name.partition("_")[0]: value for name, value in times.report().items()}
    times.close()
    return times, found


def test_a_device_that_waits_for_data_is_input_bound_and_the_host_waiting_alone_is_not(monkeypatch):
    # A batch takes 3 s, an update 1 s; the device is idle for 2 s of each.
    updates = [(4 * n, 4 * n + 3, 0, 4 * n + 4) for n in range(4)]
    times, found = split(monkeypatch, updates)
    assert found == pytest.approx({"input": 3.0, "compute": 1.0, "other": 0.0})
    # The host waits 2 s for each batch, while the device works for 3 s on the update before.
    times, found = split(monkeypatch, [(2 * n, 2 * n + 2, 0, 5 + 3 * n) for n in range(4)])
    assert found == pytest.approx({"input": 0.5, "compute": 3.0, "other": 0.0})


def test_evaluation_is_neither_and_compilation_is_left_out(monkeypatch):
    _, found = split(monkeypatch, [(10, 11, 4, 20), (26, 26, 0, 28)])
    assert found == pytest.approx({"input": 0.5, "compute": (5 + 2) / 2, "other": (10 + 6) / 2})


def test_the_end_of_the_run_names_the_remedy(monkeypatch, caplog):
    caplog.set_level("INFO", "triptych")
    times, _ = split(monkeypatch, [(0, 1, 0, 4)])
    times.log("do this")
    assert (
        "75% computes, 25% waits for data; evaluation, checkpoints and the log add 0%"
        in caplog.text
    )
    assert "input-bound: 25 % of the time waits for data; do this" in caplog.text
    caplog.clear()
    split(monkeypatch, [(0, 1, 0, 20)])[0].log("do this")
    assert "5% waits for data" in caplog.text and "input-bound" not in caplog.text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    tiny_configs.corpus(folder)
    return folder


def steps_of(run):
    """The steps in the trace of a run."""
    (file,) = (run / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return [int(event["args"]["step_num"]) for event in events if event.get("name") == "train"]


def traces(run):
    return sorted(path.name for path in (run / "profile").rglob("*") if path.is_file())


def test_a_run_writes_a_trace_and_the_split_of_its_time(folder, caplog, monkeypatch):
    caplog.set_level("INFO", "triptych")
    iterate = LoadedPretraining.iterate

    def slowly(self, start):
        for inputs in iterate(self, start):
            time.sleep(0.6)
            yield inputs

    monkeypatch.setattr(LoadedPretraining, "iterate", slowly)
    config = tiny_configs.pretraining(folder, profile="0:2", training__duration="4 steps")
    train.run(config, str(folder / "run"))
    names = traces(folder / "run")
    assert "perfetto_trace.json.gz" in names and any(n.endswith(".xplane.pb") for n in names)
    assert steps_of(folder / "run") == [0, 1]
    assert f"from step 0 to step 2 in {folder}/run/profile: tensorboard --logdir=" in caplog.text
    lines = logs.read_metrics(folder / "run", "throughput")
    assert [line["step"] for line in lines] == [2, 3, 4]
    assert all(line["input_seconds_per_step"] > 0.4 for line in lines)
    assert all(line["compute_seconds_per_step"] > 0 for line in lines)
    assert "input-bound: " in caplog.text and "raise config.data.threads (4)" in caplog.text


def test_a_resumed_run_traces_the_updates_that_are_left(folder, caplog):
    caplog.set_level("INFO", "triptych")
    run, options = folder / "resumed", {"optimizer__schedule": "constant"}
    train.run(tiny_configs.pretraining(folder, **options), str(run))
    for length, profile in ((4, "1:2"), (6, "3:6")):
        config = tiny_configs.pretraining(
            folder, profile=profile, training__duration=f"{length} steps", **options
        )
        train.run(config, str(run))
        assert bool(traces(run) if (run / "profile").exists() else []) == (length == 6)
    assert "nothing is profiled: the updates 1 to 2 are done" in caplog.text
    assert "from step 4 to step 6 in" in caplog.text and steps_of(run) == [4, 5]


def test_replicas_are_traced_in_the_directory_of_the_first(folder):
    base = tiny_configs.untrained(folder / "base", "encoder")
    config = tiny_configs.finetuning(
        folder, base, profile="1:2", seeds="(0, 1)", evaluation__every="2 steps"
    )
    finetune.run(config, str(folder / "replicas"))
    assert steps_of(folder / "replicas/seed=0") == [1]
    assert not (folder / "replicas/seed=1/profile").exists()
    for name in ("seed=0", "seed=1"):
        (line,) = logs.read_metrics(folder / "replicas" / name, "throughput")
        assert line["compute_seconds_per_step"] > 0 and line["input_seconds_per_step"] >= 0
        assert line["peak_memory_mib"] > 100  # of the process


def test_the_peak_memory_is_of_the_fullest_device_where_the_backend_knows_it(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    devices = [Device({"peak_bytes_in_use": size * 2**20}) for size in (3, 5)]
    monkeypatch.setattr(profiling.jax, "local_devices", lambda: devices)
    assert profiling.peak_memory() == (5.0, "a device")
    monkeypatch.setattr(profiling.jax, "local_devices", lambda: [Device(None)])
    assert profiling.peak_memory()[1] == "the process"


def test_a_trace_ends_with_a_run_that_fails_inside_it(folder, monkeypatch):
    def fails(self, start):
        yield self.train_inputs(start)
        raise ValueError("no more")

    config = tiny_configs.pretraining(folder, profile="0:2")
    with monkeypatch.context() as patch:
        patch.setattr(LoadedPretraining, "iterate", fails)
        with pytest.raises(ValueError, match="no more"):
            train.run(config, str(folder / "fails"))
    assert traces(folder / "fails")
    jax.profiler.start_trace(str(folder / "free"))  # raises while another one runs
    jax.profiler.stop_trace()


def test_a_range_beyond_the_run_stops_before_data_is_read(folder, caplog):
    caplog.set_level(logging.INFO, "triptych")
    config = tiny_configs.pretraining(folder, profile="1:3")
    with pytest.raises(ConfigError, match="config.profile='1:3' is not a range .* LAST <= 2"):
        train.run(config, str(folder / "beyond"))
    assert "---- Task" not in caplog.text
