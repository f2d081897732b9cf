"""What a model reads before it generates, by the objective or task of its run; published settings."""

import dataclasses
import json
import types

import numpy as np
import pytest
from labeled_tasks import CLS, EOS, FIRST, SEP, START, WORDS, ids

from data import tokenizer as tokenizers
from data.special_tokens import SpecialTokenTemplate
from generation import GenerationConfig
from objectives import OBJECTIVES
from objectives.vocabulary import Vocabulary
from tools import generator, prompts
from tools.generator import Generator
from tools.prompts import prompt_reader
from training import config as config_lib
from training.config import ConfigError
from training.schema import FinetuneConfig

MASK, MODE_S, SENTINEL = 5, 8, 13
TOKENIZER = tokenizers.of_words(WORDS)


def loaded(monkeypatch, architecture, config, origin=(), template=None):
    """In place of a LoadedRun; config: its section of config.json."""
    manifest = {"huggingface": dict(origin)} if origin else {}
    monkeypatch.setattr(prompts.run_directory, "read_manifest", lambda directory: manifest)
    tokenizer = TOKENIZER
    if template:
        tokenizer = types.SimpleNamespace(
            special_ids=TOKENIZER.special_ids,
            encode_batch=TOKENIZER.encode_batch,
            template=template,
        )
    return types.SimpleNamespace(
        name="a run", directory="", tokenizer=tokenizer, record={"config": config},
        vocabulary=Vocabulary(**TOKENIZER.special_ids()),
        config=types.SimpleNamespace(architecture=architecture),
    )  # fmt: skip


def objective(name, **fields):
    """The section of config.json of a run of train.py, as it is stored."""
    return json.loads(json.dumps({"objective": {"name": name, **fields}}))


A, B = ids("w1 w2")
# objective, architecture: tokens of 'w1 w2', whether bidirectional, the decoder's first tokens, continues.
READ = {
    ("causal_lm", "decoder"): ([A, B], False, [], True),
    ("fill_in_the_middle", "decoder"): ([A, B], False, [], True),
    ("hybrid", "decoder"): ([A, B], False, [], True),
    ("prefix_lm", "decoder"): ([A, B], True, [], True),
    ("prefix_lm", "encoder_decoder"): ([A, B, EOS], False, [START], True),
    ("span_corruption", "encoder_decoder"): ([A, B, SENTINEL, EOS], False, [START, SENTINEL], True),
    ("span_corruption", "decoder"): ([A, B, SENTINEL, EOS], True, [], True),
    ("drop_spans", "encoder_decoder"): ([A, B, EOS], False, [START], True),
    ("text_infilling", "encoder_decoder"): ([A, B, MASK, EOS], False, [START, A, B], True),
    ("bert_style", "encoder_decoder"): ([A, B, MASK, EOS], False, [START, A, B], True),
    ("deshuffling", "encoder_decoder"): ([A, B, EOS], False, [START, A, B], True),
    ("text_infilling", "decoder"): ([A, B, MASK, EOS], True, [], False),
    ("ul2", "decoder"): ([MODE_S, A, B], True, [], True),
    ("ul2", "encoder_decoder"): ([MODE_S, A, B, EOS], False, [START], True),
}


@pytest.mark.parametrize(("name", "architecture"), READ)
def test_the_prompt_of_an_objective(monkeypatch, name, architecture):
    tokens, is_prefix, first, continues = READ[name, architecture]
    reader = prompt_reader(loaded(monkeypatch, architecture, objective(name)))
    (prompt,) = reader.read(["w1 w2"])
    assert prompt.tokens.tolist() == tokens and prompt.tokens.dtype == np.int32
    assert (prompt.prefix, prompt.decoder_tokens.tolist()) == (is_prefix, first)
    assert reader.continues == continues and reader.eos_ids[0] == EOS and reader.masks is None
    others = set(range(SENTINEL + 1, FIRST)) if SENTINEL in tokens else set()
    assert set(reader.eos_ids) == {EOS} | others  # a span ends where the next one would start


def test_masked_next_token_prediction_fills_masks(monkeypatch):
    reader = prompt_reader(loaded(monkeypatch, "decoder", objective("mntp")))
    assert reader.masks == prompts.Masks((EOS,), is_next=True)
    reader = prompt_reader(loaded(monkeypatch, "encoder", objective("masked_lm")))
    assert reader.masks == prompts.Masks((SEP,), is_next=False)
    assert reader.read(["w1"])[0].tokens.tolist() == [CLS, A]


def test_every_objective_that_generates_has_a_reader(monkeypatch):
    for name, kind in OBJECTIVES.items():
        for architecture in kind().architectures:
            if architecture in ("decoder", "encoder_decoder"):
                reader = prompt_reader(loaded(monkeypatch, architecture, objective(name)))
                assert len(reader.read(["w1 w2"])[0].tokens) >= 2, name


def test_a_template_with_a_start_token_has_it_and_allows_an_empty_prompt(monkeypatch):
    template = SpecialTokenTemplate((CLS,), (), ())
    reader = prompt_reader(loaded(monkeypatch, "decoder", {}, template=template))
    found = [prompt.tokens.tolist() for prompt in reader.read(["w1", ""])]
    assert found == [[CLS, A], [CLS]]
    reader = prompt_reader(loaded(monkeypatch, "decoder", objective("causal_lm")))
    with pytest.raises(
        ValueError, match="the prompt '' is empty, and the model has no start token"
    ):
        reader.read(["w1", ""])


def test_a_published_model_has_the_ids_of_its_files(monkeypatch):
    generation = {
        "eos_token_id": [EOS, 9],
        "decoder_start_token_id": EOS,
        "forced_bos_token_id": CLS,
    }
    for origin in (
        {"generation": generation, "config": {"eos_token_id": 7}},
        {"generation": None, "config": generation},
    ):
        reader = prompt_reader(loaded(monkeypatch, "encoder_decoder", {}, origin))
        (prompt,) = reader.read(["w1"])
        assert prompt.decoder_tokens.tolist() == [EOS, CLS] and reader.eos_ids == (EOS, 9)
    reader = prompt_reader(loaded(monkeypatch, "decoder", {}, {"generation": {"eos_token_id": 3}}))
    assert reader.eos_ids == (3,)
    assert prompt_reader(loaded(monkeypatch, "decoder", {}, {"generation": None})).eos_ids == (EOS,)


def finetuned(**task):
    """The section of config.json of a run of finetune.py."""
    config = config_lib.resolve(FinetuneConfig, {"init_from": "x", "task": task})
    return json.loads(json.dumps(config_lib.to_dict(config)))


def test_a_finetuned_run_reads_a_source_in_its_prompt(monkeypatch):
    config = finetuned(name="seq2seq", prompt="w8 {source} w9", max_target_len=20)
    eight, nine = ids("w8 w9")
    reader = prompt_reader(loaded(monkeypatch, "encoder_decoder", config))
    (prompt,) = reader.read(["w1 w2"])
    assert prompt.tokens.tolist() == [eight, A, B, nine, EOS]
    assert prompt.decoder_tokens.tolist() == [START]
    assert (reader.max_new_tokens, reader.continues, reader.eos_ids) == (20, False, (EOS,))
    config["task"]["attention"] = "prefix"
    (prompt,) = prompt_reader(loaded(monkeypatch, "decoder", config)).read(["w1 w2"])
    assert prompt.tokens.tolist() == [eight, A, B, nine, SEP] and prompt.prefix
    config = finetuned(name="text_to_text", prompt="w8 {text} w9")
    (prompt,) = prompt_reader(loaded(monkeypatch, "decoder", config)).read(["w1"])
    assert prompt.tokens.tolist() == [eight, A, nine, SEP] and not prompt.prefix
    config = finetuned(name="text_to_text", prompt="{text} {text_pair}", text_pair_column="b")
    with pytest.raises(ConfigError, match=r"reads text and text_pair.*tools.predict reads several"):
        prompt_reader(loaded(monkeypatch, "decoder", config))


def config_of(monkeypatch, origin, given, config=()):
    """The GenerationConfig of a run with these published settings."""
    run = loaded(monkeypatch, "decoder", dict(config), {"generation": origin})
    monkeypatch.setattr(generator, "load_run", lambda *_: run)
    found = Generator.__new__(Generator)
    found._run, found._mesh, found.name = "", None, "a run"
    return found.config(given)


def test_options_are_those_of_the_file_unless_given(monkeypatch):
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 9}
    changed = {"temperature": 0.6, "top_p": 0.9, "top_k": 50, "max_new_tokens": 9}
    default = GenerationConfig()
    assert config_of(monkeypatch, sampling, {}) == dataclasses.replace(default, **changed)
    greedy = dataclasses.replace(default, max_new_tokens=9)
    assert config_of(monkeypatch, sampling, {"temperature": "0"}) == greedy
    assert config_of(monkeypatch, sampling, {"num_beams": "2"}) == dataclasses.replace(
        greedy, num_beams=2
    )
    assert config_of(monkeypatch, {**sampling, "do_sample": False}, {}) == greedy
    beams = {
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
    }
    found = config_of(monkeypatch, beams, {})
    assert found == dataclasses.replace(default, **{**beams, "early_stopping": "true"})
    found = config_of(monkeypatch, beams, {"temperature": "0.7"})
    assert found == dataclasses.replace(default, temperature=0.7, no_repeat_ngram_size=3)
    task = finetuned(name="seq2seq", max_target_len=20)
    assert config_of(monkeypatch, beams, {}, task) == dataclasses.replace(
        default, max_new_tokens=20
    )
