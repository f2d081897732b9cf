"""GPT-2 of transformers and ours, through the files: states, logits, gradients, greedy continuation."""

import parity
import pytest

_, transformers = parity.peers()

pytestmark = pytest.mark.parity

SHAPE = {
    "vocab_size": parity.VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16,
    "bos_token_id": 4, "eos_token_id": 4, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{"n_inner": 48}, {"tie_word_embeddings": False}], ids=str)
def test_causal_lm(changes, tmp_path):
    config = transformers.GPT2Config(**SHAPE, **changes)
    peer = parity.randomize(transformers.GPT2LMHeadModel(config))
    parity.check_round_trip(peer, tmp_path, generate=True)
