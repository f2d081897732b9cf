"""Llama (Touvron et al. 2023) and decoders of its shape: Mistral (a window), Qwen2 (biases of query,
key and value), Qwen3 (normalised queries and keys). One table of tensors, four model_types.
"""

from huggingface.family import ACTIVATIONS, OUTPUT, PIECES, Family, Key, Line, Only, dense, norm

LAYER, THEIRS = "decoder/layer_{i}", "model.layers.{i}"

LINES = [
    Line("embed/tokens/embedding", "model.embed_tokens.weight", PIECES),
    *norm(f"{LAYER}/self_attention_norm", f"{THEIRS}.input_layernorm"),
    *dense(f"{LAYER}/self_attention/query", f"{THEIRS}.self_attn.q_proj"),
    *dense(f"{LAYER}/self_attention/key", f"{THEIRS}.self_attn.k_proj"),
    *dense(f"{LAYER}/self_attention/value", f"{THEIRS}.self_attn.v_proj"),
    *norm(f"{LAYER}/self_attention/query_norm", f"{THEIRS}.self_attn.q_norm"),
    *norm(f"{LAYER}/self_attention/key_norm", f"{THEIRS}.self_attn.k_norm"),
    *dense(f"{LAYER}/self_attention/out", f"{THEIRS}.self_attn.o_proj"),
    *norm(f"{LAYER}/mlp_norm", f"{THEIRS}.post_attention_layernorm"),
    *dense(f"{LAYER}/mlp/gate", f"{THEIRS}.mlp.gate_proj"),
    *dense(f"{LAYER}/mlp/in", f"{THEIRS}.mlp.up_proj"),
    *dense(f"{LAYER}/mlp/out", f"{THEIRS}.mlp.down_proj"),
    *norm("decoder/final_norm", "model.norm"),
    # heads
    Line("heads/lm/kernel", "lm_head.weight", OUTPUT),
    *dense("heads/classification/output", "score"),
]
ROTARY_BASE = ("rope_parameters.rope_theta", "rope_theta")  # of transformers 5 and before


def family(
    model_type, name, *keys, vocab_size, mlp_size, kv_heads=32, head_size=0, length, **fixed
):
    """The Family of a model_type; the numbers are its defaults, 0 those of plain attention."""

    def usual_head(config):
        return config.get("hidden_size", 4096) // config.get("num_attention_heads", 32)

    def usual_groups(config):
        there = "num_key_value_heads" in config  # null: as many as query heads
        return config.get("num_attention_heads", 32) if there or not kv_heads else kv_heads

    return Family(
        model_type=model_type,
        prefix="model.",
        classes={
            f"{name}ForCausalLM": "lm",
            f"{name}ForSequenceClassification": "classification",
            f"{name}Model": "",
        },
        lines=LINES,
        keys=[
            Key("vocab_size", "vocab_size", vocab_size),
            Key("max_position_embeddings", "max_length", length),
            Key("num_hidden_layers", "layers", 32),
            Key("hidden_size", "width", 4096),
            Key("num_attention_heads", "heads", 32),
            Key("num_key_value_heads", "kv_heads", usual_groups),
            Key("head_dim", "head_size", head_size or usual_head),
            Key("intermediate_size", "mlp_size", mlp_size),
            Key("hidden_act", "activation", "silu", ACTIVATIONS),
            Key("rms_norm_eps", "norm_epsilon", 1e-6),
            Key(ROTARY_BASE, "rotary_base", 10_000.0),
            Key("tie_word_embeddings", "tied_embeddings", False),
            Key("attention_dropout", "attention_dropout", 0.0),
            Key("initializer_range", "init_std", 0.02),
            Only("rope_parameters.rope_type", "default"),
            Only("rope_scaling", None),
            *keys,
        ],
        fixed={
            "architecture": "decoder",
            "positions": "rotary",
            "norm": "rmsnorm",
            "gated": True,
            "biases": False,
            **fixed,
        },
        copies={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=(r".*\.rotary_emb\.inv_freq",),
        needs={"classification": {"pooler": False, "head_bias": False, "reading": "state"}},
    )


NO_WINDOW = Only("use_sliding_window", False)
NO_BIASES = Only("attention_bias", False)

LLAMA = family(
    "llama", "Llama", NO_BIASES, Only("mlp_bias", False),
    vocab_size=32000, mlp_size=11008, kv_heads=0, length=2048,
)  # fmt: skip
MISTRAL = family(
    "mistral", "Mistral", Key("sliding_window", "window", 4096, null=0),
    vocab_size=32000, mlp_size=14336, kv_heads=8, length=131072,
)  # fmt: skip
QWEN2 = family(
    "qwen2", "Qwen2", NO_WINDOW,
    vocab_size=151936, mlp_size=22016, length=32768, query_key_value_biases=True,
)  # fmt: skip
QWEN3 = family(
    "qwen3", "Qwen3", NO_WINDOW, NO_BIASES,
    vocab_size=151936, mlp_size=22016, head_size=128, length=32768, qk_norm=True,
)  # fmt: skip
