"""Heads and whole exports as people use them: classifiers in and out, pipelines, generate, Auto classes.

What finetune.py made is loaded by transformers without code of ours, and says the same.
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
from data import tokenizer as tokenizers
from huggingface import convert
from huggingface.weights import open_weights
from models.config import ModelConfig, completed
from objectives.heads import PairHead
from tasks.classification import Classification, Encoded
from tasks.config import TaskConfig
from training import checkpoint, run_directory
from training.config import ConfigError

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SPECIAL = {"pad_token_id": 0, "eos_token_id": 4, "vocab_size": parity.VOCABULARY}
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
# class: (values of its config, fields of our task)
CLASSIFIERS = {
    "BertForSequenceClassification": ({**WIDE, "intermediate_size": 48}, {"pooler": True}),
    "GPT2ForSequenceClassification": ({"n_embd": 32, "n_layer": 2, "n_head": 4}, {"bias": False}),
    "T5ForSequenceClassification": (
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
        {"pooler": True, "reading": "state"},
    ),
    "LlamaForSequenceClassification": ({**WIDE, "intermediate_size": 48}, {"bias": False}),
    "Qwen2ForSequenceClassification": (
        {**WIDE, "num_key_value_heads": 2, "intermediate_size": 48},
        {"bias": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_comes_in_with_its_labels_and_goes_out_again(name, tmp_path):
    values, fields = CLASSIFIERS[name]
    network = getattr(transformers, name)
    labels = ["no", "maybe", "yes"]
    config = network.config_class(
        **SPECIAL, **values, id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    peer = parity.randomised(network(config), 0.1)
    peer.save_pretrained(tmp_path / "there")
    parity.tokenizer(tmp_path / "there")
    convert.from_hf(str(tmp_path / "there"), str(tmp_path / "run"))
    assert run_directory.read_manifest(tmp_path / "run")["labels"] == labels
    ours = parity.Ours.of(tmp_path / "run")
    lengths = parity.PADDED.sum(1)
    tokens = np.where(parity.PADDED > 0, parity.TOKENS, 0)
    tokens[np.arange(parity.ROWS), lengths - 1] = 4
    encoded = Encoded(tokens, lengths, np.zeros_like(tokens), np.zeros(parity.ROWS, np.int32), 0)
    task = Classification(
        ours.config.architecture, 3, ours.config.width, 0, 0,
        token_types=ours.config.token_types > 1, **fields,
    )  # fmt: skip
    batch = jax.tree.map(jnp.asarray, task.batch(encoded, np.arange(parity.ROWS)))
    mine = task.predictions(models.build(ours.config), ours.params, batch)
    given = torch.from_numpy(tokens).long()
    mask = torch.from_numpy(parity.PADDED).long()
    parity.close(mine, peer(input_ids=given, attention_mask=mask).logits, 1e-4)

    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "back"))
    one, other = open_weights(tmp_path / "there"), open_weights(tmp_path / "back")
    assert one.leaves == other.leaves
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back")
    assert type(again) is network and again.config.id2label == dict(enumerate(labels))
    parity.close(mine, again.eval()(input_ids=given, attention_mask=mask).logits, 1e-4)


def test_the_pair_head_is_berts_pooler_and_seq_relationship(tmp_path):
    config = transformers.BertConfig(**SPECIAL, **WIDE, intermediate_size=48)
    peer = parity.randomised(transformers.BertForPreTraining(config))
    peer.save_pretrained(tmp_path / "there")
    parity.tokenizer(tmp_path / "there")
    convert.from_hf(str(tmp_path / "there"), str(tmp_path / "run"))
    ours = parity.Ours.of(tmp_path / "run")
    hidden = ours.hidden(*ours.sequences(parity.TOKENS, parity.PADDED))
    head = PairHead(ours.config).apply({"params": ours.params["heads"]["pair"]}, hidden[:, 0])
    out = peer(
        input_ids=torch.from_numpy(parity.TOKENS).long(),
        attention_mask=torch.from_numpy(parity.PADDED).long(),
    )
    parity.close(head, out.seq_relationship_logits, 1e-4)


TEXTS = [f"the cat number {i} sat on the mat and saw {i * 7} dogs run home" for i in range(200)]
SMALL = {"layers": 2, "width": 32, "heads": 4, "mlp_size": 48, "vocab_size": 0, "max_length": 32}


def own_run(folder, preset, kind, **changes):
    """A run of ours as train.py leaves one, its tokenizer trained here, its parameters fresh; (its
    tokenizer, parity.Ours)."""
    tokenizer = tokenizers.train(TEXTS, kind=kind, vocab_size=400)
    fields = {**models.preset(preset), **SMALL, "init_std": 0.3, **changes}
    config = completed(ModelConfig(**fields), tokenizer.size, 32)
    row = models.sequence_of(jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
    rows = (row, row) if config.architecture == "encoder_decoder" else (row,)
    init = models.build(config).init(jax.random.key(0), *rows, method="initialise")
    folder.mkdir()
    checkpoint.write_params(folder, 0, init["params"])
    tokenizer.save(folder / "tokenizer.json")
    run_directory.record_run(folder, {"seed": {}}, "pretrain", config)
    return tokenizer, parity.Ours(config, init["params"], tokenizer.special_ids()["start"])


# preset: (tokenizer, what has to be another value with such a small network, or with our tokenizer,
# whose padding has number 0)
ENCODERS = {
    "bert-tiny": ("wordpiece", {}),
    "roberta-base": ("bpe", {"position_offset": 1}),
    "electra-small-generator": ("wordpiece", {"embedding_size": 24}),
    "distilbert-base": ("wordpiece", {}),
    "modernbert-base": ("bpe", {"layers": 4, "window": 3}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_ours_fills_masks_there(name, tmp_path):
    kind, changes = ENCODERS[name]
    tokenizer, ours = own_run(tmp_path / "run", name, kind, **changes)
    said = convert.to_hf(str(tmp_path / "run"), str(tmp_path / "there"))
    assert said.lower().startswith(name.partition("-")[0])
    text = "the cat [MASK] on the mat"
    best = transformers.pipeline("fill-mask", model=str(tmp_path / "there"))(text, top_k=3)
    ids = tokenizer.special_ids()
    row = transformers.AutoTokenizer.from_pretrained(tmp_path / "there")(text)["input_ids"]
    assert (row[0], row[-1]) == (ids["cls"], ids["sep"])
    row = np.array([row], np.int32)
    scores = ours.logits(ours.hidden(*ours.sequences(row, np.ones_like(row))))
    place = row[0].tolist().index(ids["mask"])
    order = np.asarray(scores)[0, place].argsort()[::-1][:3]
    assert [each["token"] for each in best] == order.tolist()


def test_a_decoder_of_ours_goes_on_there(tmp_path):
    tokenizer, ours = own_run(tmp_path / "run", "gpt2", "bpe")
    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "there"))
    text = "the cat number"
    generate = transformers.pipeline("text-generation", model=str(tmp_path / "there"))
    said = generate(text, do_sample=False, max_new_tokens=parity.NEW, return_tensors=True)
    prompt = tokenizer.encode(text)[None]
    more = ours.greedy(prompt)[0].tolist()
    eos = tokenizer.special_ids()["eos"]
    more = more[: more.index(eos) + 1] if eos in more else more
    assert said[0]["generated_token_ids"] == prompt[0].tolist() + more


TYPING = {
    "t5-v1.1-small": (
        "unigram",
        {"head_size": 8, "relative_buckets": 8, "relative_max_distance": 16},
    ),
    "bart-base": ("bpe", {}),
}


@pytest.mark.parametrize("name", TYPING)
def test_an_encoder_decoder_of_ours_types_there(name, tmp_path):
    kind, changes = TYPING[name]
    tokenizer, ours = own_run(tmp_path / "run", name, kind, **changes)
    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "there"))
    network = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "there")
    given = transformers.AutoTokenizer.from_pretrained(tmp_path / "there")(
        TEXTS[3], return_tensors="pt"
    )
    prompt, eos = given["input_ids"].numpy().astype(np.int32), tokenizer.special_ids()["eos"]
    assert prompt[0].tolist() == [*tokenizer.encode(TEXTS[3]).tolist(), eos]
    said = network.generate(**given, do_sample=False, max_new_tokens=parity.NEW)[0].tolist()
    more = ours.greedy(prompt)[0].tolist()
    more = more[: more.index(eos) + 1] if eos in more else more
    assert said == [ours.start, *more]


def test_a_decoder_without_padding_classifies_texts_of_unlike_length_there(tmp_path):
    """GPT-2's tokenizer has no padding: what fills up must not be what the state is read at."""
    folder, there = tmp_path / "run", tmp_path / "there"
    inner = tokenizers_library.Tokenizer(
        tokenizers_library.models.WordLevel({"<|endoftext|>": 0, "<unk>": 1, "cat": 2, "dog": 3})
    )
    inner.pre_tokenizer = tokenizers_library.pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<|endoftext|>", "<unk>"])
    tokenizer = tokenizers.Tokenizer(inner)
    config = ModelConfig(**{**models.preset("gpt2"), **SMALL, "vocab_size": 4, "init_std": 0.3})
    task = Classification("decoder", 2, 32, -1, -1, bias=False)
    row = models.sequence_of(jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32), "causal")
    params = models.build(config).init(jax.random.key(0), row)["params"]
    params |= {"heads": {"classification": task.head_parameters(jax.random.key(1))}}
    folder.mkdir()
    checkpoint.write_params(folder, 0, params)
    tokenizer.save(folder / "tokenizer.json")
    settings = dataclasses.asdict(TaskConfig(head_bias=False))
    run_directory.record_run(folder, {"seed": {}, "task": settings}, "finetune", config)
    run_directory.write_manifest(folder, {"seed": {}}, {"labels": ["bad", "good"]})
    convert.to_hf(str(folder), str(there))
    classify = transformers.pipeline("text-classification", model=str(there), top_k=None)
    texts = ["cat dog dog", "dog"]
    said = classify(texts, batch_size=2)
    for text, found in zip(texts, said, strict=True):
        alone = classify([text])[0]
        ids = tokenizer.encode(text).tolist()  # its own frame: nothing
        encoded = Encoded(
            np.array([ids], np.int32), np.array([len(ids)]), np.zeros((1, len(ids)), np.int32),
            np.zeros(1, np.int32), 0,
        )  # fmt: skip
        batch = jax.tree.map(jnp.asarray, task.batch(encoded, np.arange(1)))
        mine = np.asarray(jax.nn.softmax(task.predictions(models.build(config), params, batch)))[0]
        for each in (found, alone):
            scores = {label["label"]: label["score"] for label in each}
            np.testing.assert_allclose([scores["bad"], scores["good"]], mine, atol=1e-4)


def test_what_has_no_counterpart_is_refused_with_the_value_that_prevents_it(tmp_path):
    own_run(tmp_path / "run", "bert-tiny", "wordpiece", norm_position="pre", positions="rotary")
    with pytest.raises(ConfigError, match=r"model\.norm_position='pre' \(expected 'post'\)"):
        convert.to_hf(str(tmp_path / "run"), str(tmp_path / "there"), architecture="BertModel")
    assert not (tmp_path / "there").exists()
    own_run(tmp_path / "two", "bert-tiny", "wordpiece")
    with pytest.raises(ConfigError, match="GPT2Model"):
        convert.to_hf(str(tmp_path / "two"), str(tmp_path / "there"), architecture="AlbertModel")
    assert json.loads((tmp_path / "two" / "config.json").read_text())["kind"] == "pretrain"
