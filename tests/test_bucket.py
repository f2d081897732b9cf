"""Run directories in a bucket: train, resume, finetune and evaluate with --workdir=gs://...

No network: `gs://` is a local folder behind fsspec (for etils.epath) and TensorStore's file driver (for
Orbax's arrays), without the abilities that an object store lacks: appending and locks.
"""

import json
import pathlib

import fsspec
import numpy as np
import pytest
import tiny_configs
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from orbax.checkpoint._src.path import gcs_utils

import finetune
import train
from tools import generate
from training import checkpoint, logs, paths, run_directory
from training.config import ConfigError
from training.metric_writer import MetricWriter

# As in tests/test_ema.py, so that compiled programs are shared.
EMA, FINETUNING = 0.8, {"freeze": "('embed/.*',)", "training__ema_decay": 0.5}


class FakeBucket(LocalFileSystem):
    """gs://bucket/key is the file root/bucket/key."""

    protocol = ("gs", "gcs")
    root = ""

    def __init__(self, finalize_on_close=True, **keywords):
        super().__init__(auto_mkdir=True, **keywords)

    @classmethod
    def _strip_protocol(cls, path):
        path = str(path).removeprefix("gs://")
        return path if path.startswith(cls.root) else f"{cls.root}/{path}".rstrip("/")

    def _open(self, path, mode="rb", **keywords):
        assert mode in ("rb", "wb"), f"an object store cannot open {path} with {mode}"
        return super()._open(path, mode, **keywords)

    def glob(self, path, **keywords):
        return [p.removeprefix(self.root + "/") for p in super().glob(path, **keywords)]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    root = tmp_path_factory.mktemp("bucket").as_posix()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeBucket, "root", root)
        patch.setitem(_registry, "gcs", FakeBucket)
        backend.fsspec_backend._get_filesystem.cache_clear()
        patch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
        patch.setattr(
            gcs_utils, "get_kvstore_for_gcs",
            lambda path: {"driver": "file", "path": path.replace("gs://", f"{root}/", 1)},
        )  # fmt: skip
        yield pathlib.Path(root)
    backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def config(folder, **overrides):
    return tiny_configs.pretraining(
        folder, training__duration="4 steps", training__ema_decay=EMA, evaluation__every="2 steps",
        **overrides,
    )  # fmt: skip


def test_invariant_02_a_run_in_a_bucket_resumes_and_writes_the_same_as_a_local_run(
    bucket, folder, monkeypatch
):
    train.run(config(folder), str(folder / "local"))
    run, train_loop = "gs://bucket/runs/enc", train.train_loop

    def crashing(*arguments, save, **keywords):
        def save_then_crash(state, metrics):
            save(state, metrics)
            if int(state.step) == 2:
                raise RuntimeError("crash")

        return train_loop(*arguments, save=save_then_crash, **keywords)

    monkeypatch.setattr(train, "train_loop", crashing)
    with pytest.raises(RuntimeError, match="crash"):
        train.run(config(folder), run)
    monkeypatch.setattr(train, "train_loop", train_loop)
    assert train.run(config(folder, profile="3:4"), run).step == 4
    assert tiny_configs.metrics(bucket / "bucket/runs/enc") == tiny_configs.metrics(
        folder / "local"
    )
    assert any((bucket / "bucket/runs/enc/profile").rglob("*.xplane.pb"))
    assert not (bucket / "bucket/runs/enc/.lock").exists()
    remote, local = ({p.name for p in f.iterdir() if p.name.isdigit()} for f in (
        bucket / "bucket/runs/enc/checkpoints", folder / "local/checkpoints"))  # fmt: skip
    assert remote == local
    finals = [checkpoint.params_metadata(f, 4) for f in (run, folder / "local")]
    assert finals[0].keys() == finals[1].keys()
    found, step = checkpoint.resolve_checkpoint(f"{run}@3")
    assert (str(found), step) == (run, 3)
    assert logs.last_metrics(run, "validation") == logs.last_metrics(folder / "local", "validation")
    local = finetune.run(
        tiny_configs.finetuning(folder, folder / "local", **FINETUNING), str(folder / "tuned")
    )
    remote = finetune.run(tiny_configs.finetuning(folder, run, **FINETUNING), "gs://bucket/tuned")
    assert remote.metrics == local.metrics
    scores = json.loads((bucket / "bucket/tuned/scores.json").read_text())
    assert scores == json.loads((folder / "tuned/scores.json").read_text())
    # A corrupt checkpoint is renamed there too.
    for file in (bucket / "bucket/runs/enc/checkpoints/4/params").rglob("_METADATA"):
        file.write_text(file.read_text()[:40])
    assert train.run(config(folder), run).step == 4
    assert (bucket / "bucket/runs/enc/checkpoints/4.broken").is_dir()
    assert tiny_configs.metrics(bucket / "bucket/runs/enc") == tiny_configs.metrics(
        folder / "local"
    )


def test_an_unfinished_save_in_a_bucket_is_not_a_checkpoint(bucket):
    (bucket / "bucket/half/checkpoints/7/params").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no checkpoints"):
        checkpoint.resolve_checkpoint("gs://bucket/half")


def writer(run):
    return MetricWriter(run, tensorboard=True)


def test_the_later_of_two_programs_takes_the_run_over_and_the_earlier_ends_at_its_next_save(bucket):
    first = writer("gs://bucket/two")
    first.open(-1)
    first.write(1, "train", {})
    first.flush()
    second = writer("gs://bucket/two")
    second.open(1)
    first.write(2, "train", {})
    with pytest.raises(ConfigError, match="another program has taken over"):
        first.flush()
    first.close()
    second.write(2, "train", {"by": "second"})
    second.close()
    lines = (bucket / "bucket/two/metrics.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [
        {"step": 1, "split": "train"},
        {"step": 2, "split": "train", "by": "second"},
    ]
    assert not (bucket / "bucket/two/.lock").exists()


@pytest.mark.parametrize("remote", [True, False])
def test_lines_after_the_restored_step_are_removed(bucket, remote):
    folder = bucket / f"bucket/cut-{remote}"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    metrics = writer(f"gs://bucket/cut-{remote}") if remote else MetricWriter(folder, False)
    metrics.open(2)
    metrics.close()
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_missing_extra_and_another_scheme_are_one_line_with_the_remedy(folder, monkeypatch):
    def missing(name):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    for function, message in (
        (lambda: train.run(config(folder), "gs://bucket/run"), "pip install -e '.[gcs]'"),
        (lambda: run_directory.read_config("gs://bucket/run"), "the extra [gcs]"),
        (lambda: paths.of("ftp://host/run"), "expected gs://bucket/run or a path"),
    ):
        with pytest.raises(ConfigError) as caught:
            function()
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_generated_texts_in_a_bucket_are_not_overwritten(bucket):
    file = bucket / "bucket" / "out.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}\n")
    for more in ([], ["--resume"]):
        with pytest.raises(ConfigError, match="out.jsonl exists; .*name another file"):
            generate.main(["--run=x", "--prompt=a", "--output=gs://bucket/out.jsonl", *more])
    assert file.read_text() == "{}\n"


def test_local_paths_stay_pathlib_paths(tmp_path):
    assert type(paths.of(tmp_path)) is type(tmp_path) and not paths.remote(tmp_path)
    paths.write_text(tmp_path / "a.json", "one")
    paths.write_text(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "two" and len(list(tmp_path.iterdir())) == 1
    np.testing.assert_equal(paths.absolute("a"), pathlib.Path("a").absolute())
