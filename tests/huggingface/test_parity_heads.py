"""Heads and whole exports as people use them: classifiers, pipelines, generate, Auto classes.

transformers loads our exports without code of ours and computes the same.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tokenizers as tokenizers_library

import models
from configs import decoder, encoder, encoder_decoder
from data import tokenizer as tokenizers
from huggingface import convert
from huggingface.weights import open_weights
from models.config import ModelConfig, complete_config
from tasks.classification import Classification
from training import checkpoint, run_directory
from training.config import ConfigError

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SPECIAL = {"pad_token_id": 0, "eos_token_id": 4, "vocab_size": parity.VOCAB_SIZE}
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
# class: values of its config
CLASSIFIERS = {
    "BertForSequenceClassification": {**WIDE, "intermediate_size": 48},
    "GPT2ForSequenceClassification": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "T5ForSequenceClassification": {
        "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0,
    },
    "LlamaForSequenceClassification": {**WIDE, "intermediate_size": 48},
    "Qwen2ForSequenceClassification": {**WIDE, "num_key_value_heads": 2, "intermediate_size": 48},
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_imported_with_its_labels_and_exported_again(name, tmp_path):
    model_class = getattr(transformers, name)
    labels = ["no", "maybe", "yes"]
    config = model_class.config_class(
        **SPECIAL, **CLASSIFIERS[name], id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    peer = parity.randomize(model_class(config), 0.1)
    source, run, back = tmp_path / "source", tmp_path / "run", tmp_path / "back"
    peer.save_pretrained(source)
    parity.write_tokenizer(source)
    convert.from_hf(str(source), str(run))
    manifest = run_directory.read_manifest(run)
    assert manifest["labels"] == labels
    lengths = parity.PADDED_MASK.sum(1)
    tokens = np.where(parity.PADDED_MASK > 0, parity.TOKENS, 0)
    tokens[np.arange(parity.ROWS), lengths - 1] = 4
    needs = manifest["huggingface"]["head_needs"]
    logits = parity.NativeModel.load(run).class_logits(tokens, lengths, 3, needs)
    arguments = {
        "input_ids": torch.from_numpy(tokens).long(),
        "attention_mask": torch.from_numpy(parity.PADDED_MASK).long(),
    }
    parity.assert_close(logits, peer(**arguments).logits, 1e-4)

    convert.to_hf(str(run), str(back))
    assert open_weights(source).leaves == open_weights(back).leaves
    again = transformers.AutoModelForSequenceClassification.from_pretrained(back)
    assert type(again) is model_class and again.config.id2label == dict(enumerate(labels))
    parity.assert_close(logits, again.eval()(**arguments).logits, 1e-4)


SHIPPED = {"encoder": encoder, "decoder": decoder, "encoder_decoder": encoder_decoder}
TEXTS = [f"the cat number {i} sat on the mat and saw {i * 7} dogs run home" for i in range(200)]
SMALL = {"num_layers": 2, "emb_dim": 32, "num_heads": 4, "mlp_dim": 48, "vocab_size": 0,
         "max_length": 32}  # fmt: skip


def write_run(folder, preset, tokenizer_type, classes=0, **changes):
    """Writes a run like one of train.py at step 0, with a trained tokenizer; returns the tokenizer and
    parity.NativeModel."""
    tokenizer = tokenizers.train(TEXTS, type=tokenizer_type, vocab_size=400)
    file, _, arg = preset.partition(":")
    shipped = file in SHIPPED
    fields = SHIPPED[file].get_config(arg).model.to_dict() if shipped else models.preset(preset)
    fields = {**fields, **SMALL, "init_std": 0.3, **changes}
    config = complete_config(ModelConfig(**fields), tokenizer.size, 32)
    row = models.make_inputs(jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
    rows = (row, row) if config.architecture == "encoder_decoder" else (row,)
    params = models.build(config).init(jax.random.key(0), *rows, method="init_all")["params"]
    if classes:  # the default head of finetuning
        head = Classification().head_module(classes, **dataclasses.asdict(Classification()))
        head = head.init(jax.random.key(1), jnp.zeros((1, config.emb_dim)))["params"]
        params = {**params, "heads": {"classification": head}}
    # Zeros and ones, as biases and scales begin, would hide a mistake.
    leaves, tree = jax.tree.flatten(params)
    noise = np.random.default_rng(0)
    leaves = [x + noise.normal(0, 0.1, x.shape).astype(np.float32) for x in leaves]
    params = jax.tree.unflatten(tree, leaves)
    folder.mkdir()
    checkpoint.write_params(folder, 0, params)
    tokenizer.save(folder / "tokenizer.json")
    kind, task = "pretrain", {}
    if classes:
        kind, task = "finetune", {"task": dataclasses.asdict(Classification())}
        names = [f"class {i}" for i in range(classes)]
        run_directory.write_manifest(folder, {"seed": {}}, {"labels": names})
    run_directory.write_config(folder, {"seed": {}, **task}, kind, config)
    return tokenizer, parity.NativeModel(config, params, tokenizer.special_ids()["start"])


# preset: (tokenizer type, fields that must differ in so small a model, or with our tokenizer, whose
# padding has id 0)
ENCODERS = {
    "bert-tiny": ("wordpiece", {}),
    "roberta-base": ("bpe", {"position_offset": 1}),
    "electra-small-generator": ("wordpiece", {"embedding_size": 24}),
    "distilbert-base": ("wordpiece", {}),
    "modernbert-base": ("bpe", {"num_layers": 4, "sliding_window": 3}),
    "encoder": ("bpe", {}),
}
CLASS = {"encoder": "EsmForMaskedLM"}  # where the name does not begin with it


@pytest.mark.parametrize("name", ENCODERS)
def test_an_exported_encoder_fills_masks_in_a_pipeline(name, tmp_path):
    tokenizer_type, changes = ENCODERS[name]
    tokenizer, native = write_run(tmp_path / "run", name, tokenizer_type, **changes)
    directory = tmp_path / "hf"
    line = convert.to_hf(str(tmp_path / "run"), str(directory))
    assert line.lower().startswith(CLASS.get(name, name.partition("-")[0]).lower())
    text = "the cat [MASK] on the mat"
    best = transformers.pipeline("fill-mask", model=str(directory))(text, top_k=3)
    ids = tokenizer.special_ids()
    row = transformers.AutoTokenizer.from_pretrained(directory)(text)["input_ids"]
    assert (row[0], row[-1]) == (ids["cls"], ids["sep"])
    row = np.array([row], np.int32)
    logits = native.logits(native.hidden(*native.inputs(row, np.ones_like(row))))
    place = row[0].tolist().index(ids["mask"])
    order = np.asarray(logits)[0, place].argsort()[::-1][:3]
    assert [each["token"] for each in best] == order.tolist()


@pytest.mark.parametrize("name", ["gpt2", "decoder"])
def test_an_exported_decoder_continues_a_prompt_in_a_pipeline(name, tmp_path):
    tokenizer, native = write_run(tmp_path / "run", name, "bpe")
    directory = tmp_path / "hf"
    convert.to_hf(str(tmp_path / "run"), str(directory))
    text = "the cat number"
    generate = transformers.pipeline("text-generation", model=str(directory))
    found = generate(text, do_sample=False, max_new_tokens=parity.NEW_TOKENS, return_tensors=True)
    prompt = tokenizer.encode(text)[None]
    expected = native.generate(prompt)[0].tolist()
    eos = tokenizer.special_ids()["eos"]
    expected = expected[: expected.index(eos) + 1] if eos in expected else expected
    assert found[0]["generated_token_ids"] == prompt[0].tolist() + expected


ENCODER_DECODERS = {
    "t5-v1.1-small": (
        "unigram",
        {"head_dim": 8, "relative_num_buckets": 8, "relative_max_distance": 16},
    ),
    "encoder_decoder:recipe=t5": (
        "unigram",
        {"head_dim": 8, "relative_num_buckets": 8, "relative_max_distance": 16},
    ),
    "bart-base": ("bpe", {}),
}


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_exported_encoder_decoder_generates(name, tmp_path):
    tokenizer_type, changes = ENCODER_DECODERS[name]
    tokenizer, native = write_run(tmp_path / "run", name, tokenizer_type, **changes)
    directory = tmp_path / "hf"
    convert.to_hf(str(tmp_path / "run"), str(directory))
    peer = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory)
    auto = transformers.AutoTokenizer.from_pretrained(directory)
    encoded = auto(TEXTS[3], return_tensors="pt")
    prompt, eos = encoded["input_ids"].numpy().astype(np.int32), tokenizer.special_ids()["eos"]
    assert prompt[0].tolist() == [*tokenizer.encode(TEXTS[3]).tolist(), eos]
    found = peer.generate(**encoded, do_sample=False, max_new_tokens=parity.NEW_TOKENS)[0].tolist()
    expected = native.generate(prompt)[0].tolist()
    expected = expected[: expected.index(eos) + 1] if eos in expected else expected
    assert found == [native.start, *expected]


def test_an_exported_decoder_without_padding_classifies_texts_of_different_lengths(tmp_path):
    """GPT-2's tokenizer has no padding token: the last state must not be that of another text's end."""
    folder, directory = tmp_path / "run", tmp_path / "hf"
    inner = tokenizers_library.Tokenizer(
        tokenizers_library.models.WordLevel({"<|endoftext|>": 0, "<unk>": 1, "cat": 2, "dog": 3})
    )
    inner.pre_tokenizer = tokenizers_library.pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<|endoftext|>", "<unk>"])
    tokenizer = tokenizers.Tokenizer(inner)
    config = ModelConfig(**{**models.preset("gpt2"), **SMALL, "vocab_size": 4, "init_std": 0.3})
    row = models.make_inputs(jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32), "causal")
    params = models.build(config).init(jax.random.key(0), row)["params"]
    head = Classification.head_module(2, head_bias=False)
    head_params = head.init(jax.random.key(1), jnp.zeros((1, 32)))["params"]
    params |= {"heads": {"classification": head_params}}
    folder.mkdir()
    checkpoint.write_params(folder, 0, params)
    tokenizer.save(folder / "tokenizer.json")
    task = dataclasses.asdict(Classification(head_bias=False))
    run_directory.write_config(folder, {"seed": {}, "task": task}, "finetune", config)
    run_directory.write_manifest(folder, {"seed": {}}, {"labels": ["bad", "good"]})
    convert.to_hf(str(folder), str(directory))
    classify = transformers.pipeline("text-classification", model=str(directory), top_k=None)
    texts = ["cat dog dog", "dog"]
    native = parity.NativeModel(config, params, -1)
    for text, found in zip(texts, classify(texts, batch_size=2), strict=True):
        ids = tokenizer.encode(text)[None]  # its own template adds nothing
        logits = native.class_logits(
            ids, np.array([ids.shape[1]]), 2, {"head_bias": False, "pooling": "last"}, pad=-1
        )
        expected = np.asarray(jax.nn.softmax(logits))[0]
        for each in (found, classify([text])[0]):
            scores = {label["label"]: label["score"] for label in each}
            np.testing.assert_allclose([scores["bad"], scores["good"]], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["encoder", "decoder", "bert-tiny", "gpt2"])
def test_the_default_classifier_classifies_in_a_pipeline(name, tmp_path):
    """It has no pooler, which encoders of transformers have, and a bias, which decoders lack."""
    tokenizer, native = write_run(tmp_path / "run", name, "bpe", classes=3)
    directory = tmp_path / "hf"
    convert.to_hf(str(tmp_path / "run"), str(directory))
    classify = transformers.pipeline("text-classification", model=str(directory), top_k=None)
    encode = transformers.AutoTokenizer.from_pretrained(directory)
    for text in TEXTS[3], TEXTS[4][:20]:
        ids = np.array([encode(text)["input_ids"]], np.int32)
        options = dataclasses.asdict(Classification())
        logits = native.class_logits(ids, np.array([ids.shape[1]]), 3, options)
        (found,) = classify([text])
        found = {each["label"]: each["score"] for each in found}
        expected = np.asarray(jax.nn.softmax(logits))[0]
        np.testing.assert_allclose([found[f"class {i}"] for i in range(3)], expected, atol=1e-4)


def test_a_model_that_no_class_expresses_is_refused_with_the_fields_that_prevent_it(tmp_path):
    target = str(tmp_path / "hf")
    write_run(tmp_path / "run", "bert-tiny", "wordpiece", norm_position="pre", positions="rope")
    with pytest.raises(ConfigError, match=r"model\.norm_position='pre' \(expected 'post'\)"):
        convert.to_hf(str(tmp_path / "run"), target, architecture="BertModel")
    assert not (tmp_path / "hf").exists()
    write_run(tmp_path / "two", "bert-tiny", "wordpiece")
    with pytest.raises(ConfigError, match="GPT2Model"):
        convert.to_hf(str(tmp_path / "two"), target, architecture="AlbertModel")
    assert json.loads((tmp_path / "two" / "config.json").read_text())["kind"] == "pretrain"
