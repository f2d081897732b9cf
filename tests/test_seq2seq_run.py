"""Sequence-to-sequence finetuning end to end: the LM head that is loaded, scores, predictions, resume."""

import csv
import json
import shutil

import numpy as np
import pytest
import tiny_configs
from hooks import crash_after_save

import finetune
import train
from training.config import ConfigError

HEAD = {"decoder": {"model__lm_head_bias": True, "model__tie_word_embeddings": False},
        "encoder_decoder": {"model__lm_head_bias": True}}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("seq2seq")


def pretrained(folder, architecture):
    run = folder / architecture
    if not run.exists():
        config = tiny_configs.pretraining(
            folder, f"configs/{architecture}.py", **HEAD[architecture]
        )
        train.run(config, str(run))
    return run


def finetuning(folder, run, **overrides):
    return tiny_configs.finetuning(folder, run, "configs/finetune/seq2seq.py", **overrides)


@pytest.mark.parametrize(
    "architecture", ["decoder", pytest.param("encoder_decoder", marks=pytest.mark.slow)]
)
def test_the_pretrained_lm_head_is_loaded_and_said_and_a_crash_is_invisible(
    folder, architecture, caplog, monkeypatch
):
    source = pretrained(folder, architecture)
    # Two new tokens make the padded vocabulary of 512 longer.
    config = finetuning(
        folder, source, task__special_tokens="('[A]', '[B]')", checkpoint__every="1 step",
        task__prompt="[A] {source} [B]",
    )  # fmt: skip
    with caplog.at_level("INFO", "triptych"):
        result = finetune.run(config, str(folder / f"{architecture}-run"))
    assert any("the pretrained head is kept: heads/lm/bias" in line for line in caplog.messages)
    before, after = (
        tiny_configs.read_params(source, 2),
        tiny_configs.read_params(folder / f"{architecture}-run", 0),
    )
    assert before.keys() == after.keys()
    for path, value in before.items():
        known = value
        found = after[path]
        if path in ("embed/tokens/embedding", "heads/lm/bias", "heads/lm/kernel"):
            axis = int(path.endswith("kernel"))
            assert found.shape[axis] == value.shape[axis] + 128
            size = 512
            found, known = (np.take(x, range(size), axis) for x in (found, value))
        np.testing.assert_array_equal(found, known, err_msg=path)
    with (folder / f"{architecture}-run/predictions_test.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    tokens, loss = (np.array([float(row[key]) for row in rows]) for key in ("tokens", "loss"))
    assert len(rows) == 120
    assert result.metrics["test/loss"] == pytest.approx((tokens * loss).sum() / tokens.sum())

    with crash_after_save(monkeypatch, finetune, 1), pytest.raises(RuntimeError, match="crash"):
        finetune.run(config, str(folder / f"{architecture}-crashed"))
    finetune.run(config, str(folder / f"{architecture}-crashed"))
    runs = [folder / f"{architecture}-{name}" for name in ("run", "crashed")]
    assert tiny_configs.metrics(runs[0]) == tiny_configs.metrics(runs[1])
    scores = [json.loads((run / "scores.json").read_text()) for run in runs]
    assert scores[0] == scores[1]
    for run in runs:
        shutil.rmtree(run)


def test_a_run_without_the_lm_head_is_refused_with_the_remedy(folder, tmp_path):
    source = pretrained(folder, "decoder")
    classifier = tiny_configs.finetuning(folder, source, training__duration="1 step")
    finetune.run(classifier, str(tmp_path / "classifier"))
    config = finetuning(folder, tmp_path / "classifier")
    with pytest.raises(
        ConfigError, match=r"heads/lm/bias is missing.*config.restore.allow_missing"
    ):
        finetune.run(config, str(tmp_path / "run"))
