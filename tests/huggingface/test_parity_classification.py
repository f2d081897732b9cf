"""Classifiers of transformers and ours, through the files: logits of texts of different lengths."""

import numpy as np
import parity
import pytest
from parity import BART, ENCODER

from training import run_directory

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

CASES = {
    "Bert": ENCODER,
    "Roberta": {**ENCODER, "type_vocab_size": 1},
    "Electra": ENCODER,
    "ModernBert": {**ENCODER, "pad_token_id": 0, "classifier_pooling": "mean"},
    "DistilBert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48},
    "Bart": BART,
    "Gemma2": {
        **ENCODER, "num_hidden_layers": 2, "head_dim": 8, "num_key_value_heads": 2, "pad_token_id": 0,
        "sliding_window": 4, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 1.5,
    },
}  # fmt: skip
LABELS = ("good", "bad", "neither")


@pytest.mark.parametrize("name", CASES)
def test_sequence_classification(name, tmp_path):
    config = getattr(transformers, f"{name}Config")(
        vocab_size=parity.VOCAB_SIZE, id2label=dict(enumerate(LABELS)), **CASES[name]
    )
    if name == "Gemma2":
        config._attn_implementation = "eager"  # others ignore the cap of attention scores
    peer = getattr(transformers, f"{name}ForSequenceClassification")(config)
    other, run, back = parity.convert_both_ways(parity.randomize(peer), tmp_path)
    again = type(peer).from_pretrained(
        back, dtype=torch.float32, attn_implementation=peer.config._attn_implementation
    )
    again = again.eval()
    needs = run_directory.read_manifest(run)["huggingface"]["head_needs"]
    lengths = parity.PADDED_MASK.sum(1)
    end = 2 if config.is_encoder_decoder else 3  # ids of </s> and [SEP] in the two tokenizers
    tokens = np.where(np.arange(parity.LENGTH) == lengths[:, None] - 1, end, parity.TOKENS)
    tokens = np.where(parity.PADDED_MASK > 0, tokens, config.pad_token_id).astype(np.int32)
    for model, folder in ((peer, run), (again, other)):
        native = parity.NativeModel.load(folder)
        logits = native.class_logits(
            tokens, lengths, len(LABELS), needs, pad=config.pad_token_id, start=2
        )
        out = model(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(parity.PADDED_MASK).long(),
        )
        parity.assert_close(logits, out.logits, 1e-4)
    assert again.config.id2label == dict(enumerate(LABELS))
