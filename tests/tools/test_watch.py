"""tools.watch: the state of a run that runs, ended, failed or was killed, and incomplete lines."""

import io
import json
import os
import time

import pytest

from tools import run_records, watch
from training import preemption
from training.config import ConfigError
from training.metric_writer import MetricWriter

START = {"time": "2026-01-01T00:00:00+00:00", "commit": "", "processes": 1}


def make_run(folder, total=100):
    """A run directory with its config and manifest."""
    folder.mkdir(parents=True)
    content = {"kind": "pretrain", "config": {"seed": 0}, "model": {}}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "manifest.json").write_text(json.dumps({"starts": [START], "total_steps": total}))
    return folder


def write(metrics, steps):
    for step in steps:
        metrics.write(step, "train", {"loss": 10 / step})
    speed = {"tokens_per_second": 12345.6, "seconds_per_step": 2.0}
    metrics.write(steps[-1], "throughput", speed)
    metrics.flush()


def test_a_running_run_has_its_loss_speed_and_time_left(tmp_path, capsys):
    run = make_run(tmp_path / "a")
    with MetricWriter(run, tensorboard=False) as metrics:
        metrics.open(-1)
        write(metrics, range(1, 41))
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 41, "split": "train", "lo')
        watch.main(["--once", str(tmp_path)])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == list(watch.HEADER)
    assert row.split() == ["a", "running", "40/100", "0.2500", "12,346", "0:02:00"]


@pytest.mark.parametrize(
    ("error", "state", "note"),
    [
        (None, "finished", ""),
        (preemption.Preempted(), "preempted", ""),
        (KeyboardInterrupt(), "preempted", ""),
        (FloatingPointError("update 7 was\nnot finite"), "failed", "update 7 was not finite"),
    ],
    ids=("finished", "preempted", "interrupted", "failed"),
)
def test_the_end_of_a_run_is_recorded_until_its_next_start(tmp_path, error, state, note):
    run = make_run(tmp_path / "a")
    try:
        with MetricWriter(run, tensorboard=False) as metrics:
            metrics.open(-1)
            write(metrics, range(1, 3))
            if error is not None:
                raise error
    except BaseException as caught:  # noqa: BLE001
        assert caught is error
    record = run_records.read(run)
    assert (record.state, record.message, record.step) == (state, note, 2)
    with MetricWriter(run, tensorboard=False) as metrics:
        metrics.open(2)
        assert run_records.read(run).state == "running"


def test_a_killed_run_is_killed_and_one_without_a_manifest_starts(tmp_path):
    run = make_run(tmp_path / "a")
    with MetricWriter(run, tensorboard=False) as metrics:
        metrics.open(-1)
        write(metrics, range(1, 3))
    (run / "ended.json").unlink()  # as if it had not come so far
    assert run_records.read(run).state == "killed"
    (run / "manifest.json").unlink()
    assert run_records.read(run).state == "starting"


def test_a_program_that_is_refused_leaves_the_state_of_a_run_that_runs(tmp_path):
    run, now = make_run(tmp_path / "a"), time.time()
    with MetricWriter(run, tensorboard=False) as metrics:
        metrics.open(-1)
        write(metrics, range(1, 3))
        for _ in range(2):
            with pytest.raises(ConfigError, match="another program is using"):
                MetricWriter(run, tensorboard=False)
        for file in run.iterdir():  # without a line for an hour, as while it compiles
            os.utime(file, (now - 3600, now - 3600))
        assert run_records.read(run).state == "running"


def test_directories_of_runs_are_found_and_samples_are_shown(tmp_path, capsys):
    for name in ("sweep/lr=1", "sweep/lr=2/seed=0"):
        make_run(tmp_path / name)
    rows = ["id\tprediction\ttext", *(f"{n}\tyes\ttext {n}" for n in range(5))]
    (tmp_path / "sweep/lr=1/predictions_test.tsv").write_text("\n".join(rows) + "\n")
    watch.main(["--once", "--samples=2", str(tmp_path / "sweep")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["lr=1", "lr=2/seed=0"]
    assert lines[3:] == [f"lr=1: id: {n}  prediction: yes  text: text {n}" for n in (3, 4)]
    with pytest.raises(ConfigError, match="has no run"):
        watch.main([str(tmp_path / "nothing")])


def test_a_terminal_gets_a_table(tmp_path):
    from rich.console import Console

    record = run_records.read(make_run(tmp_path / "[a]"))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(watch.table_of([record], 0))
    shown = console.export_text()
    assert "[a]" in shown and "running" in shown  # its manifest is new, and no host has its lock
