"""StarCoder2 (Lozhkov et al. 2024): GPT-2's layers with RoPE. model_type "starcoder2"."""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, FixedKey, dropout_keys
from huggingface.family import (
    LAST_TOKEN_HEAD,
    TOKEN_HEAD,
    VOCAB,
    VOCAB_TRANSPOSE,
    Family,
    ParamMap,
    attention,
    dense,
    norm,
)
from huggingface.rope import rope_key

LAYER, HF_LAYER = "decoder/layer_{i}", "model.layers.{i}"
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", **ACTIVATIONS}  # the first spelling is written

STARCODER2 = Family(
    model_type="starcoder2",
    prefix="model.",
    classes={
        "Starcoder2ForCausalLM": "lm",
        "Starcoder2ForSequenceClassification": "classification",
        "Starcoder2ForTokenClassification": "tagging",
        "Starcoder2Model": "",
    },
    params=[
        ParamMap("embed/tokens/embedding", "model.embed_tokens.weight", VOCAB),
        *norm(f"{LAYER}/self_attention_norm", f"{HF_LAYER}.input_layernorm"),
        *attention(
            f"{LAYER}/self_attention", f"{HF_LAYER}.self_attn",
            "q_proj", "k_proj", "v_proj", "o_proj",
        ),
        *norm(f"{LAYER}/mlp_norm", f"{HF_LAYER}.post_attention_layernorm"),
        *dense(f"{LAYER}/mlp/in", f"{HF_LAYER}.mlp.c_fc"),
        *dense(f"{LAYER}/mlp/out", f"{HF_LAYER}.mlp.c_proj"),
        *norm("decoder/final_norm", "model.norm"),
        ParamMap("heads/lm/kernel", "lm_head.weight", VOCAB_TRANSPOSE),
        *dense("heads/classification/output", "score"),
        *dense("heads/tagging/output", "score"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 49152),
        ConfigKey("max_position_embeddings", "max_length", 4096),
        ConfigKey("num_hidden_layers", "num_layers", 30),
        ConfigKey("hidden_size", "emb_dim", 3072),
        ConfigKey("num_attention_heads", "num_heads", 24),
        ConfigKey("num_key_value_heads", "num_kv_heads", 2),
        ConfigKey("intermediate_size", "mlp_dim", 12288),
        ConfigKey("hidden_act", "activation", "gelu_pytorch_tanh", _ACTIVATIONS),
        ConfigKey("norm_epsilon", "norm_epsilon", 1e-5),
        rope_key(),
        ConfigKey("sliding_window", "sliding_window", 0, null=0),
        ConfigKey("tie_word_embeddings", "tie_word_embeddings", True),
        dropout_keys("residual_dropout", "embedding_dropout", 0.0),
        ConfigKey("attention_dropout", "attention_dropout_rate", 0.0),
        ConfigKey("initializer_range", "init_std", 0.018042),
        FixedKey("use_bias", True),
    ],
    fixed={"architecture": "decoder", "positions": "rope"},
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=(r".*\.rotary_emb\.inv_freq",),
    head_needs={
        "classification": LAST_TOKEN_HEAD,
        "tagging": TOKEN_HEAD,
    },
)  # fmt: skip
