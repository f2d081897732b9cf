"""Averaged parameters end to end: what training.ema_decay changes, and which runs read the average."""

import logging

import numpy as np
import pytest
import tiny_configs

import finetune
import train
from training import checkpoint, logs

EMA_DECAY = 0.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ema")
    for name, ema_decay in (("plain", 0.0), ("run", EMA_DECAY)):
        config = tiny_configs.pretraining(
            folder, training__duration="6 steps", training__ema_decay=ema_decay,
            evaluation__every="3 steps", checkpoint__max_to_keep=9,
        )  # fmt: skip
        train.run(config, str(folder / name))
    return folder


def read_params(run, step, use_ema):
    params = tiny_configs.read_params(run, step, use_ema)
    return {path: array.astype(np.float64) for path, array in params.items()}


def test_averaging_changes_no_update_and_every_evaluation(folder):
    run, plain = folder / "run", folder / "plain"
    updates = [logs.read_metrics(each, "train") for each in (run, plain)]
    assert len(updates[0]) == len(updates[1]) == 6
    for found, expected in zip(*updates, strict=True):
        assert found.keys() == expected.keys()
        for name in found.keys() - {"split"}:  # two programs, which round differently
            assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    averaged, raw = (logs.read_metrics(each, "validation") for each in (run, plain))
    assert averaged[0] == raw[0] and len(averaged) == len(raw) == 3
    assert all(a["loss"] != b["loss"] for a, b in zip(averaged[1:], raw[1:], strict=True))


def test_the_checkpoint_holds_the_corrected_average_next_to_the_parameters(folder):
    raw = [read_params(folder / "plain", step, False) for step in range(1, 7)]
    for path, found in read_params(folder / "run", 6, False).items():
        np.testing.assert_allclose(found, raw[-1][path], rtol=1e-5, atol=1e-6, err_msg=path)
    weights = EMA_DECAY ** np.arange(5, -1, -1.0) * (1 - EMA_DECAY) / (1 - EMA_DECAY**6)
    for path, found in read_params(folder / "run", 6, True).items():
        expected = sum(w * tree[path] for w, tree in zip(weights, raw, strict=True))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("use_ema", [True, False], ids=["averaged", "raw"])
def test_finetuning_and_continued_pretraining_read_the_chosen_parameters_and_log_it(
    folder, use_ema, caplog
):
    chosen = read_params(folder / "run", 6, use_ema)
    finetuned, continued = folder / f"finetuned-{use_ema}", folder / f"continued-{use_ema}"
    with caplog.at_level(logging.INFO, "triptych"):
        config = tiny_configs.finetuning(
            folder, folder / "run", init_ema=use_ema, freeze="('embed/.*',)",
            training__ema_decay=0.5, training__duration="3 steps",
        )  # fmt: skip
        result = finetune.run(config, str(finetuned))
        config = tiny_configs.pretraining(folder, init_from=str(folder / "run"), init_ema=use_ema)
        train.run(config, str(continued))
    name = f"{folder}/run@6"
    expected = (
        f"averaged parameters of {name} ({len(chosen)} tensors)"
        if use_ema
        else f"parameters of {name}, not averaged (init_ema=False)"
    )
    assert caplog.text.count(f"; {expected}\n") == 2
    for run in (finetuned, continued):
        first = read_params(run, 0, True)
        shared = first.keys() & chosen.keys()
        assert len(shared) > 10
        for path in shared:
            np.testing.assert_array_equal(first[path], chosen[path], err_msg=path)
    # The best step is read as it was evaluated: averages of trained parameters, frozen ones unchanged.
    scores = {line["step"]: line["accuracy"] for line in logs.read_metrics(finetuned, "validation")}
    best = max(scores, key=lambda step: (scores[step], step))
    assert result.metrics["validation/accuracy"] == scores[best]
    averaged = checkpoint.ema_paths(finetuned, best)
    assert averaged and not any(path.startswith("embed/") for path in averaged)


def test_the_log_says_that_a_source_has_no_average(folder, caplog):
    with caplog.at_level(logging.INFO, "triptych"):
        config = tiny_configs.pretraining(folder, init_from=str(folder / "plain"))
        train.run(config, str(folder / "from-plain"))
    assert f"parameters of {folder}/plain@6 (it has no averaged parameters)\n" in caplog.text
