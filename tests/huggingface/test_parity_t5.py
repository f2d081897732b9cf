"""T5 v1.0 and v1.1 of transformers and ours, through the files: states, logits, gradients, greedy
continuation.
"""

import parity
import pytest

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.1, tied", "mT5"])
def test_span_corruption(version, tmp_path):
    later = version != "1.0"
    name = "MT5" if version == "mT5" else "T5"
    peer_class = getattr(transformers, f"{name}ForConditionalGeneration")
    config = peer_class.config_class(
        vocab_size=parity.VOCAB_SIZE,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=3 if later else 2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=10,
        feed_forward_proj="gated-gelu" if later else "relu",
        decoder_start_token_id=0,
        pad_token_id=0,
        **({"tie_word_embeddings": False} if later else {}),
    )
    peer = peer_class(config)
    if version == "1.1":  # transformers ties them whatever the config has, until a file differs
        peer.lm_head.weight = torch.nn.Parameter(peer.lm_head.weight.detach().clone())
    # Attention scores are unscaled and gates multiply: larger parameters would make rounding visible.
    parity.check_round_trip(parity.randomize(peer, 0.1), tmp_path, generate=True)
