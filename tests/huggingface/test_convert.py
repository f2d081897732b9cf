"""Refused conversions, and the tables on the configs of every published model; without PyTorch."""

import dataclasses
import json
import pathlib
import shutil
import weakref

import jax
import numpy as np
import parity
import pytest
from published import bert

import models
from configs import decoder, encoder, encoder_decoder
from huggingface import convert, tables
from huggingface.families import FAMILIES
from huggingface.reparametrize import expressible_model
from huggingface.weights import Leaf, open_weights, write_weights
from models.config import ModelConfig, complete_config, resolve_defaults
from tools import convert as command
from training import checkpoint, run_directory
from training.config import ConfigError

GOLDEN = pathlib.Path(__file__).parent / "golden"


def altered(directory, name="bert", config=(), **tensors):
    """A golden directory with other config values and tensors (None: without it)."""
    shutil.copytree(GOLDEN / name, directory)
    parity.write_tokenizer(directory)
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
    "a position embedding": (
        {"config": {"position_embedding_type": "relative_key"}},
        "position_embedding_type='relative_key' .expected 'absolute'",
    ),
    "a decoder": ({"config": {"is_decoder": True}}, "is_decoder=True"),
    "a string for a number": ({"config": {"hidden_size": "32"}}, "'32' for emb_dim"),
    "a number below 0": ({"config": {"hidden_size": -16}}, "-16 for emb_dim"),
    "another size": ({"config": {"hidden_size": 32}}, "is .16., expected .32."),
    "no heads": ({"config": {"num_attention_heads": 0}}, "0 for num_heads; expected at least 1"),
    "more layers than tensors": ({"config": {"num_hidden_layers": 10**9}}, "1,000,000,000 layers"),
    "another depth": ({"config": {"num_hidden_layers": 3}}, "missing bert.encoder.layer.2"),
    "an extra layer": ({"config": {"num_hidden_layers": 1}}, "unexpected bert.encoder.layer.1"),
    "a class": ({"config": {"architectures": ["BertLMHeadModel"]}}, "BertLMHeadModel"),
    "a family": ({"config": {"model_type": "xlnet"}}, "model_type='xlnet'"),
    "an extra tensor": (
        {"bert.pooler.extra": np.zeros(2, np.float32)},
        "unexpected bert.pooler.extra",
    ),
    "a missing tensor": ({"bert.pooler.dense.bias": None}, "missing bert.pooler.dense.bias"),
    "another shape": (
        {"bert.pooler.dense.bias": np.zeros((16, 1), np.float32)},
        "bert.pooler.dense.bias is .16, 1., expected .16.",
    ),
    "another dtype": (
        {"bert.pooler.dense.bias": np.zeros(16, np.float64)},
        "bert.pooler.dense.bias is float64, expected one of float32, bfloat16, float16",
    ),
    "a copy that differs": (
        {"cls.predictions.decoder.weight": np.zeros((90, 16), np.float32)},
        "differs from bert.embeddings.word_embeddings.weight",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_directory_that_contradicts_its_config_is_refused_before_anything_is_written(
    wrong, tmp_path
):
    changes, message = WRONG[wrong]
    source = altered(tmp_path / "source", **changes)
    with pytest.raises(ConfigError, match=message):
        convert.from_hf(source, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_older_files_are_read(tmp_path):
    """Norms named gamma and beta, a copy of the token table, a buffer; as in bert-base-uncased."""
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
    assert back.leaves.keys() == weights.leaves.keys()  # the pair head is kept
    for name in weights.leaves:
        np.testing.assert_array_equal(back.read(name), weights.read(name))


def test_the_base_model_is_exported_without_heads_and_prefix(tmp_path, capsys):
    source, run, base = altered(tmp_path / "source"), str(tmp_path / "run"), tmp_path / "base"
    command.main(["from_hf", source, run])
    command.main(["to_hf", run, str(base), "--architecture=BertModel", "--dtype=bfloat16"])
    assert "BertModel in bfloat16" in capsys.readouterr().out
    names = open_weights(base).leaves
    assert "embeddings.word_embeddings.weight" in names and "pooler.dense.bias" in names
    assert not any(name.startswith(("bert.", "cls.")) for name in names)
    assert {str(leaf.dtype) for leaf in names.values()} == {"bfloat16"}
    command.main(["from_hf", str(base), str(tmp_path / "again")])
    params = checkpoint.params_metadata(tmp_path / "again", 0)
    heads = {path for path in params if path.startswith("heads/")}
    assert heads == {"heads/pair/pooler/kernel", "heads/pair/pooler/bias"}
    with pytest.raises(ConfigError, match="is not empty"):
        command.main(["from_hf", source, run])
    with pytest.raises(ConfigError, match="belong to to_hf"):
        command.main(["from_hf", source, str(tmp_path / "new"), "--dtype=bfloat16"])


def test_an_imported_run_records_its_origin(tmp_path):
    source = altered(tmp_path / "source", "t5-v1.1")
    convert.from_hf(source, str(tmp_path / "run"))
    record = run_directory.read_config(tmp_path / "run")
    model = ModelConfig(**record["model"])
    assert record["kind"] == "pretrain" and not model.tie_word_embeddings and model.gated_mlp
    origin = run_directory.read_manifest(tmp_path / "run")["huggingface"]
    assert origin["class"] == "T5ForConditionalGeneration" and origin["dtype"] == "float32"


def test_an_imported_classifier_records_its_labels_and_what_its_head_needs(tmp_path):
    source = bert(tmp_path, classes=("wet", "dry"))
    convert.from_hf(str(source), str(tmp_path / "imported"))
    manifest = run_directory.read_manifest(tmp_path / "imported")
    assert manifest["labels"] == ["wet", "dry"]
    origin = manifest["huggingface"]
    assert origin["head"] == "classification"
    assert origin["head_needs"] == {"pooler": True, "pooler_activation": "tanh", "pooling": "cls"}
    convert.to_hf(str(tmp_path / "imported"), str(tmp_path / "back"))
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "wet", "1": "dry"}
    assert config["problem_type"] == "single_label_classification"


def test_labels_of_a_directory_without_a_head_come_back(tmp_path):
    source = bert(tmp_path)
    config = json.loads((source / "config.json").read_text())
    labels = {"id2label": {"0": "wet", "1": "dry"}, "label2id": {"wet": 0, "dry": 1}}
    (source / "config.json").write_text(json.dumps(config | labels))
    convert.from_hf(str(source), str(tmp_path / "imported"))
    assert "labels" not in run_directory.read_manifest(tmp_path / "imported")
    convert.to_hf(str(tmp_path / "imported"), str(tmp_path / "back"))
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: back[key] for key in labels} == labels
    assert "problem_type" not in back


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_tensor_with_nan_or_infinity_is_refused_by_name_and_nothing_is_left(
    tmp_path, value, dtype
):
    source = altered(tmp_path / "source", "gpt2")
    weights = open_weights(source)
    arrays = {name: weights.read(name).astype(convert.DTYPES[dtype]) for name in weights.leaves}
    arrays["transformer.h.1.mlp.c_fc.weight"][3, 5] = value
    (pathlib.Path(source) / "model.safetensors").unlink()
    leaves = {name: Leaf(array.dtype, array.shape) for name, array in arrays.items()}
    write_weights(source, leaves, arrays.get)
    with pytest.raises(
        ConfigError, match=r"tensor transformer.h.1.mlp.c_fc.weight .* \(1 of "
    ) as error:
        convert.from_hf(source, str(tmp_path / "run"))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", models.PRESETS)
def test_every_preset_is_expressed_by_a_family_and_read_back(name):
    model = ModelConfig(**{"max_length": 512, **models.preset(name)})
    model = model if model.max_length else dataclasses.replace(model, max_length=512)
    found = {kind: family.hf_config(model) for kind, family in FAMILIES.items()}
    fitting = [kind for kind, (_, problems) in found.items() if not problems]
    assert fitting, {kind: problems for kind, (_, problems) in found.items()}
    for kind in fitting:
        back = resolve_defaults(FAMILIES[kind].model_config(found[kind][0]))
        if kind == "bart":  # always has a bias, of zeros
            model = dataclasses.replace(model, lm_head_bias=True)
        assert back == resolve_defaults(model)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_empty_config_has_the_defaults_of_the_class(model_type):
    """The defaults of each table give a model that the table can express."""
    family = FAMILIES[model_type]
    required = {
        "position_embedding_type": "rotary",
        "vocab_size": 33,
    }  # no default of ESM's is a model
    needed = required if model_type == "esm" else {}
    model = family.model_config({"model_type": model_type, **needed})
    config, problems = family.hf_config(model)
    assert problems == []
    assert resolve_defaults(family.model_config(config)) == resolve_defaults(model)


def test_the_page_has_the_tables_of_the_code():
    page = tables.PAGE.read_text()
    assert tables.filled(page) == page, "write them with: python -m huggingface.tables"
    for model_type, family in FAMILIES.items():
        assert f"`{model_type}`" in page
        assert [name for name in family.classes if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("module", "recipe", "family"),
    [
        (encoder, "classic", "esm"),
        (encoder, "modernbert", "modernbert"),
        (decoder, "classic", "starcoder2"),
        (decoder, "modern", "qwen3"),
        (encoder_decoder, "t5", "t5"),
    ],
)
def test_a_recipe_is_exported_as_its_family(module, recipe, family):
    model = ModelConfig(**module.get_config(f"recipe={recipe}").model)
    model = expressible_model(complete_config(model, 4096, 128))
    fitting = [kind for kind, family in FAMILIES.items() if not family.hf_config(model)[1]]
    assert fitting[0] == family  # the first is exported; others may fit too


def test_lazy_arrays_of_a_checkpoint_are_made_one_after_another(tmp_path):
    made, alive = [], []

    def lazy(number):
        def read():
            alive.append(sum(array() is not None for array in made))
            array = np.full((64, 3), number, np.float32)
            made.append(weakref.ref(array))
            return array

        return checkpoint.LazyArray((64, 3), read)

    checkpoint.write_params(tmp_path, 0, {f"part_{n}": lazy(n) for n in range(8)})
    assert len(made) == 8 and max(alive) <= 2
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {"part_5": jax.ShapeDtypeStruct((64, 3), np.float32, sharding=device)}
    read = checkpoint.read_params(tmp_path / "checkpoints", 0, target)
    assert (np.asarray(read["part_5"]) == 5).all()
