"""Token classifiers of transformers and ours, through the files; our export in its pipeline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

import models
from configs import decoder, encoder
from data import tokenizer as tokenizers
from data.examples import Examples
from data.labeled import LabeledSplits
from huggingface import convert
from huggingface.weights import open_weights
from models.config import ModelConfig, complete_config
from tasks.tagging import Tagging
from training import checkpoint, run_directory
from training import config as config_lib
from training.config import ConfigError
from training.schema import FinetuneConfig

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

LABELS = ("good", "bad", "neither")
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {**WIDE, "intermediate_size": 48, "max_position_embeddings": 16}
CASES = {
    "Bert": BERT,
    "Roberta": {**BERT, "type_vocab_size": 1},
    "Electra": BERT,
    "ModernBert": {**BERT, "pad_token_id": 0},
    "DistilBert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48},
    "XLMRoberta": {**BERT, "type_vocab_size": 1},
    "Esm": {**BERT, "position_embedding_type": "rotary", "pad_token_id": 0,
            "mask_token_id": 5, "emb_layer_norm_before": False, "token_dropout": False},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "GPTNeoX": {**WIDE, "intermediate_size": 48},
    "Llama": {**WIDE, "intermediate_size": 48},
    "Qwen2": {**WIDE, "num_key_value_heads": 2, "intermediate_size": 48},
    "Gemma": {**WIDE, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48},
    "Gemma2": {**WIDE, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48},
    "Phi3": {**WIDE, "num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0},
    "Starcoder2": {**WIDE, "num_key_value_heads": 2, "intermediate_size": 48},
}  # fmt: skip


def token_logits(run, tokens, mask, options):
    """float32[B, T, C] of every token."""
    native = parity.NativeModel.load(run)
    task = Tagging(**options)
    head = task.head_module(len(LABELS), **dataclasses.asdict(task))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        states = native.hidden(*native.inputs(tokens, mask))
        return head.apply({"params": native.params["heads"]["tagging"]}, states)


@pytest.mark.parametrize("name", CASES)
def test_token_classification(name, tmp_path):
    config_class = getattr(transformers, f"{name}Config")
    config = config_class(
        vocab_size=parity.VOCAB_SIZE, id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)}, **CASES[name],
    )  # fmt: skip
    peer = getattr(transformers, f"{name}ForTokenClassification")(config)
    other, run, back = parity.convert_both_ways(parity.randomize(peer, 0.1), tmp_path)
    again = type(peer).from_pretrained(back, dtype=torch.float32).eval()
    manifest = run_directory.read_manifest(run)
    assert manifest["labels"] == list(LABELS) and manifest["huggingface"]["head"] == "tagging"
    pad = config.pad_token_id or 0
    tokens = np.where(parity.PADDED_MASK > 0, parity.TOKENS, pad).astype(np.int32)
    for model, folder in ((peer, run), (again, other)):
        needs = manifest["huggingface"]["head_needs"]
        logits = token_logits(folder, tokens, parity.PADDED_MASK, needs)
        out = model(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(parity.PADDED_MASK).long(),
        )
        parity.assert_close(logits, out.logits, 1e-4, parity.PADDED_MASK)
    assert again.config.id2label == dict(enumerate(LABELS))
    if name != "Esm":  # saved under the names of older versions
        convert.to_hf(str(run), str(tmp_path / "same"))
        assert open_weights(tmp_path / "source").leaves == open_weights(tmp_path / "same").leaves


TAGS = ("B-X", "I-X", "O")
# preset: (tokenizer type, options of the task)
EXPORTED = {
    "encoder": ("bpe", {}),
    "decoder": ("bpe", {}),
    "bert-tiny": ("wordpiece", {}),
    "modernbert-base": ("bpe", {"pooler": True, "pooler_activation": "gelu", "pooler_norm": True}),
    "gpt2": ("bpe", {}),
}


TEXTS = [f"the cat number {i} sat on the mat and saw {i * 7} dogs run home" for i in range(200)]
SMALL = {"num_layers": 2, "emb_dim": 32, "num_heads": 4, "mlp_dim": 48, "vocab_size": 0,
         "max_length": 32, "init_std": 0.3}  # fmt: skip
SHIPPED = {"encoder": encoder, "decoder": decoder}


def write_tagger(folder, preset, tokenizer_type, options):
    """Writes a run like one of finetune.py; returns (task, ModelConfig, parameters)."""
    tokenizer = tokenizers.train(TEXTS, type=tokenizer_type, vocab_size=400)
    shipped = SHIPPED.get(preset)
    fields = shipped.get_config().model.to_dict() if shipped else models.preset(preset)
    fields = {**fields, **SMALL}
    if preset == "modernbert-base":
        fields |= {"num_layers": 4, "sliding_window": 3}
    config = complete_config(ModelConfig(**fields), tokenizer.size, 32)
    row = models.make_inputs(jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
    params = models.build(config).init(jax.random.key(0), row)["params"]
    task = Tagging(max_seq_len=32, **options)
    head = task.head_module(len(TAGS), **dataclasses.asdict(task))
    head = head.init(jax.random.key(1), jnp.zeros((1, config.emb_dim)))["params"]
    # Zeros and ones, as biases and scales begin, would hide a mistake.
    leaves, tree = jax.tree.flatten({**params, "heads": {"tagging": head}})
    noise = np.random.default_rng(1)
    leaves = [x + noise.normal(0, 0.2, x.shape).astype(np.float32) for x in leaves]
    params = jax.tree.unflatten(tree, leaves)
    output = params["heads"]["tagging"]["output"]
    output["kernel"] -= output["kernel"].mean(0, keepdims=True)  # tags that differ between words
    output["kernel"] *= 3
    folder.mkdir()
    checkpoint.write_params(folder, 0, params)
    tokenizer.save(folder / "tokenizer.json")
    fields = {"seed": {}, "task": {"name": "tagging", **dataclasses.asdict(task)}}
    run_directory.write_config(folder, fields, "finetune", config)
    run_directory.write_manifest(folder, {"seed": {}}, {"labels": list(TAGS)})
    return task, config, params


@pytest.mark.parametrize("name", EXPORTED)
def test_a_tagger_tags_in_a_pipeline_as_it_does_here(name, tmp_path):
    run, directory = tmp_path / "run", tmp_path / "hf"
    task, model_config, params = write_tagger(run, name, *EXPORTED[name])
    convert.to_hf(str(run), str(directory))
    texts = [" ".join(TEXTS[n].split()[: 3 + n]) for n in (3, 4, 5)]

    config = config_lib.resolve(
        FinetuneConfig, {"init_from": "unused", "evaluation": {"batch_size": 2}}
    )
    splits = LabeledSplits({"test": Examples({"words": [t.split() for t in texts]})}, "", TAGS)
    loaded = task.assemble(splits, config, model_config, run / "tokenizer.json", lambda line: None)
    model = models.build(model_config)
    outputs = [
        jax.device_get(loaded.outputs(model, params, jax.tree.map(np.asarray, batch)))
        for batch in loaded.eval_inputs("test")
    ]
    rows = loaded.prediction_rows("test", loaded.collect("test", outputs))
    tagger = transformers.pipeline(
        "token-classification", model=str(directory), aggregation_strategy="none", ignore_labels=[]
    )
    last = model_config.architecture == "decoder"
    seen = set()
    for text, row in zip(texts, rows, strict=True):
        ends = np.cumsum([len(word) + 1 for word in row["words"]]) - 1
        found = {}
        for token in tagger(text):  # a token may begin with the space before its word
            word = int(np.searchsorted(ends, token["end"]))
            is_space = not text[token["start"] : token["end"]].strip()
            if (last or word not in found) and not is_space:
                found[word] = token
        assert [found[n]["entity"] for n in range(len(ends))] == row["predictions"]
        scores = [found[n]["score"] for n in range(len(ends))]
        np.testing.assert_allclose(scores, row["probabilities"], atol=1e-4)
        seen |= set(row["probabilities"])
    assert len(seen) > 5  # words differ


def test_what_prevents_an_export_is_named(tmp_path):
    write_tagger(tmp_path / "run", "bert-tiny", "wordpiece", {"head_bias": False})
    with pytest.raises(ConfigError, match=r"task\.head_bias=False \(expected True\)"):
        convert.to_hf(f"{tmp_path}/run", str(tmp_path / "hf"))
