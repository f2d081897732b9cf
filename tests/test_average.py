"""Averaged parameters from end to end: what training.ema changes, who reads the average, who says so."""

import logging
import pathlib

import jax
import numpy as np
import pytest
import shrink

import finetune
import train
from training import checkpoint, rules
from training import mesh as meshes

EMA = 0.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("average")
    for name, ema in (("plain", 0.0), ("run", EMA)):
        config = shrink.pretraining(made, training__duration="6 steps", training__ema=ema,
                                    evaluation__every="3 steps", checkpoint__keep=9)  # fmt: skip
        train.run(config, str(made / name))
    return made


def parameters(run, step, weights):
    """{path: array} of a checkpoint."""
    place = meshes.replicated(meshes.make(meshes.MeshConfig(), jax.devices()[:1]))
    shapes = checkpoint.params_metadata(run, step)
    target = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=place) for k, v in shapes.items()}
    tree = checkpoint.read_params(
        pathlib.Path(run) / "checkpoints", step, rules.merge(target, {}), weights
    )
    return {k: np.asarray(v, np.float64) for k, v in rules.paths(tree).items()}


def split(run, name):
    return [line for line in shrink.metrics(run) if line["split"] == name]


def test_averaging_changes_no_update_and_every_evaluation(folder):
    assert split(folder / "run", "train") == split(folder / "plain", "train")
    ours, theirs = (split(folder / name, "validation") for name in ("run", "plain"))
    assert ours[0] == theirs[0]
    assert all(a["loss"] != b["loss"] for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_the_checkpoint_holds_the_corrected_average_beside_the_raw_parameters(folder):
    raw = [parameters(folder / "plain", step, "raw") for step in range(1, 7)]
    for path, found in parameters(folder / "run", 6, "raw").items():
        np.testing.assert_array_equal(found, raw[-1][path])
    weights = EMA ** np.arange(5, -1, -1.0) * (1 - EMA) / (1 - EMA**6)
    for path, found in parameters(folder / "run", 6, "average").items():
        expected = sum(w * tree[path] for w, tree in zip(weights, raw, strict=True))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("weights", ["average", "raw"])
def test_finetuning_and_continued_pretraining_start_from_the_chosen_ones_and_say_so(
    folder, weights, caplog
):
    chosen = parameters(folder / "run", 6, weights)
    logging.getLogger("triptych").propagate = True
    with caplog.at_level(logging.INFO, "triptych"):
        tuned = folder / f"tuned-{weights}"
        config = shrink.finetuning(
            folder, folder / "run", init_weights=weights, freeze="('embed/.*',)",
            training__ema=0.5, training__duration="3 steps",
        )  # fmt: skip
        result = finetune.run(config, str(tuned))
        on = folder / f"on-{weights}"
        config = shrink.pretraining(folder, init_from=str(folder / "run"), init_weights=weights)
        train.run(config, str(on))
    words = {"average": "averaged parameters of", "raw": "raw parameters of"}[weights]
    assert len({line for line in caplog.messages if words in line}) == 2
    for run in (tuned, on):
        first = parameters(run, 0, "average")
        shared = first.keys() & chosen.keys()
        assert len(shared) > 10
        for path in shared:
            np.testing.assert_array_equal(first[path], chosen[path], err_msg=path)
    # The best step is read back as it was evaluated: averaged where it is trained, raw where frozen.
    measured = {line["step"]: line["accuracy"] for line in split(tuned, "validation")}
    best = max(measured, key=lambda step: (measured[step], step))
    assert result.metrics["validation/accuracy"] == measured[best]
    kept = checkpoint.averaged_paths(tuned, best)
    assert kept and not any(path.startswith("embed/") for path in kept)


def test_a_source_without_an_average_is_read_as_it_is_and_said_to_have_none(folder, caplog):
    logging.getLogger("triptych").propagate = True
    with caplog.at_level(logging.INFO, "triptych"):
        config = shrink.pretraining(folder, init_from=str(folder / "plain"))
        train.run(config, str(folder / "on-plain"))
    assert any("(it keeps no average)" in line for line in caplog.messages)
