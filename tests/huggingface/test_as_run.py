"""init_from a Hugging Face directory: imported once; its model, tokenizer and head are used."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny_configs
from published import bert

import finetune
import train
from data import tokenizer as tokenizers
from huggingface import as_run
from huggingface.weights import open_weights
from training import checkpoint, init_from, run_directory
from training import config as config_lib
from training.config import ConfigError
from training.param_rules import flatten_params, unflatten_params
from training.schema import PretrainConfig


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def params_of(run, step):
    """{path: array} of a checkpoint."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for path, leaf in checkpoint.params_metadata(run, step).items()
    }
    params = checkpoint.read_params(f"{run}/checkpoints", step, unflatten_params(target))
    return flatten_params(jax.device_get(params))


def digest_of(run):
    return run.rpartition("-")[2]


def test_a_directory_is_imported_once_and_identified_by_its_files(published, tmp_path):
    lines = []
    run = as_run(str(published), log=lines.append)
    assert "imported BertForMaskedLM in float32" in lines[0]
    assert checkpoint.resolve_checkpoint(run)[1] == 0
    assert as_run(str(published), log=lines.append) == run
    assert sum("imported" in line for line in lines) == 1
    # Anything else is returned unchanged: a run, a step of one, a path that does not exist.
    for other in (run, f"{run}@0", str(tmp_path / "nowhere"), "gs://bucket/run"):
        assert as_run(other, log=lines.append) == other
    shutil.copytree(published, tmp_path / "same")
    assert digest_of(as_run(str(tmp_path / "same"), log=lines.append)) == digest_of(run)
    other = tmp_path / "other"
    shutil.copytree(published, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.3}))
    assert digest_of(as_run(str(other), log=lines.append)) != digest_of(run)


def test_a_failed_import_is_an_error_and_leaves_no_run(published, tmp_path):
    shutil.copytree(published, tmp_path / "truncated")
    weights = tmp_path / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    for _ in range(2):
        with pytest.raises(ConfigError, match="model.safetensors"):
            as_run(str(tmp_path / "truncated"), str(tmp_path / "cache"))
    files = (tmp_path / "cache/huggingface").iterdir()
    assert [path.suffix for path in files] == [".lock"]


def source_of(folder, config, **overrides):
    """The PretrainedModel of a new pretraining run."""
    config = tiny_configs.pretraining(folder, config, **overrides)
    config = config_lib.resolve(PretrainConfig, config)
    return init_from.resolve_for_pretraining(config, folder / "run", as_run)


def test_pretraining_takes_over_the_model_and_the_tokenizer(published, tmp_path):
    source = source_of(
        tmp_path, "configs/encoder.py", init_from=str(published), model__dropout_rate=0.2
    )
    model = source.config.model
    assert (model.emb_dim, model.num_layers, model.norm_position) == (32, 2, "post")
    assert (model.dropout_rate, model.attention_dropout_rate) == (0.2, 0.0)
    assert source.tokenizer_file == source.config.tokenizer.path
    assert model.vocab_size == tokenizers.load(source.tokenizer_file).size + 3
    with pytest.raises(ConfigError, match="architecture 'encoder'.*'decoder'.*configs/encoder.py"):
        source_of(tmp_path, "configs/decoder.py", init_from=str(published))


@pytest.mark.slow
def test_pretraining_continues_published_parameters_and_needs_them_no_longer(published, tmp_path):
    home, run = tmp_path / "model", str(tmp_path / "run")
    shutil.copytree(published, home)
    config = tiny_configs.pretraining(tmp_path, "configs/encoder.py", init_from=str(home))
    assert train.run(config, run).step == 2
    imported = as_run(str(home), str(tmp_path / "cache"))
    source, found = params_of(imported, 0), params_of(run, 0)
    assert source.keys() == found.keys()
    for path, array in source.items():
        np.testing.assert_array_equal(found[path], array)
    table = open_weights(home).read("bert.embeddings.word_embeddings.weight")
    np.testing.assert_array_equal(found["embed/tokens/embedding"][: len(table)], table)
    # A run resumes without the directory and the cache.
    shutil.rmtree(home)
    shutil.rmtree(imported)
    shutil.rmtree(f"{run}/checkpoints/2")
    assert train.run(config, run).step == 2


@pytest.mark.slow
def test_a_head_that_a_published_model_lacks_is_initialized(published, tmp_path):
    config = tiny_configs.pretraining(
        tmp_path, "configs/encoder.py:objective=next_sentence", init_from=str(published)
    )
    assert train.run(config, str(tmp_path / "pairs")).step == 2


OUTPUT = "heads/classification/output/kernel"


@pytest.mark.parametrize(
    ("classes", "pooler", "kept", "note"),
    [
        (("wet", "dry"), True, True, "kept"),
        pytest.param(("wet", "dry"), False, False, "task.pooler=True", marks=pytest.mark.slow),
        pytest.param(("a", "b"), True, False, "a, b", marks=pytest.mark.slow),
    ],
)
def test_finetuning_keeps_a_published_head_with_the_same_labels_and_options(
    classes, pooler, kept, note, tmp_path, caplog
):
    caplog.set_level("INFO", "triptych")
    home = bert(tmp_path / "bert", classes=classes)
    config = tiny_configs.finetuning(
        tmp_path,
        home,
        task__pooler=pooler,
        task__length_group_steps=2,
        training__duration="1 steps",
    )
    assert finetune.run(config, str(tmp_path / "run")).step == 1
    assert note in caplog.text
    # Without a pooler too: the export adds one that is the identity.
    assert "Hugging Face export: BertForSequenceClassification" in caplog.text
    published = open_weights(home).read("classifier.weight")[::-1].T  # ours are sorted: dry, wet
    assert np.array_equal(params_of(tmp_path / "run", 0)[OUTPUT], published) == kept
    assert run_directory.read_manifest(tmp_path / "run")["labels"] == ["dry", "wet"]


def test_an_adapter_of_peft_names_the_command_that_makes_a_run_of_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is an adapter of PEFT; .*tools.convert from_peft"):
        as_run(str(tmp_path))
