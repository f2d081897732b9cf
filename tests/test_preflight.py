"""A config that cannot work fails before any text is prepared: the message comes, and no cache is made."""

import dataclasses
import pathlib

import pytest
import tiny_configs

import finetune
import train
from data import labeled, prepare
from data import tokenizer as tokenizers
from models.config import ModelConfig
from objectives import OBJECTIVES
from tasks import TASKS, base
from training import config as config_lib
from training.preflight import check_durations
from training.schema import FinetuneConfig, PretrainConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    learned = {"model__positions": "learned"}
    train.run(tiny_configs.pretraining(folder, **learned), str(folder / "good"))
    tokenizers.of_words(("a", "b")).save(folder / "words.json")
    return folder


@pytest.fixture
def no_data(monkeypatch):
    """Reading data is an error that the check must precede."""

    def fails(*_, **__):
        raise AssertionError("data was read")

    monkeypatch.setattr(prepare, "prepare", fails)
    monkeypatch.setattr(labeled, "load", fails)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"training.duration": "2 fortnights"}, "unit 'fortnights' cannot be used here"),
        ({"training.duration": "50 %"}, "unit '%' cannot be used here"),
        ({"training.duration": "0 tokens"}, "training.duration='0 tokens' is 0 steps"),
        ({"evaluation.every": "often"}, "config.evaluation.every='often' is not a duration"),
        ({"checkpoint.every": "5 parsecs"}, "config.checkpoint.every='5 parsecs'"),
        ({"checkpoint.keep_period": "x steps"}, "config.checkpoint.keep_period='x steps'"),
        ({"logging.every": "-1 steps"}, "config.logging.every='-1 steps' is not a duration"),
        ({"optimizer.warmup": "2 steps"}, "optimizer.warmup='2 steps' is 2 of 2 steps; make it"),
        ({"training.duration": "999 tokens", "optimizer.warmup": "9e9 tokens"}, "make it shorter"),
        ({"training.duration": "2 GFLOPs"}, "'GFLOPs' cannot be used here; expected one of steps, exam"),
        ({"training.duration": "0 FLOPs"}, "training.duration='0 FLOPs' is 0 steps"),
        ({"training.duration": "2e8 FLOPs", "optimizer.warmup": "9e4 steps"}, "make it shorter"),
        ({"optimizer.cooldown": "1 moon"}, "config.optimizer.cooldown='1 moon'"),
        ({"mesh.data": "3"}, "config.mesh=(data=3"),
        ({"training.batch_size": "6"}, "batch_size=6 does not divide"),
        ({"model.num_heads": "3"}, "num_heads must divide emb_dim"),
        ({"training.seq_len": "1000000000"}, "training.seq_len=1,000,000,000: the hidden states of"),
        ({"training.batch_size": "2000000000"}, "training.batch_size=2,000,000,000 with training.seq"),
        ({"model.final_logit_softcap": "9.0", "model.lm_head_bias": "True"}, "set lm_head_bias_init to"),
        ({"objective.name": "masked_lm"}, "masked_lm does not support architecture 'decoder'"),
        ({"model.positions": "learned", "model.max_length": "16"}, "max_length=16 is smaller than the 32"),
        ({"tokenizer.path": "{0}/good", "model.vocab_size": "200"}, "vocab_size=200 is smaller than the"),
        ({"tokenizer.path": "{0}/nowhere"}, "nowhere"),
        ({"tokenizer.path": "{0}/words.json", "init_from": "{0}/good", "model.positions": "learned"},
         "was trained with another tokenizer"),
        ({"freeze": "('decodr/.*',)"}, "config.freeze='decodr/.*' matches no parameter"),
        ({"optimizer.lr_mults": "(('x', 2.0), ('.*', 1.0))"}, "config.optimizer.lr_mults"),
        ({"init_from": "{0}/good", "model.emb_dim": "64"}, "model.emb_dim is 32 there and 64 here"),
        ({"init_from": "{0}/good", "model.positions": "learned", "training.seq_len": "64"},
         "embed/positions/embedding is float32[32, 32] there and float32[64, 32] here"),
        ({"init_from": "{0}/good", "model.positions": "learned", "init_stacks": "encoder"}, "init_stacks"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_bad_pretraining_config_fails_before_its_text_is_read(
    folder, no_data, overrides, expected
):
    given = {k.replace(".", "__"): v.replace("{0}", str(folder)) for k, v in overrides.items()}
    config = tiny_configs.pretraining(folder, **given)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        train.run(config, str(folder / "unused"))
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            {"task.max_seq_len": "33"},
            "task.max_seq_len=33, but the pretrained model has 32 learned",
        ),
        ({"task.max_seq_len": "1000000000"}, "has 32 learned positions"),
        (
            {"training.batch_size": "2000000000"},
            "training.batch_size=2,000,000,000 with task.max",
        ),
        ({"task.pooling": "cls"}, "task.pooling='cls' does not fit architecture 'decoder'"),
        (
            {"evaluation.every": "never"},
            "select='best' needs evaluation.every and checkpoint.every",
        ),
        (
            {"checkpoint.every": "0 steps"},
            "select='best' needs evaluation.every and checkpoint.every",
        ),
        ({"training.duration": "2 epoch s"}, "is not a duration"),
        ({"optimizer.warmup": "7 steps"}, "7 of 2 steps; make it shorter"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_finetuning_config_fails_before_its_labels_are_read(
    folder, no_data, overrides, expected
):
    given = {key.replace(".", "__"): value for key, value in overrides.items()}
    config = tiny_configs.finetuning(folder, folder / "good", **given)
    with pytest.raises(ValueError) as error:
        finetune.run(config, str(folder / "unused"))
    assert expected in str(error.value)


def test_a_length_that_memory_cannot_hold_is_refused_with_the_longest_that_it_can(monkeypatch):
    monkeypatch.setattr(base, "memory", lambda: 4 * 1000**2)
    rope = ModelConfig(architecture="decoder", attention_kernel="dense")
    words = ModelConfig(architecture="embeddings")
    base.check_memory("task.max_seq_len", 1000, 1000, rope)
    with pytest.raises(ValueError, match="task.max_seq_len=1,001: .* set it to less than 1,000"):
        base.check_memory("task.max_seq_len", 1001, 1, rope)
    linear = dataclasses.replace(rope, attention_kernel="auto", emb_dim=500)
    base.check_memory("task.max_seq_len", 2000, 1, linear)
    with pytest.raises(ValueError, match="the hidden states of one row .* less than 2,000"):
        base.check_memory("task.max_seq_len", 2001, 1, linear)
    base.check_memory("training.seq_len", 10_000, 100, words)
    with pytest.raises(ValueError, match="batch_size=101 with training.seq_len=10,000: the tokens"):
        base.check_memory("training.seq_len", 10_000, 101, words)
    monkeypatch.undo()
    assert 2**28 < base.memory() < 2**50


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder", "embeddings"])
def test_the_outline_of_every_objective_needs_no_data(no_data, architecture):
    for name, objective in OBJECTIVES.items():
        if architecture in objective().architectures:
            given = {"model": {"architecture": architecture}, "objective": {"name": name}}
            config = config_lib.resolve(PretrainConfig, given)
            loaded = TASKS["pretraining"]().load_without_data(config, config.model, "")
            assert loaded.tokens_per_step > 0 and loaded.abstract_batch.targets.ndim > 1


@pytest.mark.parametrize(
    ("duration", "warmup"),
    [
        ("3 epochs", "2000 steps"),
        ("10 steps", "9 epochs"),
        ("1e9 tokens", "6 %"),
        ("1 epochs", "5 %"),
        ("1e9 FLOPs", "2e9 steps"),
        ("1e15 FLOPs", "6 %"),
        ("3e9 tokens", "6 %"),
    ],
)
def test_what_the_data_decides_is_left_to_the_data(duration, warmup):
    given = {"init_from": "x", "training": {"duration": duration}, "optimizer": {"warmup": warmup}}
    check_durations(config_lib.resolve(FinetuneConfig, given))


def test_loading_without_data_computes_the_lengths_of_the_loaded_task(folder):
    config = config_lib.resolve(PretrainConfig, tiny_configs.pretraining(folder))
    loaded = TASKS["pretraining"]().load_without_data(config, config.model, "")
    task = TASKS["pretraining"]().load(config, config.model, "", lambda line: None)
    assert loaded.tokens_per_step == task.tokens_per_step
    assert loaded.lengths == task.lengths and pathlib.Path(folder / "cache").exists()
