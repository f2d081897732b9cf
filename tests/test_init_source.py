"""Runs that start from a Hugging Face directory: config.json stores the one config that ran, with the
model and the tokenizer of the source, and nothing else is needed to resume."""

import dataclasses
import shutil

import pytest
import tiny_configs
from published import bert

import finetune
import train
from huggingface import as_run
from training import init_from, run_directory
from training.config import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))


def models_of(run):
    """(model of the stored config, model that was built) of a run directory."""
    record = run_directory.read_config(run)
    return record["config"]["model"], record["model"]


def test_a_continued_run_stores_the_model_of_its_source_and_resumes_without_it(tmp_path):
    source = bert(tmp_path / "bert")
    pretrained = dataclasses.asdict(init_from.read_model_config(as_run(str(source))))
    config = tiny_configs.pretraining(
        tmp_path, "configs/encoder.py", init_from=str(source), model__dropout_rate=0.2
    )
    run = str(tmp_path / "run")
    assert config.model.num_layers != pretrained["num_layers"] == 2
    first = train.run(config, run)
    stored, built = models_of(run)
    assert stored == built == pretrained | {"dropout_rate": 0.2}
    tokenizer = run_directory.read_config(run)["config"]["tokenizer"]
    assert tokenizer["path"].startswith(str(tmp_path / "cache"))
    config_file = tmp_path / "run/config.json"
    before = config_file.read_text()

    for folder in (source, tmp_path / "cache/huggingface", tmp_path / "run/checkpoints/2"):
        shutil.rmtree(folder)
    again = train.run(config, run)
    assert again.step == 2 and again.metrics == first.metrics
    assert config_file.read_text() == before
    config.model.dropout_rate = 0.3
    with pytest.raises(ConfigError, match="model.dropout_rate: 0.2 -> 0.3"):
        train.run(config, run)


def test_a_finetuned_run_stores_the_model_of_its_source_and_resumes_without_it(tmp_path):
    source = bert(tmp_path / "bert", classes=("wet", "dry"))
    pretrained = dataclasses.asdict(init_from.read_model_config(as_run(str(source))))
    config = tiny_configs.finetuning(
        tmp_path, source, task__pooler=True, task__group_by_length=2, training__duration="1 steps",
    )  # fmt: skip
    run = str(tmp_path / "run")
    first = finetune.run(config, run)
    assert models_of(run) == (pretrained, pretrained)

    for folder in (source, tmp_path / "cache/huggingface", tmp_path / "run/checkpoints/1"):
        shutil.rmtree(folder)
    assert finetune.run(config, run).metrics == first.metrics
    config.model_overrides = {"dropout_rate": 0.3}
    with pytest.raises(ConfigError, match="model_overrides.dropout_rate: -1.0 -> 0.3"):
        finetune.run(config, run)
