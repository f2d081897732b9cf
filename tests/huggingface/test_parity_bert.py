"""BERT of transformers and ours, through the files: states, logits, gradients, the pair head."""

import numpy as np
import parity
import pytest

from huggingface import convert
from objectives.heads import PairHead

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SHAPE = {
    "vocab_size": parity.VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
TOKEN_TYPE_IDS = np.tile(np.arange(parity.LENGTH) >= 5, (parity.ROWS, 1)).astype(np.int32)


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_masked_lm(activation, tmp_path):
    config = transformers.BertConfig(**SHAPE, hidden_act=activation)
    peer = parity.randomize(transformers.BertForMaskedLM(config))
    parity.check_round_trip(peer, tmp_path, token_type_ids=TOKEN_TYPE_IDS)


def test_the_pair_head_is_berts_pooler_and_seq_relationship(tmp_path):
    peer = parity.randomize(transformers.BertForPreTraining(transformers.BertConfig(**SHAPE)))
    peer.save_pretrained(tmp_path / "source")
    parity.write_tokenizer(tmp_path / "source")
    convert.from_hf(str(tmp_path / "source"), str(tmp_path / "run"))
    native = parity.NativeModel.load(tmp_path / "run")
    inputs = native.inputs(parity.TOKENS, parity.PADDED_MASK, token_type_ids=TOKEN_TYPE_IDS)
    variables = {"params": native.params["heads"]["pair"]}
    logits = PairHead(native.config).apply(variables, native.hidden(*inputs)[:, 0])
    out = peer(
        input_ids=torch.from_numpy(parity.TOKENS).long(),
        attention_mask=torch.from_numpy(parity.PADDED_MASK).long(),
        token_type_ids=torch.from_numpy(TOKEN_TYPE_IDS).long(),
    )
    parity.assert_close(logits, out.seq_relationship_logits, 1e-4)
