"""What a conversion refuses, and what the tables say of every published network; without PyTorch."""

import dataclasses
import json
import pathlib
import shutil
import weakref

import jax
import numpy as np
import parity
import pytest

import models
from configs import decoder
from huggingface import convert
from huggingface.families import FAMILIES
from huggingface.weights import Leaf, open_weights, write_weights
from models.config import ModelConfig, completed, explicit
from tools import convert as command
from training import checkpoint, run_directory
from training.config import ConfigError

GOLDEN = pathlib.Path(__file__).parent / "golden"


def altered(directory, name="bert", config=(), **tensors):
    """A golden directory with other values in its config, and other tensors (None: without it)."""
    shutil.copytree(GOLDEN / name, directory)
    parity.tokenizer(directory)
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **dict(config)}))
    if tensors:
        weights = open_weights(GOLDEN / name)
        arrays = {n: weights.read(n) for n in weights.leaves} | tensors
        arrays = {n: array for n, array in arrays.items() if array is not None}
        (directory / "model.safetensors").unlink()
        leaves = {n: Leaf(array.dtype, array.shape) for n, array in arrays.items()}
        write_weights(directory, leaves, arrays.__getitem__)
    return str(directory)


TABLE = "bert.embeddings.word_embeddings.weight"
WRONG = {
    "a value": ({"config": {"hidden_act": "quick_gelu"}}, "hidden_act='quick_gelu'"),
    "a kind of position": (
        {"config": {"position_embedding_type": "relative_key"}},
        "position_embedding_type='relative_key' .expected 'absolute'",
    ),
    "a decoder": ({"config": {"is_decoder": True}}, "is_decoder=True"),
    "a number that is none": ({"config": {"hidden_size": "32"}}, "'32' for width"),
    "a number below 0": ({"config": {"hidden_size": -16}}, "-16 for width"),
    "another size": ({"config": {"hidden_size": 32}}, "is .16., expected .32."),
    "a size of nothing": (
        {"config": {"num_attention_heads": 0}},
        "0 for heads; expected at least 1",
    ),
    "more layers than tensors": ({"config": {"num_hidden_layers": 10**9}}, "1,000,000,000 layers"),
    "another depth": ({"config": {"num_hidden_layers": 3}}, "missing bert.encoder.layer.2"),
    "a layer more": ({"config": {"num_hidden_layers": 1}}, "unexpected bert.encoder.layer.1"),
    "a class": ({"config": {"architectures": ["BertForMultipleChoice"]}}, "BertForMultipleChoice"),
    "a family": ({"config": {"model_type": "xlnet"}}, "model_type='xlnet'"),
    "a tensor more": ({"bert.pooler.more": np.zeros(2, np.float32)}, "unexpected bert.pooler.more"),
    "a tensor less": ({"bert.pooler.dense.bias": None}, "missing bert.pooler.dense.bias"),
    "another shape": (
        {"bert.pooler.dense.bias": np.zeros((16, 1), np.float32)},
        "bert.pooler.dense.bias is .16, 1., expected .16.",
    ),
    "another dtype": (
        {"bert.pooler.dense.bias": np.zeros(16, np.float64)},
        "bert.pooler.dense.bias is float64, expected one of float32, bfloat16, float16",
    ),
    "a second table": (
        {"cls.predictions.decoder.weight": np.zeros((90, 16), np.float32)},
        "differs from bert.embeddings.word_embeddings.weight",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_directory_that_is_not_what_it_says_is_refused_before_anything_is_written(
    wrong, tmp_path
):
    changes, words = WRONG[wrong]
    source = altered(tmp_path / "there", **changes)
    with pytest.raises(ConfigError, match=words):
        convert.from_hf(source, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_older_files_have_is_read_as_what_it_is(tmp_path):
    """Norms called gamma and beta, a second copy of the table, a buffer; as in bert-base-uncased."""
    weights = open_weights(GOLDEN / "bert")
    changes = {
        "bert.embeddings.position_ids": np.arange(16)[None],
        "cls.predictions.decoder.weight": weights.read(TABLE),
    }
    for name in weights.leaves:
        for new, old in ((".LayerNorm.weight", ".gamma"), (".LayerNorm.bias", ".beta")):
            if name.endswith(new):
                changes |= {name: None, name.replace(new, f".LayerNorm{old}"): weights.read(name)}
    source = altered(tmp_path / "old", config={"architectures": ["BertForMaskedLM"]}, **changes)
    convert.from_hf(source, str(tmp_path / "run"))
    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "back"))
    back = open_weights(tmp_path / "back")
    assert back.leaves.keys() == weights.leaves.keys()  # the pair head stays, as it came
    for name in weights.leaves:
        np.testing.assert_array_equal(back.read(name), weights.read(name))


def test_the_network_alone_leaves_its_heads_and_its_prefix_behind(tmp_path, capsys):
    source, run, alone = altered(tmp_path / "there"), str(tmp_path / "run"), tmp_path / "alone"
    command.main(["from_hf", source, run])
    command.main(["to_hf", run, str(alone), "--architecture=BertModel", "--dtype=bfloat16"])
    assert "BertModel in bfloat16" in capsys.readouterr().out
    names = open_weights(alone).leaves
    assert "embeddings.word_embeddings.weight" in names and "pooler.dense.bias" in names
    assert not any(name.startswith(("bert.", "cls.")) for name in names)
    assert {str(leaf.dtype) for leaf in names.values()} == {"bfloat16"}
    command.main(["from_hf", str(alone), str(tmp_path / "again")])
    paths = checkpoint.params_metadata(tmp_path / "again", 0)
    heads = {path for path in map("/".join, _flat(paths)) if path.startswith("heads/")}
    assert heads == {"heads/pair/pooler/kernel", "heads/pair/pooler/bias"}
    with pytest.raises(ConfigError, match="is not empty"):
        command.main(["from_hf", source, run])
    with pytest.raises(ConfigError, match="belong to to_hf"):
        command.main(["from_hf", source, str(tmp_path / "new"), "--dtype=bfloat16"])


def _flat(paths):
    return [tuple(path.split("/")) for path in paths]


def test_an_imported_run_says_what_it_is(tmp_path):
    source = altered(tmp_path / "there", "t5-v1.1")
    convert.from_hf(source, str(tmp_path / "run"))
    record = run_directory.read_config(tmp_path / "run")
    model = ModelConfig(**record["model"])
    assert record["kind"] == "pretrain" and not model.tied_embeddings and model.gated
    origin = run_directory.read_manifest(tmp_path / "run")["huggingface"]
    assert origin["class"] == "T5ForConditionalGeneration" and origin["dtype"] == "float32"


@pytest.mark.parametrize("name", models.PRESETS)
def test_every_published_network_is_exported_by_a_family_and_comes_back(name):
    model = ModelConfig(**models.preset(name))
    model = model if model.max_length else ModelConfig(**{**models.preset(name), "max_length": 512})
    said = {kind: family.config(model) for kind, family in FAMILIES.items()}
    fitting = [kind for kind, (_, problems) in said.items() if not problems]
    assert fitting, {kind: problems for kind, (_, problems) in said.items()}
    for kind in fitting:
        back = explicit(FAMILIES[kind].model(said[kind][0]))
        if kind == "bart":  # theirs has a bias in any case, of zeros
            model = dataclasses.replace(model, output_bias=True)
        assert back == explicit(model)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_config_that_says_nothing_has_the_values_of_the_class(kind):
    """The defaults of the tables give a network, and one that the table can say."""
    family = FAMILIES[kind]
    model = family.model({"model_type": kind})
    config, problems = family.config(model)
    assert problems == []
    assert explicit(family.model(config)) == explicit(model)


def test_the_page_names_every_family_and_class():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "huggingface.md").read_text()
    for kind, family in FAMILIES.items():
        assert f"`{kind}`" in page
        assert [name for name in family.classes if f"`{name}`" not in page] == []


def test_the_modern_recipe_is_qwen3():
    model = completed(ModelConfig(**decoder.get_config("recipe=modern").model), 4096, 128)
    fitting = [kind for kind, family in FAMILIES.items() if not family.config(model)[1]]
    assert fitting == ["qwen3"]


def test_deferred_leaves_of_a_checkpoint_are_made_one_after_another(tmp_path):
    made, alive = [], []

    def leaf(number):
        def read():
            alive.append(sum(array() is not None for array in made))
            array = np.full((64, 3), number, np.float32)
            made.append(weakref.ref(array))
            return array

        return checkpoint.Deferred((64, 3), read)

    checkpoint.write_params(tmp_path, 0, {f"part_{n}": leaf(n) for n in range(8)})
    assert len(made) == 8 and max(alive) <= 2
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {"part_5": jax.ShapeDtypeStruct((64, 3), np.float32, sharding=place)}
    read = checkpoint.read_params(tmp_path / "checkpoints", 0, target)
    assert (np.asarray(read["part_5"]) == 5).all()
