"""Changes that a later command may make in a run directory: its length, its schedule from a checkpoint
on, and everything before the first update. Each run is bit for bit what its schedule says."""

import json
import pathlib
import re
import shutil

import hooks
import numpy as np
import pytest
import tiny_configs

import finetune
import train
from training import schedules
from training.config import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("continuation")


def config(folder, steps, schedule="constant", **overrides):
    return tiny_configs.pretraining(
        folder,
        **{
            "training__duration": f"{steps} steps",
            "optimizer__schedule": schedule,
            "model__lm_head_bias_init": "zeros",  # unigram counts depend on the number of batches
            "checkpoint__every": "2 steps",
            "checkpoint__max_to_keep": 9,
            **overrides,
        },
    )


@pytest.fixture(scope="module")
def constant(folder):
    """A finished run of 4 updates at a constant learning rate."""
    train.run(config(folder, 4), str(folder / "constant"))
    return folder / "constant"


@pytest.fixture(scope="module")
def cosine(folder):
    train.run(config(folder, 4, "cosine"), str(folder / "cosine"))
    return folder / "cosine"


def copy_of(run, name):
    return str(shutil.copytree(run, run.parent / name))


def manifest(run):
    return json.loads((pathlib.Path(run) / "manifest.json").read_text())


def trained(run):
    """The lines of the updates."""
    return [line for line in tiny_configs.metrics(run) if line["split"] == "train"]


def assert_same_params(run, expected, step):
    found, wanted = (tiny_configs.read_params(each, step) for each in (run, expected))
    assert found.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)


def test_a_longer_run_is_bit_for_bit_the_run_of_that_length(folder, constant, caplog, monkeypatch):
    caplog.set_level("INFO", logger="triptych")
    run, whole = copy_of(constant, "longer"), str(folder / "whole")
    with hooks.crash_after_save(monkeypatch, train, 6), pytest.raises(RuntimeError, match="crash"):
        train.run(config(folder, 8), run)
    assert "config.training.duration: '4 steps' -> '8 steps'" in caplog.text
    assert "constant schedule of 8 steps: learning rate 0.002 at update 1" in caplog.text
    assert train.run(config(folder, 8), run).step == 8
    assert train.run(config(folder, 8), whole).step == 8
    assert_same_params(run, whole, 8)
    assert trained(run) == trained(whole)
    starts = manifest(run)["starts"]
    assert [start["step"] for start in starts] == [0, 4, 6]
    assert starts[1]["changes"] == {"training.duration": ["4 steps", "8 steps"]}
    assert "of 8 steps" in starts[1]["schedule"] and starts[2]["changes"] == {}
    assert manifest(run)["total_steps"] == 8


def test_a_length_in_flops_is_its_number_of_steps_and_resumes_exactly(
    folder, constant, monkeypatch
):
    per_step = manifest(constant)["flops_per_step"]
    lengths = {"duration": f"{5.7 * per_step} FLOPs", "stop_after": f"{9 * per_step:g} FLOPs"}
    given = config(folder, 0, "cosine", **{f"training__{k}": v for k, v in lengths.items()})
    run, whole = str(folder / "flops"), str(folder / "flops-in-steps")
    with hooks.crash_after_save(monkeypatch, train, 4), pytest.raises(RuntimeError, match="crash"):
        train.run(given, run)
    assert train.run(given, run).step == 6
    assert train.run(config(folder, 6, "cosine"), whole).step == 6
    assert_same_params(run, whole, 6)
    assert trained(run) == trained(whole) and manifest(run)["total_steps"] == 6
    assert [start["step"] for start in manifest(run)["starts"]] == [0, 4]


def test_a_schedule_may_end_differently_if_its_past_stays(folder, constant):
    run = copy_of(constant, "cooldown")
    schedule = {"optimizer__cooldown": "2 steps", "optimizer__final_lr_frac": 0.0}
    assert train.run(config(folder, 6, "wsd", **schedule), run).step == 6
    used = [line["learning_rate"] for line in trained(run)]
    np.testing.assert_allclose(used, [2e-3, 2e-3, 2e-3, 2e-3, 2e-3, 1e-3], rtol=1e-6)


def test_a_length_that_would_change_past_learning_rates_is_refused(folder, cosine):
    run = copy_of(cosine, "refused")
    before = tiny_configs.metrics(run)
    with pytest.raises(ConfigError) as error:
        train.run(config(folder, 8, "cosine"), run)
    message = str(error.value)
    assert len(message) <= 400 + len(run) * 2 and "\n" not in message
    assert "config.training.duration: '4 steps' -> '8 steps' changes the past" in message
    assert "update 3 had learning rate 0.00155, now 0.00191" in message.replace("0000", "")[:400]
    assert "--config.resume_from=2" in message and f"--config.init_from={run}" in message
    assert tiny_configs.metrics(run) == before


def test_the_remedy_of_a_refused_length_is_a_command_that_is_accepted(folder):
    def six_percent(steps, schedule, **flags):
        warmup = {"optimizer__warmup": "50 %", "optimizer__cooldown": "2 steps"} | flags
        return config(folder, steps, schedule, **warmup)

    for schedule, expected in (
        ("constant", ["--config.optimizer.warmup='2 steps'"]),
        ("wsd", ["--config.optimizer.warmup='2 steps'", "--config.resume_from=2"]),
        ("cosine", ["--config.optimizer.warmup='2 steps'", "--config.resume_from=2"]),
    ):
        run = str(folder / f"remedy-{schedule}")
        train.run(six_percent(4, schedule), run)
        with pytest.raises(ConfigError) as error:
            train.run(six_percent(8, schedule), run)
        assert "update 1 had learning rate 0.001, now 0.0005" in str(error.value)
        flags = re.findall(r"--config\.(\S+?)=('[^']+'|\d+)", str(error.value))
        assert [f"--config.{key}={value}" for key, value in flags] == expected
        flags = {key.replace(".", "__"): value.strip("'") for key, value in flags}
        assert train.run(six_percent(8, schedule, **flags), run).step == 8
        used = [line["learning_rate"] for line in trained(run)]
        assert len(used) == 8 and used[:2] == pytest.approx([1e-3, 2e-3])
        if schedule == "wsd":
            assert used == pytest.approx([1e-3, *[2e-3] * 6, 1.1e-3])


def test_a_length_below_the_updates_of_the_run_is_refused(folder, constant):
    with pytest.raises(ConfigError, match=r"ends before update 4 .*resume_from=STEP.*\[0, 2\]"):
        train.run(config(folder, 3), copy_of(constant, "shorter"))


def test_another_option_of_the_optimizer_needs_a_named_checkpoint(folder, constant):
    run = copy_of(constant, "option")
    with pytest.raises(ConfigError, match=r"beta1: 0.9 -> 0.8.*--config.resume_from=4 changes"):
        train.run(config(folder, 4, optimizer__beta1=0.8), run)
    for wrong, expected in (
        ({"resume_from": 3}, r"no checkpoint 3; it has \[0, 2, 4\]"),
        ({"resume_from": 2, "model__emb_dim": 64}, r"model.emb_dim: 32 -> 64"),
        ({"resume_from": 2, "optimizer__name": "lion"}, r"optimizer.name: 'adamw' -> 'lion'"),
    ):
        with pytest.raises(ConfigError, match=expected):
            train.run(config(folder, 4, **wrong), run)
    with pytest.raises(ConfigError, match="holds no run; leave it out"):
        train.run(config(folder, 4, resume_from=2), str(folder / "new"))


def test_after_a_non_finite_loss_the_named_command_goes_back(folder, constant, monkeypatch):
    run, learning_rates = copy_of(constant, "diverged"), schedules.learning_rates

    def diverging(*arguments):
        values = learning_rates(*arguments)
        return np.where(np.arange(len(values)) < 4, values, np.float32("inf"))

    with monkeypatch.context() as patch, pytest.raises(FloatingPointError) as error:
        patch.setattr(schedules, "learning_rates", diverging)
        train.run(config(folder, 8), run)
    assert len(str(error.value)) <= 400 and "update 6 had a loss" in str(error.value)
    named = re.findall(r"--config\.(\S+)=(\S+?),? ", str(error.value))
    assert [key for key, _ in named] == ["resume_from", "optimizer.learning_rate"]
    assert dict(named)["resume_from"] == "4"
    flags = {"resume_from": "4", "optimizer__learning_rate": "1e-3"}
    assert train.run(config(folder, 8, **flags), run).step == 8
    assert [line["step"] for line in trained(run)] == list(range(1, 9))
    aside = trained(pathlib.Path(run) / "set_aside/1")
    assert [line["step"] for line in aside] == list(range(1, 7)) and np.isnan(aside[-1]["loss"])


def test_going_back_sets_later_checkpoints_and_metrics_aside(folder, constant, monkeypatch):
    run = copy_of(constant, "back")
    lower = config(
        folder, 6, resume_from=2, optimizer__learning_rate=1e-3, optimizer__grad_clip_norm=0
    )
    with hooks.crash_after_save(monkeypatch, train, 4), pytest.raises(RuntimeError, match="crash"):
        train.run(lower, run)
    aside = pathlib.Path(run) / "set_aside" / "1"
    assert [path.name for path in (aside / "checkpoints").iterdir()] == ["4"]
    assert (aside / "metrics.jsonl").read_text() == (constant / "metrics.jsonl").read_text()
    assert (aside / "config.json").read_text() == (constant / "config.json").read_text()
    assert train.run(lower, run).step == 6  # the same command resumes: it does not go back again
    assert not (pathlib.Path(run) / "set_aside" / "2").exists()
    whole = copy_of(constant, "back-at-once")
    assert train.run(lower, whole).step == 6
    assert_same_params(run, whole, 6)
    assert trained(run) == trained(whole)
    used = [line["learning_rate"] for line in trained(run)]
    np.testing.assert_allclose(used, [2e-3] * 2 + [1e-3] * 4, rtol=1e-6)
    start = manifest(run)["starts"][1]
    assert start["step"] == start["resume_from"] == 2
    assert start["changes"]["optimizer.learning_rate"] == [0.002, 0.001]
    longer = config(
        folder, 8, resume_from=2, optimizer__learning_rate=1e-3, optimizer__grad_clip_norm=0
    )
    assert train.run(longer, run).step == 8
    assert [start["step"] for start in manifest(run)["starts"]] == [0, 2, 4, 6]


def test_a_run_without_an_update_leaves_its_directory_free(folder, constant, monkeypatch):
    run = str(folder / "early")

    def fails(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            train.run(config(folder, 4, training__batch_size=16, tokenizer__vocab_size=600), run)
    assert (pathlib.Path(run) / "checkpoints" / "0").is_dir()
    train.run(config(folder, 4), run)
    assert_same_params(run, constant, 4)
    assert tiny_configs.metrics(run) == tiny_configs.metrics(constant)
    assert manifest(run)["tokenizer"] == manifest(constant)["tokenizer"]
    assert len(manifest(run)["starts"]) == 1


def test_a_longer_finetuning_run_sets_its_scores_aside(folder, constant):
    def task(duration):
        return tiny_configs.finetuning(
            folder, constant, training__duration=duration, optimizer__schedule="constant",
            optimizer__warmup="1 step", checkpoint__every="2 steps",
        )  # fmt: skip

    run = folder / "task"
    finetune.run(task("2 steps"), str(run))
    scores = (run / "scores.json").read_text()
    longer = f"{4 * manifest(run)['flops_per_step']} FLOPs"
    assert finetune.run(task(longer), str(run)).step == 4
    assert (run / "set_aside/1/scores.json").read_text() == scores
    assert (run / "set_aside/1/predictions_test.tsv").exists()
    assert (run / "scores.json").exists() and (run / "predictions_test.tsv").exists()
    whole = folder / "task-whole"
    finetune.run(task("4 steps"), str(whole))
    assert_same_params(run, whole, 4)


def test_a_directory_of_another_program_is_not_taken(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="not of a run of this project"):
        train.run(config(folder, 4), str(tmp_path))
    assert (tmp_path / "config.json").read_text() == '{"model_type": "bert"}'


def test_an_imported_model_is_not_taken_for_a_run_that_never_started(folder, constant):
    """Conversions write checkpoint 0 with parameters alone."""
    run = pathlib.Path(copy_of(constant, "imported"))
    for step in (2, 4):
        shutil.rmtree(run / "checkpoints" / str(step))
    for item in ("opt_state", "state"):
        shutil.rmtree(run / "checkpoints" / "0" / item)
    (run / "metrics.jsonl").unlink()
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    with pytest.raises(ConfigError, match="holds a run of another config"):
        train.run(config(folder, 4, model__emb_dim=16), str(run))
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before
