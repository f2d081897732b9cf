"""Heads of regression, several labels and multiple choice, as transformers loads and computes them."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

import finetune
import models
from data import tokenizer as tokenizers
from huggingface import convert
from models.config import ModelConfig, complete_config
from training import checkpoint, run_directory

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
         "max_position_embeddings": 16, "vocab_size": parity.VOCAB_SIZE}  # fmt: skip
CHOICES = {
    "Bert": SIZES,
    "Roberta": {**SIZES, "type_vocab_size": 1},
    "Electra": SIZES,
    "ModernBert": {**SIZES, "pad_token_id": 0},
    "DistilBert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48, "vocab_size": parity.VOCAB_SIZE},
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_multiple_choice(name, tmp_path):
    """The rows of a batch are the choices of one question, the first of them without padding."""
    config = getattr(transformers, f"{name}Config")(**CHOICES[name])
    peer = parity.randomize(getattr(transformers, f"{name}ForMultipleChoice")(config), 0.1)
    other, run, back = parity.convert_both_ways(peer, tmp_path)
    again = type(peer).from_pretrained(back, dtype=torch.float32).eval()
    needs = run_directory.read_manifest(run)["huggingface"]["head_needs"]
    lengths = parity.PADDED_MASK.sum(1)
    tokens = np.where(parity.PADDED_MASK > 0, parity.TOKENS, config.pad_token_id)
    tokens = tokens.astype(np.int32)
    arguments = {
        "input_ids": torch.from_numpy(tokens).long()[None],
        "attention_mask": torch.from_numpy(parity.PADDED_MASK).long()[None],
    }
    for model, folder in ((peer, run), (again, other)):
        native = parity.NativeModel.load(folder)
        native.params["heads"]["classification"] = native.params["heads"]["multiple_choice"]
        logits = native.class_logits(tokens, lengths, 1, needs, pad=config.pad_token_id)
        parity.assert_close(logits.T, model(**arguments).logits, 1e-4)


# The first words, from which targets are made.
TEXTS = [
    " ".join(f"w{n}" for n in row) for row in np.random.default_rng(0).integers(6, 40, (30, 5))
]
TARGETS = {
    "regression": ({}, lambda first: 1000.0 + 20 * first),
    "multi_label": ({"task.threshold": 0.4}, lambda first: ["odd"] * (first % 2) + ["big"] * (first > 20)),
}  # fmt: skip


def write_source(folder, architecture):
    """A BERT of transformers, or a run of ours that is a GPT-2."""
    if architecture == "encoder":
        peer = transformers.AutoModel.from_config(transformers.BertConfig(**SIZES))
        parity.randomize(peer, 0.2).save_pretrained(folder)
        parity.write_tokenizer(folder)
        return
    tokenizer = tokenizers.train(TEXTS, type="bpe", vocab_size=400)
    fields = models.preset("gpt2") | {"num_layers": 1, "emb_dim": 32, "num_heads": 4, "mlp_dim": 48}
    fields |= {"vocab_size": 0, "max_length": 32, "init_std": 0.3}
    config = complete_config(ModelConfig(**fields), tokenizer.size, 32)
    row = models.make_inputs(jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
    params = models.build(config).init(jax.random.key(0), row, method="init_all")["params"]
    folder.mkdir()
    checkpoint.write_params(folder, 0, params)
    tokenizer.save(folder / "tokenizer.json")
    run_directory.write_config(folder, {"seed": {}}, "pretrain", config)
    identity = {"tokenizer": tokenizer.fingerprint}
    run_directory.write_manifest(folder, {"seed": {}}, identity)


@pytest.mark.parametrize(
    ("task", "architecture"),
    [("regression", "encoder"), ("regression", "decoder"), ("multi_label", "encoder")],
)
def test_a_pipeline_gives_the_predictions_of_a_finetuned_run(task, architecture, tmp_path):
    """The mean 1000 and the standard deviation of the values are folded into the exported head."""
    write_source(tmp_path / "source", architecture)
    options, target = TARGETS[task]
    length = 32 if architecture == "decoder" else 12
    for split, texts in (("train", TEXTS), ("validation", TEXTS[:6])):
        rows = [{"text": text, "label": target(int(text.split()[0][1:]))} for text in texts]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(lines)
    config = {
        "init_from": str(tmp_path / "source"), "evaluation": {"every": "4 steps"},
        "task": {"name": task, "source": f"files:{tmp_path}/*.jsonl", "max_seq_len": length},
        "training": {"duration": "4 steps", "batch_size": 8}, "checkpoint": {"every": "4 steps"},
        "optimizer": {"learning_rate": 1e-2, "warmup": "1 steps"}, "logging": {"tensorboard": False},
    }  # fmt: skip
    config["task"] |= {name.removeprefix("task."): value for name, value in options.items()}
    finetune.run(config, str(tmp_path / "run"))
    with open(tmp_path / "run" / "predictions_validation.tsv", newline="") as stream:
        ours = list(csv.DictReader(stream, delimiter="\t"))

    line = convert.to_hf(str(tmp_path / "run"), str(tmp_path / "hf"))
    assert "ForSequenceClassification" in line
    classify = transformers.pipeline(
        "text-classification", model=str(tmp_path / "hf"), top_k=None, padding=True
    )
    theirs = classify(TEXTS[:6], batch_size=3)
    for mine, found in zip(ours, theirs, strict=True):
        found = {each["label"]: each["score"] for each in found}
        if task == "regression":
            assert found == {"LABEL_0": pytest.approx(float(mine["prediction"]), abs=1e-2)}
        else:
            wanted = {name: pytest.approx(float(mine[f"p({name})"]), abs=1e-4) for name in found}
            assert found == wanted and set(found) == {"big", "odd"}
            predicted = [name for name in ("big", "odd") if found[name] >= 0.4]
            assert json.loads(mine["prediction"]) == predicted
    if task == "regression":
        assert np.ptp([float(mine["prediction"]) for mine in ours]) > 0.3

    # Another run starts from the export: the head there gives values itself, and is kept.
    convert.from_hf(str(tmp_path / "hf"), str(tmp_path / "again"))
    origin = run_directory.read_manifest(tmp_path / "again")["huggingface"]
    assert origin["head"] == task
    assert origin["head_needs"].get("standardize", False) is False
    config |= {"init_from": str(tmp_path / "again"), "task": config["task"] | origin["head_needs"]}
    config["training"] = {"duration": "1 step", "batch_size": 8}
    config["optimizer"] = {"learning_rate": 1e-12, "warmup": "0 steps"}
    config |= {"evaluation": {"every": "1 step"}, "checkpoint": {"every": "1 step"}}
    finetune.run(config, str(tmp_path / "kept"))
    with open(tmp_path / "kept" / "predictions_validation.tsv", newline="") as stream:
        kept = list(csv.DictReader(stream, delimiter="\t"))
    names = ["prediction"] if task == "regression" else ["p(big)", "p(odd)"]
    for mine, found in zip(ours, kept, strict=True):
        for name in names:
            assert float(found[name]) == pytest.approx(float(mine[name]), rel=1e-4, abs=1e-4)
