"""init_from a Hugging Face directory: imported once, its network, tokenizer and head taken over."""

import json
import shutil

import jax
import numpy as np
import pytest
import shrink
from published import bert

import finetune
import train
from data import tokenizer as tokenizers
from huggingface import sources
from huggingface.weights import open_weights
from tasks.config import TaskConfig
from training import checkpoint, rules, run_directory
from training import config as configs
from training.config import ConfigError


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def parameters(run, step):
    """{path: array} of a checkpoint."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
              for path, leaf in checkpoint.params_metadata(run, step).items()}  # fmt: skip
    read = checkpoint.read_params(f"{run}/checkpoints", step, rules.merge(wanted, {}))
    return rules.paths(jax.device_get(read))


def test_a_directory_is_imported_once_and_known_by_its_files(published, tmp_path):
    said = []
    run = sources.run_of(str(published), say=said.append)
    assert "imported BertForMaskedLM in float32" in said[0] and checkpoint.locate(run)[1] == 0
    assert sources.run_of(str(published), say=said.append) == run
    assert sum("imported" in line for line in said) == 1
    # Anything else is what it was: a run, a step of one, what does not exist.
    for other in (run, f"{run}@0", str(tmp_path / "nowhere"), "gs://bucket/run"):
        assert sources.run_of(other, say=said.append) == other
    shutil.copytree(published, tmp_path / "same")
    assert (
        sources.run_of(str(tmp_path / "same"), say=said.append).split("-")[-1] == run.split("-")[-1]
    )
    shutil.copytree(published, tmp_path / "other")
    settings = json.loads((tmp_path / "other" / "config.json").read_text())
    settings["hidden_dropout_prob"] = 0.3
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    assert (
        sources.run_of(str(tmp_path / "other"), say=said.append).split("-")[-1]
        != run.split("-")[-1]
    )


def test_what_cannot_be_imported_is_an_error_and_leaves_no_run(published, tmp_path):
    shutil.copytree(published, tmp_path / "torn")
    whole = (tmp_path / "torn" / "model.safetensors").read_bytes()
    (tmp_path / "torn" / "model.safetensors").write_bytes(whole[:-4])
    for _ in range(2):
        with pytest.raises(ConfigError, match="the file is cut short"):
            sources.run_of(str(tmp_path / "torn"), str(tmp_path / "cache"))
    assert [p.name.rpartition(".")[2] for p in (tmp_path / "cache/huggingface").iterdir()] == [
        "lock"
    ]


def resolved(folder, **leaves):
    return configs.resolve(train.Config, shrink.pretraining(folder, "configs/encoder.py", **leaves))


def test_continued_pretraining_takes_network_and_tokenizer(published, tmp_path, caplog):
    caplog.set_level("INFO", "triptych")
    config = resolved(tmp_path, init_from=str(published), model__dropout=0.2)
    made = sources.adopted(config)
    assert (made.model.width, made.model.layers, made.model.norm_position) == (32, 2, "post")
    assert made.model.dropout == 0.2 and "overridden (was 0.0)" in caplog.text
    assert made.model.vocab_size == tokenizers.load(made.tokenizer.path).size + 3
    assert sources.adopted(resolved(tmp_path)) == resolved(tmp_path)
    decoder = configs.resolve(
        train.Config, shrink.pretraining(tmp_path, "configs/decoder.py", init_from=str(published))
    )
    with pytest.raises(
        ConfigError, match="of architecture 'encoder', this run of 'decoder'; begin wi"
    ):
        sources.adopted(decoder)


@pytest.mark.slow
def test_train_goes_on_with_published_parameters_and_needs_them_no_more(published, tmp_path):
    home = tmp_path / "model"
    shutil.copytree(published, home)
    run = str(tmp_path / "run")
    config = shrink.pretraining(tmp_path, "configs/encoder.py", init_from=str(home))
    assert train.run(config, run).step == 2
    imported = sources.run_of(str(home), str(tmp_path / "cache"))
    theirs, ours = parameters(imported, 0), parameters(run, 0)
    assert theirs.keys() == ours.keys()
    for path, array in theirs.items():
        np.testing.assert_array_equal(ours[path], array)
    stored = open_weights(home)
    there = stored.read("bert.embeddings.word_embeddings.weight")
    np.testing.assert_array_equal(ours["embed/tokens/embedding"][: len(there)], there)
    shutil.rmtree(home)
    shutil.rmtree(imported)
    shutil.rmtree(f"{run}/checkpoints/2")
    assert train.run(config, run).step == 2  # a run that has begun is complete
    # An objective whose heads the model does not have makes them new.
    config = shrink.pretraining(
        tmp_path, "configs/encoder.py:objective=next_sentence", init_from=str(published)
    )
    assert train.run(config, str(tmp_path / "pairs")).step == 2


def test_finetuning_keeps_the_head_of_a_classifier_with_the_same_labels(tmp_path, caplog):
    caplog.set_level("INFO", "triptych")
    home = bert(tmp_path / "bert", classes=("wet", "dry"))
    config = shrink.finetuning(tmp_path, home, task__pooler=True, task__alike=2,
                               training__duration="1 steps")  # fmt: skip
    assert finetune.run(config, str(tmp_path / "kept")).step == 1
    assert "its head is kept: the labels are the same" in caplog.text
    there = open_weights(home).read("classifier.weight")
    ours = parameters(tmp_path / "kept", 0)["heads/classification/output/kernel"]
    np.testing.assert_array_equal(ours, there[::-1].T)  # ours are sorted: dry, wet
    kept = run_directory.read_manifest(tmp_path / "kept")
    assert kept["labels"] == ["dry", "wet"]

    run = checkpoint.locate(sources.run_of(str(home)))[0]
    for labels, pooler, message in (
        (["dry", "wet"], False, "config.task.pooler=True would keep it"),
        (["a", "b"], True, "its head stays behind: it tells wet, dry apart, the task a, b"),
    ):
        order, said = sources._kept_head(run, labels, TaskConfig(pooler=pooler))
        assert order == [] and message in said[0]
