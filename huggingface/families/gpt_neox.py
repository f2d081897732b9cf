"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023): attention and MLP side by side, and RoPE
in a part of each head. Query, key and value are one tensor, head by head. model_type "gpt_neox".
"""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, FixedKey, training
from huggingface.family import (
    LAST_TOKEN_HEAD,
    TOKEN_HEAD,
    VOCAB,
    VOCAB_TRANSPOSE,
    ArrayTransform,
    Family,
    ParamMap,
    dense,
    norm,
)
from huggingface.rope import rope_key

LAYER, HF_LAYER = "decoder/layer_{i}", "gpt_neox.layers.{i}"
ATTENTION, HF_ATTENTION = f"{LAYER}/self_attention", f"{HF_LAYER}.attention"
KERNELS, BIASES = (
    tuple(f"{ATTENTION}/{name}/{part}" for name in ("query", "key", "value"))
    for part in ("kernel", "bias")
)

GPT_NEOX = Family(
    model_type="gpt_neox",
    prefix="gpt_neox.",
    classes={
        "GPTNeoXForCausalLM": "lm",
        "GPTNeoXForSequenceClassification": "classification",
        "GPTNeoXForTokenClassification": "tagging",
        "GPTNeoXForQuestionAnswering": "question_answering",
        "GPTNeoXModel": "",
    },
    params=[
        ParamMap("embed/tokens/embedding", "gpt_neox.embed_in.weight", VOCAB),
        *norm(f"{LAYER}/self_attention_norm", f"{HF_LAYER}.input_layernorm"),
        ParamMap(
            KERNELS, f"{HF_ATTENTION}.query_key_value.weight",
            ArrayTransform(transpose=True, by_head=True),
        ),
        ParamMap(BIASES, f"{HF_ATTENTION}.query_key_value.bias", ArrayTransform(by_head=True)),
        *dense(f"{ATTENTION}/out", f"{HF_ATTENTION}.dense"),
        *norm(f"{LAYER}/mlp_norm", f"{HF_LAYER}.post_attention_layernorm"),
        *dense(f"{LAYER}/mlp/in", f"{HF_LAYER}.mlp.dense_h_to_4h"),
        *dense(f"{LAYER}/mlp/out", f"{HF_LAYER}.mlp.dense_4h_to_h"),
        *norm("decoder/final_norm", "gpt_neox.final_layer_norm"),
        ParamMap("heads/lm/kernel", "embed_out.weight", VOCAB_TRANSPOSE),
        *dense("heads/classification/output", "score"),
        *dense("heads/tagging/output", "classifier"),
        *dense("heads/question_answering/output", "qa_outputs"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 50432),
        ConfigKey("max_position_embeddings", "max_length", 2048),
        ConfigKey("num_hidden_layers", "num_layers", 44),
        ConfigKey("hidden_size", "emb_dim", 6144),
        ConfigKey("num_attention_heads", "num_heads", 64),
        ConfigKey("intermediate_size", "mlp_dim", 24576),
        ConfigKey("hidden_act", "activation", "gelu", ACTIVATIONS),
        ConfigKey("layer_norm_eps", "norm_epsilon", 1e-5),
        ConfigKey("use_parallel_residual", "parallel_residual", True),
        rope_key(theta_key="rotary_emb_base", fraction=0.25, fraction_key="rotary_pct", has_fraction=True),
        ConfigKey("tie_word_embeddings", "tie_word_embeddings", False),
        ConfigKey("hidden_dropout", "dropout_rate", 0.0),
        ConfigKey("attention_dropout", "attention_dropout_rate", 0.0),
        ConfigKey("initializer_range", "init_std", 0.02),
        FixedKey("attention_bias", True),
        FixedKey("is_decoder", False),
    ],
    fixed={"architecture": "decoder", "positions": "rope"},
    tied={"embed_out.weight": "gpt_neox.embed_in.weight"},
    legacy_suffixes=(("lm_head.weight", "embed_out.weight"),),
    ignored=(r".*\.attention\.(masked_)?bias",),
    unused=training("classifier_dropout"),
    head_needs={
        "classification": LAST_TOKEN_HEAD,
        "tagging": TOKEN_HEAD,
        "question_answering": {"pooler": False},
    },
)  # fmt: skip
