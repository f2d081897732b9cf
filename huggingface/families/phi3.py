"""Phi-3 (Abdin et al. 2024): Llama's layers with joined tensors, and RoPE in a part of each head, scaled
by LongRoPE. model_type "phi3".
"""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, dropout_keys
from huggingface.families import llama
from huggingface.family import LAST_TOKEN_HEAD, TOKEN_HEAD, TRANSPOSE, Family, ParamMap
from huggingface.rope import rope_key

QUERY_KEY_VALUE = tuple(f"{llama.ATTENTION}/{name}/kernel" for name in ("query", "key", "value"))
GATE_UP = (f"{llama.LAYER}/mlp/gate/kernel", f"{llama.LAYER}/mlp/in/kernel")


def _kv_heads(config):
    return config.get("num_attention_heads", 32)


PHI3 = Family(
    model_type="phi3",
    prefix="model.",
    classes={
        "Phi3ForCausalLM": "lm",
        "Phi3ForSequenceClassification": "classification",
        "Phi3ForTokenClassification": "tagging",
        "Phi3Model": "",
    },
    params=[
        *(
            each
            for each in llama.PARAMS
            if each.native not in {*QUERY_KEY_VALUE, *GATE_UP}
            and not each.hf.endswith("_proj.bias")
        ),
        ParamMap(QUERY_KEY_VALUE, f"{llama.HF_ATTENTION}.qkv_proj.weight", TRANSPOSE),
        ParamMap(GATE_UP, f"{llama.HF_LAYER}.mlp.gate_up_proj.weight", TRANSPOSE),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 32064),
        ConfigKey("max_position_embeddings", "max_length", 4096),
        ConfigKey("num_hidden_layers", "num_layers", 32),
        ConfigKey("hidden_size", "emb_dim", 3072),
        ConfigKey("num_attention_heads", "num_heads", 32),
        ConfigKey("num_key_value_heads", "num_kv_heads", _kv_heads),
        ConfigKey("intermediate_size", "mlp_dim", 8192),
        ConfigKey("hidden_act", "activation", "silu", ACTIVATIONS),
        ConfigKey("rms_norm_eps", "norm_epsilon", 1e-5),
        rope_key(
            has_fraction=True,
            scalings=("default", "longrope"),
            renamed={"su": "longrope", "yarn": "longrope"},
            original=4096,
        ),
        ConfigKey("sliding_window", "sliding_window", 0, null=0),
        ConfigKey("tie_word_embeddings", "tie_word_embeddings", False),
        dropout_keys("resid_pdrop", "embd_pdrop", 0.0),
        ConfigKey("attention_dropout", "attention_dropout_rate", 0.0),
        ConfigKey("initializer_range", "init_std", 0.02),
    ],
    fixed=llama.FIXED,
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    head_needs={
        "classification": LAST_TOKEN_HEAD,
        "tagging": TOKEN_HEAD,
    },
)
