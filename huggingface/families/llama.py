"""Llama (Touvron et al. 2023) and decoders with its layers: Mistral (a sliding window), Qwen2 (biases
of query, key and value), Qwen3 (normalized queries and keys). One table of tensors, four model_types.
"""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, CustomKey, FixedKey
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
ATTENTION, HF_ATTENTION = f"{LAYER}/self_attention", f"{HF_LAYER}.self_attn"

PARAMS = [
    ParamMap("embed/tokens/embedding", "model.embed_tokens.weight", VOCAB),
    *norm(f"{LAYER}/self_attention_norm", f"{HF_LAYER}.input_layernorm"),
    *attention(ATTENTION, HF_ATTENTION, "q_proj", "k_proj", "v_proj", "o_proj"),
    *norm(f"{ATTENTION}/query_norm", f"{HF_ATTENTION}.q_norm"),
    *norm(f"{ATTENTION}/key_norm", f"{HF_ATTENTION}.k_norm"),
    *norm(f"{LAYER}/mlp_norm", f"{HF_LAYER}.post_attention_layernorm"),
    *dense(f"{LAYER}/mlp/gate", f"{HF_LAYER}.mlp.gate_proj"),
    *dense(f"{LAYER}/mlp/in", f"{HF_LAYER}.mlp.up_proj"),
    *dense(f"{LAYER}/mlp/out", f"{HF_LAYER}.mlp.down_proj"),
    *norm("decoder/final_norm", "model.norm"),
    ParamMap("heads/lm/kernel", "lm_head.weight", VOCAB_TRANSPOSE),
    *dense("heads/classification/output", "score"),
    *dense("heads/tagging/output", "score"),
    *dense("heads/question_answering/output", "qa_outputs"),
]


FIXED = {
    "architecture": "decoder",
    "positions": "rope",
    "norm": "rmsnorm",
    "gated_mlp": True,
    "use_bias": False,
}


def _family(
    model_type, name, *keys, vocab_size, mlp_dim, max_length, num_kv_heads=32, head_dim=0,
    unused=None, **fixed,
):  # fmt: skip
    """The Family of a model_type. The numbers are defaults of its config; num_kv_heads=0: as many as
    query heads; head_dim=0: hidden_size divided by the query heads."""

    def default_head_dim(config):
        return config.get("hidden_size", 4096) // config.get("num_attention_heads", 32)

    def default_kv_heads(config):
        null = "num_key_value_heads" in config  # null: as many as query heads
        return config.get("num_attention_heads", 32) if null or not num_kv_heads else num_kv_heads

    return Family(
        model_type=model_type,
        prefix="model.",
        classes={
            f"{name}ForCausalLM": "lm",
            f"{name}ForSequenceClassification": "classification",
            f"{name}ForTokenClassification": "tagging",
            f"{name}ForQuestionAnswering": "question_answering",
            f"{name}Model": "",
        },
        # transformers keeps an older name there, but for Mistral.
        class_prefixes={} if name == "Mistral" else {f"{name}ForQuestionAnswering": "transformer."},
        params=PARAMS,
        config_keys=[
            ConfigKey("vocab_size", "vocab_size", vocab_size),
            ConfigKey("max_position_embeddings", "max_length", max_length),
            ConfigKey("num_hidden_layers", "num_layers", 32),
            ConfigKey("hidden_size", "emb_dim", 4096),
            ConfigKey("num_attention_heads", "num_heads", 32),
            ConfigKey("num_key_value_heads", "num_kv_heads", default_kv_heads),
            ConfigKey("head_dim", "head_dim", head_dim or default_head_dim),
            ConfigKey("intermediate_size", "mlp_dim", mlp_dim),
            ConfigKey("hidden_act", "activation", "silu", ACTIVATIONS),
            ConfigKey("rms_norm_eps", "norm_epsilon", 1e-6),
            rope_key(),
            ConfigKey("tie_word_embeddings", "tie_word_embeddings", False),
            ConfigKey("attention_dropout", "attention_dropout_rate", 0.0),
            ConfigKey("initializer_range", "init_std", 0.02),
            *keys,
        ],
        fixed={**FIXED, **fixed},
        tied={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=(r".*\.rotary_emb\.inv_freq",),
        unused=unused or {},
        head_needs={
            "classification": LAST_TOKEN_HEAD,
            "tagging": TOKEN_HEAD,
            "question_answering": {"pooler": False},
        },
    )


NO_BIAS = FixedKey("attention_bias", False)


def _read_window(config):
    """Qwen's window: none, since all layers or none of them must have one here."""
    layers = config.get("num_hidden_layers", 32)
    used, window = config.get("use_sliding_window", False), config.get("sliding_window")
    first, types = config.get("max_window_layers", 28), config.get("layer_types")
    local = "sliding_attention"
    if types is None:
        types = [
            local if used and window and i >= first else "full_attention" for i in range(layers)
        ]
    if types == ["full_attention"] * layers:
        return {"sliding_window": 0}
    if used and types == [local] * layers:
        return {"sliding_window": window}
    raise ValueError(
        f"use_sliding_window={used!r}, max_window_layers={first!r}, layer_types={str(types)[:60]} with "
        f"num_hidden_layers={layers} (expected one kind of layer)"
    )


def _write_window(model):
    kind = "sliding_attention" if model.sliding_window else "full_attention"
    return {
        "use_sliding_window": bool(model.sliding_window),
        "sliding_window": model.sliding_window or None,
        **({"max_window_layers": 0} if model.sliding_window else {}),
        "layer_types": [kind] * model.num_layers,
    }


WINDOW = CustomKey(("sliding_window",), _read_window, _write_window,
                   ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"))  # fmt: skip


LLAMA = _family(
    "llama", "Llama", NO_BIAS, FixedKey("mlp_bias", False),
    vocab_size=32000, mlp_dim=11008, max_length=2048, num_kv_heads=0,
    unused={"pretraining_tp": "how the weights were split in training"},
)  # fmt: skip
MISTRAL = _family(
    "mistral", "Mistral", ConfigKey("sliding_window", "sliding_window", 4096, null=0),
    vocab_size=32000, mlp_dim=14336, max_length=131072, num_kv_heads=8,
)  # fmt: skip
QWEN2 = _family(
    "qwen2", "Qwen2", WINDOW,
    vocab_size=151936, mlp_dim=22016, max_length=32768, use_qkv_bias=True,
)  # fmt: skip
QWEN3 = _family(
    "qwen3", "Qwen3", WINDOW, NO_BIAS,
    vocab_size=151936, mlp_dim=22016, max_length=32768, head_dim=128, qk_norm=True,
)  # fmt: skip
