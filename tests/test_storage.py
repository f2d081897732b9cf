"""Disks that are full or read-only, and devices that are not there: one line, the same for every program."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
import tiny_configs

import train
from data.files import disk_errors
from tasks import predictions
from training import cli, paths, run_directory
from training.config import ConfigError

ROOT = pathlib.Path(__file__).parent.parent


def os_error(number, path=None):
    return OSError(number, os.strerror(number), path)


TENSORSTORE = ValueError(
    'RESOURCE_EXHAUSTED: Error writing local file "/data/run/checkpoints/20/params/_sharding": Failed to '
    "write 3759 bytes to file 33: No space left on device [os_error_code='28']\n[tensorstore_spec=...]"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (os_error(errno.ENOSPC, "/data/metrics.jsonl"), "cannot write /data/metrics.jsonl: the disk is full"),
        (os_error(errno.EDQUOT, "/data/x"), "cannot write /data/x: the disk is full"),
        (os_error(errno.EFBIG), "cannot write a file: the disk is full"),
        (TENSORSTORE, "cannot write /data/run/checkpoints/20/params/_sharding: the disk is full"),
        (Exception("Read-only file system (os error 30)"), "cannot use a file (Read-only file system)"),
        (os_error(errno.EROFS, "/cache/h"), "cannot use /cache/h (Read-only file system): change its"),
        (os_error(errno.EACCES, "/a.txt"), "cannot use /a.txt (Permission denied): change its"),
        (OSError("cannot write /x (why): do this"), "cannot write /x (why): do this"),
        (MemoryError("Unable to allocate 3 TiB"), "out of memory (Unable to allocate 3 TiB): lower"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), "out of memory (RESOURCE_"),
        (ValueError("label 'x' is unknown"), "label 'x' is unknown"),
        (KeyError("x"), "KeyError: 'x' (--debug prints the traceback)"),
    ],
)  # fmt: skip
def test_every_error_of_a_disk_is_one_line_with_its_file(error, expected):
    line = cli.explain(error)
    assert line.startswith(expected) and "\n" not in line and len(line) <= 400


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path, monkeypatch, number):
    def fails(self, *_, **__):
        pathlib.Path(self).touch()
        raise os_error(number)

    monkeypatch.setattr(pathlib.Path, "write_text", fails)
    with pytest.raises(OSError) as error:
        run_directory.write_json(tmp_path / "scores.json", {})
    assert str(tmp_path / "scores.json") in cli.explain(error.value)
    assert list(tmp_path.iterdir()) == []


def test_predictions_on_a_full_disk_are_absent_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(os_error(errno.ENOSPC)))
    path = tmp_path / "predictions_test.tsv"
    with pytest.raises(OSError, match=r"predictions_test.tsv \(No space left.*: free some space"):
        predictions.write(path, [{"id": 0, "prediction": "a"}])
    assert list(tmp_path.iterdir()) == []


def test_the_remedy_of_a_read_only_cache_is_not_to_free_space():
    with pytest.raises(
        OSError, match=r"cannot write /c \(Read-only file system\): make it writable"
    ):
        with disk_errors("/c"):
            raise os_error(errno.EROFS)


def test_a_read_only_workdir_is_refused_before_anything_else(tmp_path, monkeypatch):
    def fails(self, *_, **__):
        raise os_error(errno.EROFS, str(self))

    monkeypatch.setattr(pathlib.Path, "mkdir", fails)
    with pytest.raises(ConfigError, match="cannot be a directory .Read-only file system"):
        run_directory.open_run(str(tmp_path / "run"), "pretrain")


LIMITED = """
import resource, sys
from training.metric_writer import MetricWriter
with MetricWriter(sys.argv[1], tensorboard=sys.argv[2] == "events") as metrics:
    metrics.open(-1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        for step in range(1, 10_000):
            metrics.write(step, "train", {"loss": 1.0} if sys.argv[2] == "events" else {"note": "x"})
    except OSError as error:
        print(error.filename)
"""


@pytest.mark.parametrize(("kind", "file"), [("events", "events"), ("lines", "metrics.jsonl")])
def test_metrics_and_events_on_a_full_disk_raise_and_do_not_block(tmp_path, kind, file):
    command = [sys.executable, "-c", LIMITED, str(tmp_path), kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == str(tmp_path / file), done.stderr


def test_events_are_those_that_tensorboard_reads(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    from training.metric_writer import MetricWriter

    with MetricWriter(tmp_path, tensorboard=True) as metrics:
        metrics.open(4)
        metrics.write(5, "train", {"loss": 2.5, "accuracy": float("nan")})
    data, events = next(tmp_path.glob("events.out.*")).read_bytes(), []
    while data:  # TFRecord: length uint64, its checksum, the data, its checksum
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert events[0].file_version == events[1].file_version == "brain.Event:2"
    # START: hides events from step 5 on
    assert events[2].step == 5 and events[2].session_log.status == 1
    assert [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value] == [
        (5, "train/loss", 2.5)
    ]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 2.5


def test_a_full_disk_before_the_first_checkpoint_leaves_the_directory_free(tmp_path, monkeypatch):
    write_text = paths.write_text

    def fails(path, text):
        if path.name == "manifest.json":
            raise os_error(errno.ENOSPC, str(path))
        write_text(path, text)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(paths, "write_text", fails)
        train.run(tiny_configs.pretraining(tmp_path), str(tmp_path / "run"))
    assert (tmp_path / "run" / "config.json").exists()
    corrected = tiny_configs.pretraining(tmp_path, model__emb_dim=16)
    assert train.run(corrected, str(tmp_path / "run")).step == 2


@pytest.mark.parametrize("program", ["train.py", "-m tools.inspect"])
def test_an_unavailable_backend_is_one_line(tmp_path, program):
    flags = "--config=configs/encoder.py:size=tiny --workdir={0} --config.data.cache_dir={0}/cache"
    flags = flags if program == "train.py" else "--config=configs/encoder.py:size=tiny --step=0"
    flags = [*program.split(), *flags.format(tmp_path / "run").split()]
    environment = {**os.environ, "JAX_PLATFORMS": "nosuch"}
    done = subprocess.run(
        [sys.executable, *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("error: JAX_PLATFORMS='nosuch' cannot be used here (Unable to")
    assert done.stderr.count("\n") == 1 and len(done.stderr) <= 400
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_plugin_that_raises_an_empty_error_is_explained(monkeypatch):
    def fails():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    line = cli.explain(AssertionError())
    assert line.startswith("JAX_PLATFORMS='cuda' cannot be used here (its plugin is not installed)")
