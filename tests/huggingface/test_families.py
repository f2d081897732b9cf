"""Config tables in both directions, without files: presets have a family, other models are refused."""

import dataclasses
import json
import re

import numpy as np
import pytest

import models
from huggingface import param_shapes
from huggingface.export_class import choose_class, describe_export, export_classes
from huggingface.families import FAMILIES
from huggingface.run_contents import RunContents
from models import ADAPTERS
from models.config import resolve_defaults
from models.presets import PRESETS, preset
from tasks import TASKS
from tasks.classification import Classification
from tasks.tagging import Tagging
from training.checkpoint import LazyArray
from training.config import ConfigError
from training.init_head import plan_head


def model_of(name, **changes):
    return models.ModelConfig(**{"max_length": 512, **preset(name), **changes})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_expressed_by_its_family_and_read_back(name):
    model = model_of(name)
    family = FAMILIES[name.partition("-")[0]]
    config, problems = family.hf_config(model)
    assert problems == []
    free = ("lm_head_bias", "max_length", "dropout_rate", "attention_dropout_rate", "init_std")
    back = dataclasses.replace(
        family.model_config(config), **{field: getattr(model, field) for field in free}
    )
    assert resolve_defaults(back) == resolve_defaults(model)


ROPE = {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("model_type", "config", "message"),
    [
        ("roberta", {"pad_token_id": None}, "pad_token_id=None"),
        ("roberta", {"hidden_act": "relu"}, "hidden_act='relu' .expected one of 'gelu'"),
        ("roberta", {"is_decoder": True}, "is_decoder=True .expected False"),
        ("electra", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("electra", {"embedding_size": "wide"}, "'wide' for embedding_size"),
        ("distilbert", {"activation": "swiglu"}, "activation='swiglu'"),
        ("distilbert", {"n_heads": 5}, "heads=5"),
        ("modernbert", {"layer_types": ["sliding_attention"] * 22}, "layer_types="),
        (
            "modernbert",
            {"rope_parameters": ROPE},
            "full_attention.rope_type='yarn' .expected one of default, linear",
        ),
        ("modernbert", {"norm_bias": True}, "norm_bias=True, .*one value for all"),
        ("modernbert", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("bart", {"decoder_attention_heads": 8}, "decoder_attention_heads=8 .expected one value"),
        ("bart", {"scale_embedding": True}, "scale_embedding=True"),
    ],
)
def test_an_unsupported_config_value_is_refused_by_name(model_type, config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        FAMILIES[model_type].model_config({"model_type": model_type, **config})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "model_type", "changes", "message"),
    [
        ("bert-base", "bert", {"num_token_types": 0}, "num_token_types=0 .expected at least 1"),
        ("bert-base", "roberta", {}, "model.position_offset=0 .expected at least 1"),
        ("bert-base", "bert", {"position_offset": 2}, "model.position_offset=2 .expected 0"),
        ("electra-small", "bert", {}, "model.embedding_size=128 .expected 256"),
        ("bert-base", "distilbert", {}, "model.num_token_types=2 .expected 0"),
        (
            "modernbert-base",
            "modernbert",
            {"global_attn_every_n_layers": 0, "local_rope_theta": 0.0},
            "model.global_attn_every_n_layers=0 with sliding_window=65",
        ),
        ("modernbert-base", "modernbert", {"num_kv_heads": 4}, "num_kv_heads=4 .expected 12"),
        (
            "bart-base",
            "bart",
            {"separate_decoder_embeddings": False},
            "model.separate_decoder_embeddings=False",
        ),
        (
            "bart-base",
            "bart",
            {"share_encoder_decoder": True},
            "model.share_encoder_decoder=True .expected False",
        ),
    ],
)
def test_a_field_that_a_family_cannot_express_is_named(name, model_type, changes, message):
    problems = "; ".join(FAMILIES[model_type].hf_config(model_of(name, **changes))[1])
    assert re.search(message, problems)


def test_modernbert_layers_are_read_in_both_spellings():
    older = {"global_attn_every_n_layers": 2, "global_rope_theta": 8e4, "local_attention": 6}
    types = ["full_attention", "sliding_attention"] * 11
    theta = {"full_attention": {"rope_theta": 8e4}, "sliding_attention": {"rope_theta": 1e4}}
    newer = {"layer_types": types, "rope_parameters": theta, "local_attention": 6}
    one, other = (FAMILIES["modernbert"].model_config(config) for config in (older, newer))
    assert one == other
    assert (one.sliding_window, one.global_attn_every_n_layers) == (4, 2)
    assert (one.rope_theta, one.local_rope_theta) == (8e4, 1e4)
    every = FAMILIES["modernbert"].model_config({"global_attn_every_n_layers": 1})
    assert (every.sliding_window, every.global_attn_every_n_layers) == (0, 0)


def test_export_classes_follow_from_the_config_and_the_heads():
    bert = model_of("bert-base")
    assert export_classes(bert, ("lm",)) == (["BertForMaskedLM", "ElectraForMaskedLM"], [])
    assert export_classes(bert, ("lm", "pair"))[0] == ["BertForPreTraining", "BertForMaskedLM"]
    electra = model_of("electra-small")
    assert export_classes(electra, ("discriminator",)) == (["ElectraForPreTraining"], [])
    assert export_classes(model_of("gpt2"), ("lm",)) == (["GPT2LMHeadModel"], [])
    assert export_classes(bert, ("lm", "discriminator"))[0] == []
    # The nearest family has the same architecture, and names every field that prevents the export.
    rope = model_of("bert-base", positions="rope")
    assert export_classes(rope, ("lm",)) == (
        ["BertForMaskedLM"],
        ["model.positions='rope' (expected 'learned')"],
    )


def test_export_classes_check_the_options_of_a_task():
    name, task = next((name, task) for name, task in TASKS.items() if name != "pretraining")
    options = dataclasses.asdict(task())
    llama = model_of("gpt2", positions="rope", norm="rmsnorm", use_bias=False, gated_mlp=True,
                     activation="silu")  # fmt: skip
    assert export_classes(llama, (name,), options | {"head_bias": False})[1] == []
    classes, problems = export_classes(llama, (name,), options)
    assert classes == ["LlamaForSequenceClassification"]
    assert problems == ["task.head_bias=True (expected False)"]
    # A LayerNorm can take the bias, and an identity is a pooler.
    folded = ["GPT2ForSequenceClassification"]
    assert export_classes(model_of("gpt2"), (name,), options) == (folded, [])
    bert, fitting = model_of("bert-base"), options | {"pooler": True}
    for each in (options, fitting):
        assert export_classes(bert, (name,), each) == (["BertForSequenceClassification"], [])
    gelu = fitting | {"pooler_activation": "gelu"}
    assert export_classes(bert, (name,), gelu) == (["ElectraForSequenceClassification"], [])
    relu = fitting | {"pooler_activation": "relu"}
    assert (
        "task.pooler_activation='relu' (expected 'tanh')" in export_classes(bert, (name,), relu)[1]
    )


def test_a_family_that_lacks_the_heads_of_a_run_is_passed_over():
    """The model of electra-base is also a BERT, which has no class with a discriminator."""
    model, family = model_of("electra-base"), FAMILIES["electra"]
    assert FAMILIES["bert"].hf_config(model)[1] == []
    shapes = param_shapes.of_model(family, model, 0)
    required, _ = param_shapes.of_class(family, shapes, "ElectraForPreTraining")
    arrays = {path: LazyArray(shape, None) for path, shape in required.items()}
    contents = RunContents("run", model, arrays, None, [], {}, {})
    _, chosen, _, name, tree = choose_class(contents, "")
    assert (chosen, name, tree) == (family, "ElectraForPreTraining", required)
    with pytest.raises(ConfigError, match="heads discriminator, .*BertForMaskedLM"):
        choose_class(contents, "BertForMaskedLM")


@pytest.mark.parametrize(("pooling", "problem"), [("auto", ""), ("mean", ""), ("last", "'last'")])
def test_a_family_with_a_choice_of_pooling_accepts_its_choices_alone(pooling, problem):
    head = "classification"
    task = {"pooler": True, "pooler_activation": "gelu", "pooler_norm": True, "pooling": pooling}
    family = FAMILIES["modernbert"]
    assert family.unmet_needs(head, task) == ({"pooling": "cls"} if problem else {})
    found = {"auto": "cls", "mean": "mean"}.get(pooling)
    assert family.pooling_config(task) == ({"classifier_pooling": found} if found else {})
    needs = family.head_needs_in({"classifier_pooling": "mean"}, head)
    assert needs == task | {"pooling": "mean"}
    with pytest.raises(ConfigError, match="classifier_pooling=.*expected 'cls' or 'mean'"):
        family.head_needs_in({"classifier_pooling": ["a"]}, head)


def test_the_export_is_described_in_one_line():
    params = {"embed": {}, "heads": {"lm": {}}}
    line = describe_export(model_of("bert-base"), params)
    assert "BertForMaskedLM" in line and "\n" not in line
    line = describe_export(model_of("bert-base", positions="rope"), params)
    assert "model.positions='rope' (expected 'learned')" in line and "BertForMaskedLM" in line
    assert "GPT2LMHeadModel" in describe_export(model_of("gpt2"), {"embed": {}})  # a tied output
    lora, prompt = (ADAPTERS[name]() for name in ("lora", "prompt"))
    assert "BertForMaskedLM" in describe_export(model_of("bert-base"), params, adapter=lora)
    line = describe_export(model_of("bert-base"), params, adapter=prompt)
    assert line.startswith("no Hugging Face export: adapter prompt, since virtual tokens")


def test_a_task_whose_head_no_class_has_is_named_by_its_field(monkeypatch):
    monkeypatch.setitem(TASKS, "ranking", Classification)
    params = {"heads": {"ranking": {}}}
    line = describe_export(model_of("bert-base"), params, Classification())
    assert line == "no Hugging Face export: task.name='ranking' (no class here has its head)"


def test_a_token_classifier_keeps_its_head_where_the_tags_are_those_of_the_task(tmp_path):
    tags = ["O", "B-X", "I-X"]
    manifest = {
        "huggingface": {"head": "tagging", "problem_type": "single_label_classification",
                        "head_needs": FAMILIES["bert"].head_needs_in({}, "tagging")},
        "labels": tags,
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))

    def kept(names, **options):
        params = {"heads/tagging/output/kernel": np.zeros((4, len(names)))}
        loaded = type("Loaded", (), {
            "name": "tagging", "label_names": names, "task": Tagging(**options),
            "model_config": model_of("bert-base"),
        })  # fmt: skip
        return plan_head(tmp_path, loaded, params, params)

    assert kept(("B-X", "I-X", "O")).order == (1, 2, 0)
    assert not kept(("B-X", "O")).is_kept
    plan = kept(("B-X", "I-X", "O"), pooler=True)
    assert not plan.is_kept and "config.task.pooler=False would keep it" in plan.line
    needs = FAMILIES["modernbert"].head_needs_in({"classifier_pooling": "mean"}, "tagging")
    assert needs == {"pooler": True, "pooler_activation": "gelu", "pooler_norm": True}
