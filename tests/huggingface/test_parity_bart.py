"""BART of transformers and ours, through the files: states, logits, gradients, greedy continuation."""

import parity
import pytest

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SHAPE = {
    "vocab_size": parity.VOCAB_SIZE,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 16,
    "forced_eos_token_id": None,
}


def test_conditional_generation(tmp_path):
    config = transformers.BartConfig(**SHAPE)
    peer = parity.randomize(transformers.BartForConditionalGeneration(config))
    parity.check_round_trip(peer, tmp_path, generate=True)
