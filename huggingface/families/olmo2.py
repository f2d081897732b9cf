"""OLMo 2 (OLMo Team 2024): Llama's layers with norms on each sublayer's output, and normalized queries
and keys, all heads together. model_type "olmo2".
"""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, FixedKey
from huggingface.families import llama
from huggingface.family import LAST_TOKEN_HEAD, Family, norm
from huggingface.rope import rope_key


def _kv_heads(config):
    return config.get("num_attention_heads", 32)


OLMO2 = Family(
    model_type="olmo2",
    prefix="model.",
    classes={
        "Olmo2ForCausalLM": "lm",
        "Olmo2ForSequenceClassification": "classification",
        "Olmo2Model": "",
    },
    params=[
        *(each for each in llama.PARAMS if "layernorm" not in each.hf),
        *norm(f"{llama.LAYER}/self_attention_norm", f"{llama.HF_LAYER}.post_attention_layernorm"),
        *norm(f"{llama.LAYER}/mlp_norm", f"{llama.HF_LAYER}.post_feedforward_layernorm"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 50304),
        ConfigKey("max_position_embeddings", "max_length", 2048),
        ConfigKey("num_hidden_layers", "num_layers", 32),
        ConfigKey("hidden_size", "emb_dim", 4096),
        ConfigKey("num_attention_heads", "num_heads", 32),
        ConfigKey("num_key_value_heads", "num_kv_heads", _kv_heads),
        ConfigKey("intermediate_size", "mlp_dim", 11008),
        ConfigKey("hidden_act", "activation", "silu", ACTIVATIONS),
        ConfigKey("rms_norm_eps", "norm_epsilon", 1e-5),
        rope_key(),
        ConfigKey("tie_word_embeddings", "tie_word_embeddings", False),
        ConfigKey("attention_dropout", "attention_dropout_rate", 0.0),
        ConfigKey("initializer_range", "init_std", 0.02),
        FixedKey("attention_bias", False),
    ],
    fixed={
        "architecture": "decoder",
        "positions": "rope",
        "norm": "rmsnorm",
        "norm_position": "output",
        "gated_mlp": True,
        "use_bias": False,
        "qk_norm": True,
        "qk_norm_over_heads": True,
    },
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    head_needs={"classification": LAST_TOKEN_HEAD},
)
