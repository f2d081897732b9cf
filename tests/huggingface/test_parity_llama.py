"""Llama and decoders with layers like it, of transformers and ours, through the files: states, logits,
gradients, greedy continuation.
"""

import parity
import pytest

_, transformers = parity.peers()

pytestmark = pytest.mark.parity

MODELS = {
    "Llama": {},
    "Llama, tied, one key head, its own theta": {
        "tie_word_embeddings": True,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "Mistral, a window": {"sliding_window": 4},
    "Mistral": {"sliding_window": None},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 16},
    "Starcoder2": {},
    "GPTNeoX": {},
    "GPTNeoX, one after the other, tied": {
        "use_parallel_residual": False,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5},
    },
    "Olmo2": {},
    "Gemma": {"head_dim": 16},
    "Gemma2": {
        "head_dim": 16,
        "num_hidden_layers": 3,
        "sliding_window": 4,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.5,
    },
    "Gemma2, without caps": {
        "head_dim": 16,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "layer_types": ["full_attention"] * 2,
    },
    "Gemma3, capped": {"head_dim": 16, "final_logit_softcapping": 2.5},
    "Gemma3": {
        "head_dim": 16,
        "num_hidden_layers": 3,
        "sliding_window": 4,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "Phi3": {},
    "Phi3, a window": {"sliding_window": 4},
    "Starcoder2, a window, untied": {"sliding_window": 4, "tie_word_embeddings": False},
}


@pytest.mark.parametrize("name", MODELS)
def test_causal_lm(name, tmp_path):
    prefix = name.partition(",")[0]
    shape = {
        "vocab_size": parity.VOCAB_SIZE,
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
    peer_class = getattr(transformers, f"{prefix}ForCausalLM")
    config = peer_class.config_class(**{**shape, **MODELS[name]})
    config._attn_implementation = "eager"
    # scaled embeddings would make rounding visible
    scale = 0.1 if prefix.startswith("Gemma") else 0.3
    parity.check_round_trip(parity.randomize(peer_class(config), scale), tmp_path, generate=True)
