"""Llama, Mistral, Qwen2 and Qwen3 there and here, through the files: states, logits, gradients, what
they go on with.
"""

import parity
import pytest

_, transformers = parity.peers()

pytestmark = pytest.mark.parity

NETWORKS = {
    "Llama": {},
    "Llama, tied, one key head, a base of its own": {
        "tie_word_embeddings": True,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "Mistral, a window": {"sliding_window": 4},
    "Mistral": {"sliding_window": None},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 16},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_causal_lm(name, tmp_path):
    kind = name.partition(",")[0]
    shape = {
        "vocab_size": parity.VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
        "bos_token_id": None,
        "eos_token_id": 4,
        "pad_token_id": 0,
    }
    config = getattr(transformers, f"{kind}Config")(**{**shape, **NETWORKS[name]})
    network = getattr(transformers, f"{kind}ForCausalLM")
    config._attn_implementation = "eager"
    peer = parity.randomised(network(config))
    parity.converse(peer, tmp_path, generate=True)
