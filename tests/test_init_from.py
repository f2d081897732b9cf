"""Runs that start from a Hugging Face directory: config.json stores the one config that ran, with the
model and the tokenizer of the source, and nothing else is needed to resume."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny_configs
from published import bert, bpe_pieces, byte_level, gpt2, sentencepiece

import finetune
import train
from data.sources import TextSource
from data.tokenizer import train as train_tokenizer
from huggingface import as_run
from huggingface.tokenizers import read_tokenizer
from tasks import TASKS
from tasks.pretraining import example_ids
from tools import prepare
from training import config as config_lib
from training import init_from, paths, run_directory
from training.config import ConfigError
from training.schema import PretrainConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))


def as_json(config):
    """The fields of a dataclass as a file has them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def models_of(run):
    """(model of the stored config, model that was built) of a run directory."""
    record = run_directory.read_config(run)
    return record["config"]["model"], record["model"]


def prepare_stores(corpus, source):
    """Runs tools.prepare and returns the flags of its config."""
    flags = {"init_from": str(source), "data.source": corpus, "training.seq_len": 32}
    prepare.main(["--config=configs/encoder.py", *(f"--config.{k}={v}" for k, v in flags.items())])
    return flags


@pytest.mark.parametrize("form", ["{source}", "{run}", "{run}@0"])
def test_tools_prepare_makes_the_stores_of_a_run_with_the_tokenizer_of_its_source(tmp_path, form):
    """They are found by a run of several processes, which makes none."""
    source, corpus = bert(tmp_path / "bert"), tiny_configs.corpus(tmp_path)
    flags = prepare_stores(corpus, form.format(source=source, run=as_run(str(source))))
    config = config_lib.load_config_file("configs/encoder.py")
    config.update_from_flattened_dict(flags)
    config = config_lib.resolve(PretrainConfig, config)
    found = init_from.resolve_for_pretraining(config, tmp_path / "run", as_run)
    loaded = TASKS["pretraining"]().load(
        found.config, found.config.model, found.tokenizer_file, print, process_count=2
    )
    assert loaded.tokenizer.fingerprint == read_tokenizer(str(source)).fingerprint


def test_tools_prepare_does_not_need_the_checkpoints_of_the_source(tmp_path, capsys):
    """The source may have no checkpoint yet, or be deleted when the run resumes."""
    (tmp_path / "stage1/checkpoints").mkdir(parents=True)
    prepare_stores(tiny_configs.corpus(tmp_path), tmp_path / "stage1")
    assert "fingerprint" in capsys.readouterr().out


def test_a_continued_run_stores_the_model_of_its_source_and_resumes_without_it(tmp_path):
    source = bert(tmp_path / "bert")
    pretrained = as_json(run_directory.read_model_config(as_run(str(source))))
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
    manifest = tmp_path / "run/manifest.json"
    earlier = manifest.read_text().replace("uses_pretrained_tokenizer", "uses_source_tokenizer")
    manifest.write_text(earlier)  # as runs before November 2026 wrote it
    again = train.run(config, run)
    assert again.step == 2 and again.metrics == first.metrics
    assert config_file.read_text() == before
    config.init_from = os.path.relpath(source)  # another spelling of the same path
    config.model.dropout_rate = 0.3
    with pytest.raises(ConfigError, match=r"config \(model.dropout_rate: 0.2 -> 0.3\)"):
        train.run(config, run)


def test_a_finetuned_run_stores_the_model_of_its_source_and_resumes_without_it(tmp_path):
    source = bert(tmp_path / "bert", classes=("wet", "dry"))
    pretrained = as_json(run_directory.read_model_config(as_run(str(source))))
    config = tiny_configs.finetuning(
        tmp_path, source, task__pooler=True, task__length_group_steps=2, training__duration="1 steps",
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


def test_gpt2_is_pretrained_further_without_a_padding_token(tmp_path):
    source = gpt2(tmp_path / "there")
    config = tiny_configs.pretraining(
        tmp_path, init_from=str(source), training__seq_len=24, training__duration="1 steps"
    )
    result = train.run(config, str(tmp_path / "run"))
    assert result.step == 1 and all(map(math.isfinite, result.metrics.values()))


@pytest.mark.parametrize("objective", ["causal_lm", "prefix_lm"])
@pytest.mark.parametrize(
    "write",
    [
        byte_level,
        functools.partial(
            sentencepiece,
            tokens=bpe_pieces(),
            algorithm=2,
            bytes=True,
            name="tokenizer.model",
            model_type="llama",
        ),
    ],
)
def test_padding_needs_no_token_of_its_own(tmp_path, write, objective):
    """The last row of a corpus is padded: segment 0 and weight 0 hide it, whatever token is there."""
    write(tmp_path)
    read_tokenizer(tmp_path).save(tmp_path / "tokenizer.json")
    tiny_configs.corpus(tmp_path, documents=12)
    config = config_lib.resolve(
        PretrainConfig,
        tiny_configs.pretraining(
            tmp_path, f"configs/decoder.py:objective={objective}", data__validation_fraction=0.0
        ),
    )
    task = TASKS["pretraining"]().load(
        config, config.model, str(tmp_path / "tokenizer.json"), lambda line: None
    )
    assert task.spec.vocabulary.pad == -1
    assert "tokens are unknown" in task.corpus.describe_unknown()[0]
    rows = np.stack([task.train[0][len(task.train[0]) - 1]])
    padding = (rows == -1)[0]
    batch = task.prepare(jax.random.key(0), (example_ids(0, 1), rows))
    assert padding.any() and batch.inputs.tokens.min() >= 0 and batch.targets.min() >= 0
    assert (np.asarray(batch.inputs.segment_ids[0]) == 0)[
        padding[: batch.inputs.tokens.shape[1]]
    ].all()
    assert float(batch.loss_weights.sum()) <= (~padding).sum()


def test_a_tokenizer_that_does_not_fit_is_refused_before_any_text_is_read(tmp_path, monkeypatch):
    source = gpt2(tmp_path / "there")
    monkeypatch.setattr(TextSource, "read", lambda *_: pytest.fail("text was read"))
    config = tiny_configs.pretraining(
        tmp_path, "configs/decoder.py:objective=fill_in_the_middle", init_from=str(source)
    )
    with pytest.raises(ValueError, match="the tokenizer has no .PRE., .SUF. and .MID."):
        train.run(config, str(tmp_path / "run"))


def test_parameters_of_another_tokenizer_are_refused_before_any_text_is_read(tmp_path, monkeypatch):
    run = pathlib.Path(as_run(str(gpt2(tmp_path / "there"))))
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["huggingface"]  # as a run of train.py
    (run / "manifest.json").write_text(json.dumps(manifest))
    train_tokenizer(["a b"], type="bpe", vocab_size=400).save(tmp_path / "tokenizer.json")
    monkeypatch.setattr(TextSource, "read", lambda *_: pytest.fail("text was read"))
    config = tiny_configs.pretraining(
        tmp_path, init_from=str(run), tokenizer__path=str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(ConfigError, match="was trained with another tokenizer"):
        train.run(config, str(tmp_path / "run"))


@pytest.mark.parametrize("entry", ["pretraining", "finetuning"])
def test_a_run_without_checkpoints_starts_again_from_its_source(tmp_path, entry):
    source, run = bert(tmp_path / "bert", classes=("wet", "dry")), tmp_path / "run"
    if entry == "pretraining":
        config = tiny_configs.pretraining(tmp_path, "configs/encoder.py", init_from=str(source))
        program = train.run
    else:
        config = tiny_configs.finetuning(tmp_path, source, training__duration="1 steps")
        program = finetune.run
    first = program(config, str(run))
    shutil.rmtree(run / "checkpoints")
    again = program(config, str(run))
    assert again.metrics == first.metrics


def test_a_run_of_another_version_is_named(tmp_path):
    source = as_run(str(bert(tmp_path / "bert")))
    file = paths.of(source) / "config.json"
    record = json.loads(file.read_text())
    record["model"]["layers"] = record["model"].pop("num_layers")
    file.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"made by another version .*\(layers\); use it with"):
        run_directory.read_model_config(source)


@pytest.mark.parametrize(
    ("program", "config"), [(train, "encoder"), (finetune, "finetune/classification")]
)
def test_print_config_shows_the_model_that_init_from_decides(tmp_path, capsys, program, config):
    source = bert(tmp_path / "bert")
    program.main(
        [f"--config=configs/{config}.py", f"--config.init_from={source}", "--print_config"]
    )
    printed = {line.split()[0]: line.split()[2:4] for line in capsys.readouterr().out.splitlines()}
    model = run_directory.read_model_config(as_run(str(source)))
    assert printed["config.model.emb_dim"] == [str(model.emb_dim), "init_from"]
    assert printed["config.model.vocab_size"] == [str(model.vocab_size), "init_from"]
    assert printed["config.model.num_decoder_layers"] == [
        "0",
        "init_from",
    ]  # though it is the default
    assert printed["config.seed.init"] == ["0", "default"]


def test_print_config_needs_no_source_that_can_be_read(tmp_path, capsys):
    words = ["--config=configs/finetune/classification.py", "--print_config"]
    for source, said in (
        ("", "init_from is empty"),
        (str(tmp_path / "no"), "is not a run directory"),
    ):
        finetune.main([*words, *[f"--config.init_from={source}"] * bool(source)])
        found = capsys.readouterr()
        assert "config.task.max_seq_len" in found.out and said in found.err
    finetune.main([*words[:1], "--print_config=given", f"--config.init_from={tmp_path}/no"])
    assert capsys.readouterr().err == ""
