"""BERT there and BERT here, through the files: states, logits, gradients, its heads."""

import numpy as np
import parity
import pytest

from huggingface import convert
from objectives.heads import PairHead

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SHAPE = {
    "vocab_size": parity.VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
TYPES = np.tile(np.arange(parity.LENGTH) >= 5, (parity.ROWS, 1)).astype(np.int32)


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_masked_lm(activation, tmp_path):
    config = transformers.BertConfig(**SHAPE, hidden_act=activation)
    peer = parity.randomised(transformers.BertForMaskedLM(config))
    parity.converse(peer, tmp_path, types=TYPES)


def test_the_pair_head_is_berts_pooler_and_seq_relationship(tmp_path):
    peer = parity.randomised(transformers.BertForPreTraining(transformers.BertConfig(**SHAPE)))
    peer.save_pretrained(tmp_path / "there")
    parity.tokenizer(tmp_path / "there")
    convert.from_hf(str(tmp_path / "there"), str(tmp_path / "run"))
    ours = parity.Ours.of(tmp_path / "run")
    hidden = ours.hidden(*ours.sequences(parity.TOKENS, parity.PADDED, types=TYPES))
    head = PairHead(ours.config).apply({"params": ours.params["heads"]["pair"]}, hidden[:, 0])
    out = peer(
        input_ids=torch.from_numpy(parity.TOKENS).long(),
        attention_mask=torch.from_numpy(parity.PADDED).long(),
        token_type_ids=torch.from_numpy(TYPES).long(),
    )
    parity.close(head, out.seq_relationship_logits, 1e-4)
