"""Run directories in a bucket: train, resume, finetune and evaluate with --workdir=gs://...

No network: `gs://` is a folder of this machine behind fsspec (for etils.epath) and behind TensorStore's
file driver (for Orbax's arrays), without what an object store lacks: appending and locks.
"""

import json
import pathlib

import fsspec
import numpy as np
import pytest
import shrink
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from orbax.checkpoint._src.path import gcs_utils

import finetune
import train
from training import checkpoint, journal, logs, loop, paths, run_directory
from training.config import ConfigError

# As in tests/test_average.py, so that compiled programs are shared.
EMA, TUNED = 0.8, {"freeze": "('embed/.*',)", "training__ema": 0.5}


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
    return shrink.pretraining(folder, training__duration="4 steps", training__ema=EMA,
                              evaluation__every="2 steps", **overrides)  # fmt: skip


def test_law_2_a_run_in_a_bucket_resumes_and_writes_what_a_local_one_writes(
    bucket, folder, monkeypatch
):
    train.run(config(folder), str(folder / "local"))
    run, loop_run = "gs://bucket/runs/enc", loop.run

    def crashing(*arguments, save, **keywords):
        def save_then_crash(state, measured):
            save(state, measured)
            if int(state.step) == 2:
                raise RuntimeError("crash")

        return loop_run(*arguments, save=save_then_crash, **keywords)

    monkeypatch.setattr(loop, "run", crashing)
    with pytest.raises(RuntimeError, match="crash"):
        train.run(config(folder), run)
    monkeypatch.setattr(loop, "run", loop_run)
    assert train.run(config(folder), run).step == 4
    assert shrink.metrics(bucket / "bucket/runs/enc") == shrink.metrics(folder / "local")
    assert not (bucket / "bucket/runs/enc/.lock").exists()
    ours, theirs = ({p.name for p in f.iterdir() if p.name.isdigit()} for f in (
        bucket / "bucket/runs/enc/checkpoints", folder / "local/checkpoints"))  # fmt: skip
    assert ours == theirs
    finals = [checkpoint.params_metadata(f, 4) for f in (run, folder / "local")]
    assert finals[0].keys() == finals[1].keys()
    found, step = checkpoint.locate(f"{run}@3")
    assert (str(found), step) == (run, 3)
    assert logs.last(run, "validation") == logs.last(folder / "local", "validation")
    local = finetune.run(
        shrink.finetuning(folder, folder / "local", **TUNED), str(folder / "tuned")
    )
    remote = finetune.run(shrink.finetuning(folder, run, **TUNED), "gs://bucket/tuned")
    assert remote.metrics == local.metrics
    scores = json.loads((bucket / "bucket/tuned/scores.json").read_text())
    assert scores == json.loads((folder / "tuned/scores.json").read_text())
    # A torn checkpoint is set aside there too.
    for file in (bucket / "bucket/runs/enc/checkpoints/4/params").rglob("_METADATA"):
        file.write_text(file.read_text()[:40])
    assert train.run(config(folder), run).step == 4
    assert (bucket / "bucket/runs/enc/checkpoints/4.broken").is_dir()
    assert shrink.metrics(bucket / "bucket/runs/enc") == shrink.metrics(folder / "local")


def test_an_unfinished_save_in_a_bucket_is_no_checkpoint(bucket):
    (bucket / "bucket/half/checkpoints/7/params").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no checkpoint at all"):
        checkpoint.locate("gs://bucket/half")


def test_the_later_of_two_programs_has_the_run_and_the_earlier_ends_at_its_next_save(bucket):
    first = journal.open_journal("gs://bucket/two")
    first.begin(-1)
    first.write('{"step": 1}\n')
    first.flush()
    second = journal.open_journal("gs://bucket/two")
    second.begin(1)
    first.write('{"step": 2}\n')
    with pytest.raises(ConfigError, match="has taken the run over"):
        first.flush()
    first.close()
    second.write('{"step": 2, "by": "second"}\n')
    second.close()
    text = (bucket / "bucket/two/metrics.jsonl").read_text()
    assert text == '{"step": 1}\n{"step": 2, "by": "second"}\n'
    assert not (bucket / "bucket/two/.lock").exists()


def test_lines_beyond_the_restored_step_are_cut_in_a_bucket_too(bucket):
    place = bucket / "bucket/cut"
    place.mkdir(parents=True)
    (place / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    lines = journal.open_journal("gs://bucket/cut")
    lines.begin(2)
    lines.close()
    assert (place / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_missing_extra_and_another_scheme_are_one_line_with_the_remedy(folder, monkeypatch):
    def missing(name):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    for function, words in (
        (lambda: train.run(config(folder), "gs://bucket/run"), "pip install -e '.[gcs]'"),
        (lambda: run_directory.read_config("gs://bucket/run"), "the extra [gcs]"),
        (lambda: paths.of("ftp://host/run"), "expected gs://bucket/run or a path"),
    ):
        with pytest.raises(ConfigError) as caught:
            function()
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_local_paths_stay_what_they_were(tmp_path):
    assert type(paths.of(tmp_path)) is type(tmp_path) and not paths.remote(tmp_path)
    paths.write_text(tmp_path / "a.json", "one")
    paths.write_text(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "two" and len(list(tmp_path.iterdir())) == 1
    np.testing.assert_equal(paths.absolute("a"), pathlib.Path("a").absolute())
