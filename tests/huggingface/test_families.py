"""Config tables read both ways, without a file: presets have a family, and what has none is refused."""

import dataclasses
import re

import pytest

import models
from huggingface.families import FAMILIES
from models.config import explicit
from models.presets import PRESETS, preset
from training.config import ConfigError

KINDS = {"bert": "bert", "electra": "electra", "roberta": "roberta", "distilbert": "distilbert",
         "modernbert": "modernbert", "gpt2": "gpt2", "t5": "t5", "bart": "bart"}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_said_by_its_family_and_read_back(name):
    model = models.ModelConfig(**{"max_length": 512, **preset(name)})
    family = FAMILIES[KINDS[name.partition("-")[0]]]
    config, problems = family.config(model)
    assert problems == []
    silent = {"output_bias": model.output_bias, "max_length": model.max_length}
    back = dataclasses.replace(family.model(config), **silent)
    free = {field: getattr(model, field) for field in ("dropout", "attention_dropout", "init_std")}
    assert explicit(dataclasses.replace(back, **free)) == explicit(model)


ROPE = {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("roberta", {"pad_token_id": None}, "pad_token_id=None"),
        ("roberta", {"hidden_act": "relu"}, "hidden_act='relu' .expected one of 'gelu'"),
        ("roberta", {"is_decoder": True}, "is_decoder=True .expected False"),
        ("electra", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("electra", {"embedding_size": "wide"}, "'wide' for embedding_size"),
        ("distilbert", {"activation": "swiglu"}, "activation='swiglu'"),
        ("distilbert", {"n_heads": 5}, "heads=5 does not divide"),
        ("modernbert", {"layer_types": ["sliding_attention"] * 22}, "layer_types="),
        ("modernbert", {"rope_parameters": ROPE}, "'yarn'.*expected 'default'"),
        ("modernbert", {"norm_bias": True}, "norm_bias=True, .*one value for all"),
        ("modernbert", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("bart", {"decoder_attention_heads": 8}, "decoder_attention_heads=8 .expected one value"),
        ("bart", {"scale_embedding": True}, "scale_embedding=True"),
    ],
)
def test_what_a_config_says_without_a_counterpart_is_refused_by_name(kind, config, words):
    with pytest.raises(ConfigError, match=words) as caught:
        FAMILIES[kind].model({"model_type": kind, **config})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "changes", "words"),
    [
        ("bert-base", "bert", {"token_types": 0}, "model.token_types=0 .expected at least 1"),
        ("bert-base", "roberta", {}, "model.position_offset=0 .expected at least 1"),
        ("bert-base", "bert", {"position_offset": 2}, "model.position_offset=2 .expected 0"),
        ("electra-small", "bert", {}, "model.embedding_size=128 .expected 256"),
        ("bert-base", "distilbert", {}, "model.token_types=2 .expected 0"),
        ("modernbert-base", "modernbert", {"global_every": 0, "local_rotary_base": 0.0},
         "model.global_every=0 with window=65"),
        ("modernbert-base", "modernbert", {"kv_heads": 4}, "model.kv_heads=4 .expected 12"),
        ("bart-base", "bart", {"separate_embeddings": False}, "model.separate_embeddings=False"),
        ("bart-base", "bart", {"shared_stacks": True}, "model.shared_stacks=True .expected False"),
    ],
)  # fmt: skip
def test_what_a_family_cannot_say_is_named_by_our_field(name, kind, changes, words):
    model = models.ModelConfig(**{"max_length": 512, **preset(name), **changes})
    problems = "; ".join(FAMILIES[kind].config(model)[1])
    assert re.search(words, problems)


def test_modern_layers_are_read_in_both_spellings():
    older = {"global_attn_every_n_layers": 2, "global_rope_theta": 8e4, "local_attention": 6}
    kinds = ["full_attention", "sliding_attention"] * 11
    bases = {"full_attention": {"rope_theta": 8e4}, "sliding_attention": {"rope_theta": 1e4}}
    newer = {"layer_types": kinds, "rope_parameters": bases, "local_attention": 6}
    one, other = (FAMILIES["modernbert"].model(config) for config in (older, newer))
    assert one == other
    assert (one.window, one.global_every, one.rotary_base, one.local_rotary_base) == (
        4,
        2,
        8e4,
        1e4,
    )
    every = FAMILIES["modernbert"].model({"global_attn_every_n_layers": 1})
    assert (every.window, every.global_every) == (0, 0)
