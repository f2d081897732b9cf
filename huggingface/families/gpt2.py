"""GPT-2 (Radford et al. 2019). model_type "gpt2".
Kernels are [in, out], as ours; query, key and value are one tensor.
"""

from huggingface.config_mapping import (
    ACTIVATIONS,
    ConfigKey,
    FixedKey,
    dropout_keys,
    numerics,
    of_other_classes,
)
from huggingface.family import (
    LAST_TOKEN_HEAD,
    TOKEN_HEAD,
    VOCAB,
    VOCAB_TRANSPOSE,
    Family,
    ParamMap,
    dense,
    norm,
)

LAYER, HF_LAYER = "decoder/layer_{i}", "transformer.h.{i}"
ATTENTION = f"{LAYER}/self_attention"
QUERY_KEY_VALUE = tuple(f"{ATTENTION}/{name}" for name in ("query", "key", "value"))


def conv1d(native, hf):
    """A dense layer, or several that are joined, stored as transformers' Conv1D."""
    names = (native,) if isinstance(native, str) else native
    kernels, biases = (tuple(f"{n}/{part}" for n in names) for part in ("kernel", "bias"))
    return [ParamMap(kernels, f"{hf}.weight"), ParamMap(biases, f"{hf}.bias")]


GPT2 = Family(
    model_type="gpt2",
    prefix="transformer.",
    classes={
        "GPT2LMHeadModel": "lm",
        "GPT2ForSequenceClassification": "classification",
        "GPT2ForTokenClassification": "tagging",
        "GPT2ForQuestionAnswering": "question_answering",
        "GPT2Model": "",
    },
    params=[
        ParamMap("embed/tokens/embedding", "transformer.wte.weight", VOCAB),
        ParamMap("embed/positions/embedding", "transformer.wpe.weight"),
        *norm(f"{LAYER}/self_attention_norm", f"{HF_LAYER}.ln_1"),
        *conv1d(QUERY_KEY_VALUE, f"{HF_LAYER}.attn.c_attn"),
        *conv1d(f"{ATTENTION}/out", f"{HF_LAYER}.attn.c_proj"),
        *norm(f"{LAYER}/mlp_norm", f"{HF_LAYER}.ln_2"),
        *conv1d(f"{LAYER}/mlp/in", f"{HF_LAYER}.mlp.c_fc"),
        *conv1d(f"{LAYER}/mlp/out", f"{HF_LAYER}.mlp.c_proj"),
        *norm("decoder/final_norm", "transformer.ln_f"),
        ParamMap("heads/lm/kernel", "lm_head.weight", VOCAB_TRANSPOSE),
        *dense("heads/classification/output", "score"),
        *dense("heads/tagging/output", "classifier"),
        *dense("heads/question_answering/output", "qa_outputs"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 50257),
        ConfigKey("n_positions", "max_length", 1024),
        ConfigKey("n_layer", "num_layers", 12),
        ConfigKey("n_embd", "emb_dim", 768),
        ConfigKey("n_head", "num_heads", 12),
        ConfigKey("n_inner", "mlp_dim", lambda config: 4 * config.get("n_embd", 768)),
        ConfigKey("activation_function", "activation", "gelu_new", ACTIVATIONS),
        ConfigKey("layer_norm_epsilon", "norm_epsilon", 1e-5),
        ConfigKey("tie_word_embeddings", "tie_word_embeddings", True),
        dropout_keys("resid_pdrop", "embd_pdrop", 0.1),
        ConfigKey("attn_pdrop", "attention_dropout_rate", 0.1),
        ConfigKey("initializer_range", "init_std", 0.02),
        FixedKey("scale_attn_weights", True),
        FixedKey("scale_attn_by_inverse_layer_idx", False),
        FixedKey("add_cross_attention", False),
    ],
    fixed={"architecture": "decoder"},
    tied={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r".*\.attn\.(masked_)?bias",),
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    unused={
        **of_other_classes(
            "summary_type",
            "summary_use_proj",
            "summary_activation",
            "summary_proj_to_labels",
            "summary_first_dropout",
        ),
        **numerics("reorder_and_upcast_attn"),
        "n_ctx": "the older name of n_positions, which transformers no longer reads",
    },
    head_needs={
        "classification": LAST_TOKEN_HEAD,
        "tagging": TOKEN_HEAD,
        "question_answering": {"pooler": False},
    },
)
