"""A classifier there and a task here, through the files: logits of texts of unlike length, both ways."""

import numpy as np
import parity
import pytest

import models
from huggingface import convert
from huggingface.families import FAMILIES
from tasks.classification import Classification, Encoded

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 16,
}
CASES = {
    "Bert": ENCODER,
    "Roberta": {**ENCODER, "type_vocab_size": 1},
    "Electra": ENCODER,
    "ModernBert": {**ENCODER, "pad_token_id": 0, "classifier_pooling": "mean"},
    "DistilBert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48},
    "Bart": BART,
}
LABELS = ("good", "bad", "neither")


@pytest.mark.parametrize("name", CASES)
def test_sequence_classification(name, tmp_path):
    config = getattr(transformers, f"{name}Config")(
        vocab_size=parity.VOCABULARY, id2label=dict(enumerate(LABELS)), **CASES[name]
    )
    peer = getattr(transformers, f"{name}ForSequenceClassification")(config)
    there, run, other, back = (tmp_path / part for part in ("there", "run", "other", "back"))
    parity.randomised(peer).save_pretrained(there)
    parity.tokenizer(there)
    convert.from_hf(str(there), str(run))
    parity.perturbed(run, other)
    convert.to_hf(str(other), str(back))
    again = type(peer).from_pretrained(back, dtype=torch.float32).eval()
    lengths = parity.PADDED.sum(1)
    end = 2 if config.is_encoder_decoder else 3  # </s> of the one tokenizer, [SEP] of the other
    tokens = np.where(np.arange(parity.LENGTH) == lengths[:, None] - 1, end, parity.TOKENS)
    tokens = np.where(parity.PADDED > 0, tokens, config.pad_token_id).astype(np.int32)
    encoded = Encoded(tokens, lengths, np.zeros_like(tokens), np.zeros(len(tokens), np.int32), 0)
    family = FAMILIES[config.model_type]
    for network, ours in ((peer, parity.Ours.of(run)), (again, parity.Ours.of(other))):
        task = Classification(
            ours.config.architecture, len(LABELS), ours.config.width, config.pad_token_id, 2,
            **{"reading": family.reading(config.to_dict())} | family.needs["classification"],
        )  # fmt: skip
        batch = task.batch(encoded, np.arange(len(tokens)))
        logits = task.predictions(models.build(ours.config), ours.params, batch)
        out = network(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(parity.PADDED).long(),
        )
        parity.close(logits, out.logits, 1e-4)
    assert again.config.id2label == dict(enumerate(LABELS))
