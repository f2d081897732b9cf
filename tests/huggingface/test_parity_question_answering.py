"""Question answering heads of transformers and ours, through the files: start and end logits.

transformers 5 has no pipeline("question-answering"); AutoModelForQuestionAnswering with AutoTokenizer reads
an export, and finds the answer that we predict.
"""

import json

import jax
import numpy as np
import parity
import pytest
import tiny_configs
from parity import BART, ENCODER

import finetune
import train
from huggingface import convert
from tasks.question_answering import QuestionAnswering
from training import run_directory

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

LLAMA = {**ENCODER, "num_key_value_heads": 2, "pad_token_id": 0}
T5 = {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_kv": 8, "d_ff": 48}
CASES = {
    "Bert": ENCODER,
    "Roberta": {**ENCODER, "type_vocab_size": 1},
    "XLMRoberta": {**ENCODER, "type_vocab_size": 1, "pad_token_id": 1},
    "Electra": ENCODER,
    "ModernBert": {**ENCODER, "pad_token_id": 0, "classifier_pooling": "mean"},
    "DistilBert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48},
    "Bart": BART,
    "T5": {**T5, "decoder_start_token_id": 0},
    "MT5": {**T5, "decoder_start_token_id": 0},
    "GPT2": {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 16},
    "GPTNeoX": ENCODER,
    "Llama": LLAMA,
    "Mistral": LLAMA,
    "Qwen2": LLAMA,
    "Qwen3": {**LLAMA, "head_dim": 8},
}


@pytest.mark.parametrize("name", CASES)
def test_question_answering(name, tmp_path):
    config = getattr(transformers, f"{name}Config")(vocab_size=parity.VOCAB_SIZE, **CASES[name])
    peer = getattr(transformers, f"{name}ForQuestionAnswering")(config)
    other, run, back = parity.convert_both_ways(parity.randomize(peer), tmp_path)
    again, problems = type(peer).from_pretrained(
        back, output_loading_info=True, dtype=torch.float32
    )
    assert not any(problems.values()), problems
    manifest = run_directory.read_manifest(run)
    assert manifest["labels"] == ["start", "end"]
    head = QuestionAnswering.head_module(2, **manifest["huggingface"]["head_needs"])
    tokens, mask = parity.TOKENS, parity.PADDED_MASK
    tokens = np.where(mask > 0, tokens, config.pad_token_id or 0).astype(np.int32)
    for model, folder in ((peer, run), (again.eval(), other)):
        native = parity.NativeModel.load(folder)
        hidden = native.hidden(
            *native.inputs(tokens, mask, tokens if native.is_encoder_decoder else None)
        )
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            params = native.params["heads"]["question_answering"]
            logits = head.apply({"params": params}, hidden)
        out = model(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(mask).long(),
        )
        for i, expected in enumerate((out.start_logits, out.end_logits)):
            parity.assert_close(logits[..., i], expected, 1e-4, mask)


GPT2 = {"model__vocab_size": 0, "model__max_length": 128}
RUNS = {  # architecture: (config file, its overrides, options of the task that its family needs)
    "encoder": ("configs/encoder.py:recipe=modernbert", {}, {"task__pooler": True}),
    "decoder": ("configs/decoder.py:preset=gpt2", GPT2, {}),
    "encoder_decoder": ("configs/encoder_decoder.py:recipe=t5", {}, {}),
}


@pytest.mark.parametrize("architecture", RUNS)
def test_a_finetuned_run_is_exported_and_gives_the_same_answers(architecture, tmp_path, caplog):
    """A start and an end logit for every token, and so the same best span, from the text on."""
    file, fields, options = RUNS[architecture]
    train.run(tiny_configs.pretraining(tmp_path, file, **fields), str(tmp_path / "source"))
    config = tiny_configs.finetuning(
        tmp_path, tmp_path / "source", "configs/finetune/question_answering.py:squad_v2",
        optimizer__learning_rate=0.1, task__max_seq_len=128, task__max_query_len=40,
        **options,
    )  # fmt: skip
    finetune.run(config, str(tmp_path / "task"))
    convert.to_hf(str(tmp_path / "task"), str(tmp_path / "hf"))
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    rows = [
        json.loads(line) for line in (tmp_path / "task/nbest_test.jsonl").read_text().splitlines()
    ]
    for row, paragraph in zip(rows[:8], _paragraphs(tmp_path / "test-v2.0.json"), strict=False):
        context = paragraph["context"]
        encoded = tokenizer(row["question"], context, return_tensors="pt")
        with torch.no_grad():
            out = model(**encoded)
        inside = [i for i, part in enumerate(encoded.sequence_ids()) if part == 1]
        spans = [
            (float(out.start_logits[0, i] + out.end_logits[0, j]), context[a:b].strip())
            for i in inside
            for j in inside[inside.index(i) :][:30]
            for a, b in [(encoded.token_to_chars(i).start, encoded.token_to_chars(j).end)]
        ]
        null = -1 if architecture == "decoder" else 0
        score, text = max(spans)
        null_odds = float(out.start_logits[0, null] + out.end_logits[0, null]) - score
        assert text == next(each["text"] for each in row["nbest"] if each["text"])
        np.testing.assert_allclose(null_odds, row["null_odds"], atol=1e-3)
        assert row["prediction"] == ("" if null_odds > 0 else text)
    if architecture == "encoder":
        config.init_from, caplog.records[:] = str(tmp_path / "hf"), []
        with caplog.at_level("INFO", "triptych"):
            finetune.run(config, str(tmp_path / "again"))
        assert "head kept: same task and labels" in caplog.text


def _paragraphs(file):
    return json.loads(file.read_text())["data"][0]["paragraphs"]
