"""The settings of a published directory beside its model: heads, options of generation, training values,
leftovers, other names of shared tensors; and targets that cannot be written. Without PyTorch.
"""

import json
import pathlib
import shutil

import numpy as np
import parity
import pytest
from published import bert

from data import tokenizer as tokenizers
from huggingface import convert
from huggingface.families import FAMILIES
from huggingface.weights import Leaf, open_weights, write_weights
from training import init_from, run_directory
from training.config import ConfigError

GOLDEN = pathlib.Path(__file__).parent / "golden"


def altered(directory, name, config=(), drop=(), rename=(), tensors=(), files=()):
    """A golden directory with other keys of config.json, tensors and files."""
    shutil.copytree(GOLDEN / name, directory)
    parity.write_tokenizer(directory)
    found = {**json.loads((directory / "config.json").read_text()), **dict(config)}
    found = {key: value for key, value in found.items() if key not in drop}
    (directory / "config.json").write_text(json.dumps(found))
    for file, content in dict(files).items():
        (directory / file).write_text(json.dumps(content))
    weights = open_weights(GOLDEN / name)
    names, arrays = dict(rename), {n: weights.read(n) for n in weights.leaves} | dict(tensors)
    arrays = {names.get(n, n): array for n, array in arrays.items() if array is not None}
    (directory / "model.safetensors").unlink()
    leaves = {n: Leaf(array.dtype, array.shape) for n, array in arrays.items()}
    write_weights(directory, leaves, arrays.__getitem__)
    return directory


def there_and_back(folder, source):
    """(the run's manifest entry, config.json and generation_config.json of the export)."""
    line = convert.from_hf(str(source), str(folder / "run"))
    convert.to_hf(str(folder / "run"), str(folder / "back"))
    config = json.loads((folder / "back" / "config.json").read_text())
    generation = folder / "back" / "generation_config.json"
    origin = run_directory.read_manifest(folder / "run")["huggingface"]
    return line, origin, config, json.loads(generation.read_text()) if generation.exists() else None


# ---- Heads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "problem_type", "meaning"),
    [
        (("wet", "dry", "hot"), "multi_label_classification", "multi_label_classification"),
        (("score",), "regression", "regression"),
        (("score",), None, "regression"),
        (("wet", "dry"), None, "single_label_classification"),
        (("wet", "dry"), "regression", "regression"),
    ],
)
def test_the_meaning_of_a_head_travels(classes, problem_type, meaning, tmp_path):
    source = bert(tmp_path / "published", classes=classes)
    config = json.loads((source / "config.json").read_text())
    config |= {"problem_type": problem_type, "classifier_dropout": 0.4, "label2id": {"own": 0}}
    (source / "config.json").write_text(json.dumps(config))
    _, origin, back, _ = there_and_back(tmp_path, source)
    assert origin["problem_type"] == meaning
    for key in ("problem_type", "id2label", "label2id", "classifier_dropout"):
        assert back[key] == config[key]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_was_not_fetched_is_named(name, tmp_path):
    source = altered(tmp_path / "published", "bert")
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")
    with pytest.raises(ConfigError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
        convert.from_hf(str(source), str(tmp_path / "run"))


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no config.json; but a PEFT adapter: .*from_peft"):
        convert.from_hf(str(tmp_path), str(tmp_path / "run"))


def test_the_output_of_a_head_that_the_class_lacks_is_left_out(tmp_path):
    # untied, without a class
    source = altered(tmp_path / "published", "llama", drop=["architectures"])
    line, origin, _, _ = there_and_back(tmp_path, source)
    assert origin["class"] == "LlamaModel" and "other heads: lm_head.weight" in line


def test_tensors_of_another_dtype_have_their_own_remedy(tmp_path):
    table = "bert.embeddings.word_embeddings.weight"
    buffer = {"bert.embeddings.token_type_ids": np.zeros((1, 16), np.int64)}  # of old versions
    convert.from_hf(
        str(altered(tmp_path / "buffer", "bert", tensors=buffer)), str(tmp_path / "with")
    )
    source = altered(tmp_path / "double", "bert", tensors={table: np.zeros((90, 16))})
    with pytest.raises(ConfigError, match="is float64.*load it with transformers in one of these"):
        convert.from_hf(str(source), str(tmp_path / "run"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_labels_without_names_are_numbered_as_in_transformers(count, tmp_path):
    source = bert(tmp_path / "published", classes=tuple("abc"[:count]))
    config = json.loads((source / "config.json").read_text())
    for key in ("id2label", "label2id", "problem_type"):
        del config[key]
    (source / "config.json").write_text(json.dumps(config | {"num_labels": count}))
    convert.from_hf(str(source), str(tmp_path / "run"))
    labels = run_directory.read_manifest(tmp_path / "run").get("labels", [])
    # One label is the name of the only output of a regression, which says nothing.
    assert labels == ([f"LABEL_{i}" for i in range(count)] if count > 1 else [])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_labels": 3}, "num_labels=3 and 2 names in id2label"),
        ({"problem_type": "ranking"}, "problem_type='ranking'"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label="),
        ({"id2label": {}}, "id2label="),
        ({"id2label": None, "num_labels": "two"}, "num_labels='two'"),
        (
            {"id2label": {"0": "a"}, "problem_type": "single_label_classification"},
            "problem_type='single_label_classification' with one label; set it to 'regression'",
        ),
    ],
)
def test_labels_that_contradict_each_other_are_refused(config, message, tmp_path):
    source = bert(tmp_path / "published", classes=("wet", "dry"))
    found = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(found | config))
    with pytest.raises(ConfigError, match=message):
        convert.from_hf(str(source), str(tmp_path / "run"))


def test_bart_has_three_labels_where_its_config_says_nothing():
    assert convert.published.labels_of({}, FAMILIES["bart"]) == ["LABEL_0", "LABEL_1", "LABEL_2"]


# ---- Generation and training values ----------------------------------------------------------------

GENERATION = {
    "eos_token_id": [4, 7], "forced_bos_token_id": 5, "num_beams": 3, "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3, "transformers_version": "4.1.0", "another": {"a": [1]},
}  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "bart", "t5"])
def test_the_options_of_generation_travel_whole(name, tmp_path):
    files, config = {"generation_config.json": GENERATION}, {"eos_token_id": [4, 7], "num_beams": 5}
    source = altered(tmp_path / "source", name, config, files=files)
    line, _, back, generation = there_and_back(tmp_path, source)
    assert generation == GENERATION
    assert back["eos_token_id"] == [4, 7] and back["num_beams"] == 5
    assert "num_beams" in line  # said, since no class of ours reads it


def test_a_directory_without_options_of_generation_gets_none(tmp_path):
    """transformers then reads them from config.json, which an empty file would hide."""
    source = altered(tmp_path / "source", "bart", {"num_beams": 4, "forced_bos_token_id": 5})
    _, _, back, generation = there_and_back(tmp_path, source)
    assert generation is None and (back["num_beams"], back["forced_bos_token_id"]) == (4, 5)


def test_a_run_that_starts_from_a_directory_keeps_what_its_export_needs(tmp_path):
    files = {"generation_config.json": GENERATION}
    source = altered(tmp_path / "source", "llama", {"pretraining_tp": 2}, files=files)
    convert.from_hf(str(source), str(tmp_path / "run"))
    entry = init_from.published(init_from.PretrainedModel(None, run=tmp_path / "run"))["published"]
    assert entry["generation"] == GENERATION and entry["config"]["pretraining_tp"] == 2
    trained = tmp_path / "trained"
    shutil.copytree(tmp_path / "run", trained)
    manifest = run_directory.read_manifest(trained)
    del manifest["huggingface"]
    (trained / "manifest.json").write_text(json.dumps(manifest | {"published": entry}))
    convert.to_hf(str(trained), str(tmp_path / "back"))
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    generation = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert back["pretraining_tp"] == 2 and generation == GENERATION
    again = init_from.published(init_from.PretrainedModel(None, run=trained))
    assert again == {"published": entry}


def test_two_dropouts_are_two_fields(tmp_path):
    values = {"embd_pdrop": 0.0, "resid_pdrop": 0.3}
    source = altered(tmp_path / "source", "gpt2", values)
    _, _, back, _ = there_and_back(tmp_path, source)
    assert {key: back[key] for key in values} == values
    model = run_directory.read_config(tmp_path / "run")["model"]
    assert (model["dropout_rate"], model["embedding_dropout_rate"]) == (0.3, 0.0)


# ---- Tensors ---------------------------------------------------------------------------------------

HEAD = np.zeros((3, 16), np.float32)
LEFTOVERS = {
    "roberta": {"roberta.pooler.dense.weight": None, "classifier.out_proj.weight": HEAD},
    "bart": {"model.encoder.version": HEAD, "model.decoder.version": HEAD, "qa_outputs.bias": HEAD},
    "llama": {"model.rotary_emb.inv_freq": HEAD, "v_head.weight": HEAD},
    "gpt2": {"transformer.h.0.attn.masked_bias": HEAD, "score.weight": HEAD},
}


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftovers_are_left_out_and_said(name, tmp_path):
    source = altered(tmp_path / "source", name, tensors=LEFTOVERS[name])
    line, *_ = there_and_back(tmp_path, source)
    left = {
        "roberta": "classifier.out_proj",
        "bart": "qa_outputs",
        "llama": "v_head",
        "gpt2": "score",
    }
    assert f"not used: tensors of other heads: {left[name]}" in line
    expected = {
        n: leaf for n, leaf in open_weights(GOLDEN / name).leaves.items() if "pooler" not in n
    }
    found = open_weights(tmp_path / "back").leaves
    assert {n: leaf for n, leaf in found.items() if "pooler" not in n} == expected


def test_an_old_lm_head_beside_a_classifier_is_left_out(tmp_path):
    source = bert(tmp_path / "published", classes=("wet", "dry"))
    weights = open_weights(source)
    arrays = {name: weights.read(name) for name in weights.leaves}
    arrays["cls.predictions.transform.dense.weight"] = np.zeros((32, 32), np.float32)
    (source / "model.safetensors").unlink()
    leaves = {name: Leaf(array.dtype, array.shape) for name, array in arrays.items()}
    write_weights(source, leaves, arrays.__getitem__)
    assert "cls.predictions" in convert.from_hf(str(source), str(tmp_path / "run"))


SHARED = {
    "gpt2": {"transformer.wte.weight": "lm_head.weight"},
    "qwen2": {"model.embed_tokens.weight": "lm_head.weight"},
    "t5": {"shared.weight": "encoder.embed_tokens.weight"},
    "bart": {"model.shared.weight": "model.decoder.embed_tokens.weight"},
    "bert": {
        "cls.predictions.bias": "cls.predictions.decoder.bias",
        "bert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight",
    },
    "roberta": {"lm_head.bias": "lm_head.decoder.bias"},
    "modernbert": {"model.embeddings.tok_embeddings.weight": "decoder.weight"},
}


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_tensor_is_found_under_its_other_name(name, tmp_path):
    source = altered(tmp_path / "source", name, rename=SHARED[name])
    there_and_back(tmp_path, source)
    before, after = open_weights(GOLDEN / name), open_weights(tmp_path / "back")
    assert before.leaves == after.leaves
    for tensor in before.leaves:
        np.testing.assert_array_equal(before.read(tensor), after.read(tensor))


def test_an_untied_output_does_not_stand_in_for_the_token_table(tmp_path):
    source = altered(tmp_path / "source", "llama", tensors={"model.embed_tokens.weight": None})
    with pytest.raises(ConfigError, match="missing model.embed_tokens.weight"):
        convert.from_hf(str(source), str(tmp_path / "run"))


def test_a_bart_without_an_output_bias_has_zeros(tmp_path):
    source = altered(tmp_path / "source", "bart", tensors={"final_logits_bias": None})
    there_and_back(tmp_path, source)
    bias = open_weights(tmp_path / "back").read("final_logits_bias")
    assert bias.shape == (1, 90) and not bias.any()


# ---- Refusals with a remedy ------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_the_prefix_of_a_wrapper_is_named_with_the_remedy(prefix, name, tmp_path):
    names = {tensor: f"{prefix}{tensor}" for tensor in open_weights(GOLDEN / name).leaves}
    source = altered(tmp_path / "source", name, rename=names)
    with pytest.raises(ConfigError, match=f"begin with '{prefix}'.*removeprefix") as caught:
        convert.from_hf(str(source), str(tmp_path / "run"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "quantization_config .gptq.*dequantize",
        ),
        (
            {"model_type": "mixtral", "num_local_experts": 8},
            "mixture of experts .num_local_experts",
        ),
        ({"model_type": "qwen3_moe"}, "mixture of experts .model_type"),
        ({"num_local_experts": 8}, "num_local_experts=8"),
        (
            {"num_attention_heads": 4, "hidden_size": 16, "rope_parameters": {"x": 1}},
            "_parameters.x",
        ),
    ],
)
def test_what_is_not_supported_is_named(config, message, tmp_path):
    source = altered(tmp_path / "source", "llama", config)
    with pytest.raises(ConfigError, match=message):
        convert.from_hf(str(source), str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "auto"),
    [("bert", "AutoModelForPreTraining"), ("gpt2", "AutoModelForCausalLM"),
     ("t5", "AutoModelForSeq2SeqLM"), ("roberta", "AutoModelForMaskedLM")],
)  # fmt: skip
def test_the_remedy_for_a_pickle_keeps_head_and_tokenizer(name, auto, tmp_path):
    source = altered(tmp_path / "source", name)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=f"import {auto} as M, AutoTokenizer as T") as caught:
        convert.from_hf(str(source), str(tmp_path / "run"))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(("start", "message"), [(7, ""), (89, "decoder_start_token_id=89")])
def test_the_decoder_starts_as_the_config_says_or_is_refused(start, message, tmp_path):
    source = altered(tmp_path / "source", "t5", {"decoder_start_token_id": start})
    if message:
        with pytest.raises(ConfigError, match=message):
            convert.from_hf(str(source), str(tmp_path / "run"))
        return
    convert.from_hf(str(source), str(tmp_path / "run"))
    assert tokenizers.load(tmp_path / "run" / "tokenizer.json").special_ids()["start"] == start


# ---- Targets that cannot be written ----------------------------------------------------------------


@pytest.mark.parametrize("text", ["[Errno 28] No space left on device", "RESOURCE_EXHAUSTED: disk"])
@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_full_disk_is_one_line_and_leaves_nothing(text, error, tmp_path, monkeypatch):
    source = altered(tmp_path / "source", "bert")

    def full(*args):
        raise error(text)

    with monkeypatch.context() as patch:
        patch.setattr("huggingface.run_contents.write_params", full)
        with pytest.raises(
            ConfigError, match=r"cannot write .*run .the disk is full.; free disk space"
        ):
            convert.from_hf(str(source), str(tmp_path / "run"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    convert.from_hf(str(source), str(tmp_path / "run"))  # the second try is not refused
    with monkeypatch.context() as patch:
        patch.setattr("huggingface.convert.write_tokenizer", lambda *_, **__: full())
        with pytest.raises(ConfigError, match="cannot write .*back.*free disk space"):
            convert.to_hf(str(tmp_path / "run"), str(tmp_path / "back"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "source"]
    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "back"))


def test_a_target_below_a_file_is_one_line(tmp_path):
    source = altered(tmp_path / "source", "bert")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        convert.from_hf(str(source), str(tmp_path / "file" / "run"))


def test_a_trained_head_is_exported_with_its_own_labels_and_dropout():
    class Contents:
        labels = ["wet", "dry"]
        origin = {"head_keys": {"id2label": {"0": "old"}}, "model_type": "bert"}

    task = {"head_dropout_rate": 0.3, "pooling": "auto"}
    found = convert.published.head_keys(Contents, FAMILIES["bert"], "classification", task)
    assert found["id2label"] == {"0": "wet", "1": "dry"} and found["classifier_dropout"] == 0.3
    assert found["problem_type"] == "single_label_classification"
    untrained = convert.published.head_keys(Contents, FAMILIES["bert"], "classification", {})
    assert untrained == {"id2label": {"0": "old"}}
