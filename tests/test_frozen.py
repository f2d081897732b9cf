"""Frozen parameters end to end: checkpoints hold what is trained, the rest is referenced or saved once.

Whoever reads a run gets all parameters; a base that is gone or has changed is one clear line.
"""

import json
import pathlib
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_configs
from hooks import crash_after_save

import finetune
import train
from tools import convert, word_vectors
from training import checkpoint, frozen, run_directory
from training.config import ConfigError
from training.param_rules import unflatten_params

FREEZE = "('(?!heads/).*',)"  # a linear probe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`base` is pretrained; `probe` trains a head on it and `again` that head further."""
    folder = tmp_path_factory.mktemp("frozen")
    train.run(tiny_configs.pretraining(folder), str(folder / "base"))
    finetune.run(config(folder, "base"), str(folder / "probe"))
    return folder


def config(folder, base, **overrides):
    overrides = {"freeze": FREEZE, **overrides}
    return tiny_configs.finetuning(folder, folder / base, **overrides)


def saved(run, step, item="params"):
    """The paths in one item of a checkpoint."""
    tree = ocp.PyTreeCheckpointHandler().metadata(run / "checkpoints" / str(step) / item).tree
    return {path.removeprefix("/") for path in _paths(tree)}


def _paths(tree, prefix=""):
    if not isinstance(tree, dict):
        return [prefix]
    return [path for key, below in tree.items() for path in _paths(below, f"{prefix}/{key}")]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_a_checkpoint_holds_what_is_trained_and_a_reader_gets_all_of_it(folder):
    run, base = folder / "probe", tiny_configs.read_params(folder / "base", 2)
    assert saved(run, 2) == {f"heads/classification/output/{name}" for name in ("kernel", "bias")}
    (reference,) = frozen.references(run)
    assert reference.places == (str(folder / "base"), "../base") and reference.step == 2
    assert not (run / frozen.OWN).exists() and not (folder / "base" / frozen.FILE).exists()
    found = tiny_configs.read_params(run, 2)
    trunk = {path: array for path, array in base.items() if not path.startswith("heads/")}
    assert_same({path: found[path] for path in trunk}, trunk)
    assert found.keys() - trunk.keys() == saved(run, 2)
    table = word_vectors.load_token_embedding(run, 2)
    np.testing.assert_array_equal(table, base["embed/tokens/embedding"])


def test_a_run_that_starts_from_a_frozen_run_refers_to_it_and_reads_through_it(folder):
    finetune.run(config(folder, "probe"), str(folder / "again"))
    (reference,) = frozen.references(folder / "again")
    assert reference.places[0] == str(folder / "probe")
    base = tiny_configs.read_params(folder / "base", 2)
    found = tiny_configs.read_params(folder / "again", 2)
    for path in found.keys() & base.keys():
        np.testing.assert_array_equal(found[path], base[path], err_msg=path)


def test_invariant_02_a_crashed_run_with_frozen_parameters_resumes_to_the_same_bits(
    folder, monkeypatch
):
    options = {"training__duration": "4 steps", "freeze": "('embed/.*',)", "seed": "3"}
    expected = finetune.run(config(folder, "base", **options), str(folder / "whole"))
    with crash_after_save(monkeypatch, finetune, 2), pytest.raises(RuntimeError, match="crash"):
        finetune.run(config(folder, "base", **options), str(folder / "crashed"))
    result = finetune.run(config(folder, "base", **options), str(folder / "crashed"))
    assert result.metrics == expected.metrics
    assert tiny_configs.metrics(folder / "crashed") == tiny_configs.metrics(folder / "whole")
    for step in (3, 4):
        runs = (folder / "crashed", folder / "whole")
        assert_same(*(tiny_configs.read_params(run, step) for run in runs))


def test_parameters_that_no_run_has_are_saved_once_in_the_run(folder):
    """New rows of the token embedding, an init that reads nothing, and a run of train.py."""
    new_words = {"task__special_tokens": "('[E1]',)", "freeze": "('embed/.*',)"}
    finetune.run(config(folder, "base", **new_words), str(folder / "rows"))
    assert [r.places for r in frozen.references(folder / "rows")] == [(frozen.OWN,)]
    finetune.run(config(folder, "base", init="random"), str(folder / "random"))
    run = folder / "random"
    (own,) = frozen.references(run)
    assert own.places == (frozen.OWN,) and saved(run, 2).isdisjoint(own.names)
    shutil.move(run, folder / "moved")
    assert_same(
        tiny_configs.read_params(folder / "moved", 0),
        tiny_configs.read_params(folder / "moved", 2)
        | {p: x for p, x in tiny_configs.read_params(folder / "moved", 0).items() if "heads" in p},
    )
    pretraining = tiny_configs.pretraining(folder, freeze="('embed/.*',)")
    train.run(pretraining, str(folder / "pretrained"))
    assert saved(folder / "pretrained", 2) == saved(folder / "base", 2) - {"embed/tokens/embedding"}
    assert tiny_configs.read_params(folder / "pretrained", 2).keys() == saved(folder / "base", 2)


def test_a_hugging_face_base_is_saved_once_and_the_run_is_exported_whole(folder, tmp_path):
    preset = tiny_configs.pretraining(tmp_path, "configs/encoder.py:preset=bert-tiny")
    train.run(preset, str(tmp_path / "bert"))
    convert.main(["to_hf", str(tmp_path / "bert"), str(tmp_path / "hf")])
    options = {"freeze": "('embed/.*', 'encoder/.*')", "task__pooler": True}
    finetune.run(
        tiny_configs.finetuning(tmp_path, tmp_path / "hf", **options), str(tmp_path / "run")
    )
    assert [r.places for r in frozen.references(tmp_path / "run")] == [(frozen.OWN,)]
    convert.main(["to_hf", str(tmp_path / "run"), str(tmp_path / "out")])
    convert.main(["from_hf", str(tmp_path / "out"), str(tmp_path / "again")])
    step = json.loads((tmp_path / "run/scores.json").read_text())["step"]
    found = tiny_configs.read_params(tmp_path / "run", step)
    assert_same(tiny_configs.read_params(tmp_path / "again", 0), found)


def test_a_base_that_moved_with_the_run_is_found(folder, tmp_path):
    for name in ("base", "probe"):
        shutil.copytree(folder / name, tmp_path / name)
    record = tmp_path / "probe" / frozen.FILE
    record.write_text(record.read_text().replace(str(folder), "/nowhere"))
    found = tiny_configs.read_params(tmp_path / "probe", 2)
    assert_same(found, tiny_configs.read_params(folder / "probe", 2))


def other_arrays(base):
    flat = tiny_configs.read_params(base, 2)
    shutil.rmtree(base / "checkpoints")
    checkpoint.write_params(base, 2, unflatten_params({p: x + 1 for p, x in flat.items()}))


def other_model(base):
    shutil.rmtree(base / "checkpoints")
    checkpoint.write_params(base, 2, {"embed": {"tokens": {"embedding": np.zeros((4, 4))}}})


def truncated(base):
    for file in (base / "checkpoints/2/params").rglob("_METADATA"):
        file.write_text(file.read_text()[:40])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "but it is gone"),
        (lambda base: shutil.rmtree(base / "checkpoints/2"), "but it is gone"),
        (other_arrays, r"but \w+/.* in it has changed"),
        (other_model, r"but \w+/.* is missing in it"),
        (truncated, "cannot be read"),
    ],
    ids=["moved", "step", "arrays", "model", "truncated"],
)
def test_a_base_that_is_gone_or_changed_is_one_line_for_every_reader(
    folder, tmp_path, spoil, reason
):
    for name in ("base", "probe"):
        shutil.copytree(folder / name, tmp_path / name)
    record = tmp_path / "probe" / frozen.FILE
    record.write_text(record.read_text().replace(str(folder), str(tmp_path)))
    spoil(tmp_path / "base")
    readers = {
        "resume": lambda: finetune.run(config(folder, "base"), str(tmp_path / "probe")),
        "init_from": lambda: finetune.run(
            tiny_configs.finetuning(folder, tmp_path / "probe"), str(tmp_path / "next")
        ),
        "to_vectors": lambda: convert.to_vectors(str(tmp_path / "probe"), str(tmp_path / "v.vec")),
        "to_hf": lambda: convert.to_hf(str(tmp_path / "probe"), str(tmp_path / "hf")),
    }
    for name, read in readers.items():
        with pytest.raises(ConfigError, match=reason) as caught:
            read()
        message = str(caught.value)
        assert message.startswith(f"the frozen parameters of {tmp_path / 'probe'} are those of"), (
            name
        )
        assert "restore it, or correct its path in" in message and "\n" not in message, name


def test_a_run_of_an_earlier_version_is_one_line_and_can_still_be_read(folder, tmp_path):
    """Before, a checkpoint held the frozen parameters too."""
    run = tmp_path / "old"
    shutil.copytree(folder / "probe", run)
    whole = tiny_configs.read_params(run, 2)
    (run / frozen.FILE).unlink()
    with pytest.raises(ConfigError, match=r"decoder/.* is frozen, but .*frozen\.json"):
        finetune.run(config(folder, "base"), str(run))
    shutil.rmtree(run / "checkpoints")
    checkpoint.write_params(run, 2, unflatten_params(whole))
    assert_same(tiny_configs.read_params(run, 2), whole)


def test_a_run_that_stopped_before_its_first_update_leaves_nothing_behind(folder, monkeypatch):
    run = folder / "stopped"
    with crash_after_save(monkeypatch, finetune, 0), pytest.raises(RuntimeError, match="crash"):
        finetune.run(config(folder, "base", init="random"), str(run))
    assert (run / frozen.OWN).is_dir() and not run_directory.is_started(run)
    finetune.run(config(folder, "base", freeze="()"), str(run))
    assert not (run / frozen.OWN).exists() and not pathlib.Path(run / frozen.FILE).exists()
