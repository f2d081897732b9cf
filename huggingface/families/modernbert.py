"""ModernBERT (Warner et al. 2024): a pre-norm encoder with rotary positions and a gated MLP, whose
layers alternate between global and sliding-window attention, each with its own rope theta.
"""

from huggingface.config_mapping import (
    ACTIVATIONS,
    ConfigKey,
    CustomKey,
    FixedKey,
    disagreement,
    equal_keys,
    numerics,
    training,
)
from huggingface.family import TRANSPOSE, VOCAB, Family, ParamMap, dense, norm
from huggingface.rope import TWO_ROPES_FIELDS, read_two_ropes, write_two_ropes

LAYER, HF_LAYER = "encoder/layer_{i}", "model.layers.{i}"
GLOBAL, LOCAL = "full_attention", "sliding_attention"  # layer types
_THETA_KEYS = {GLOBAL: ("global_rope_theta", 160_000.0), LOCAL: ("local_rope_theta", 10_000.0)}


def _joined(native, names, hf):
    """Several of our dense layers, stored as one."""
    kernels, biases = (tuple(f"{native}/{n}/{part}" for n in names) for part in ("kernel", "bias"))
    return [ParamMap(kernels, f"{hf}.weight", TRANSPOSE), ParamMap(biases, f"{hf}.bias")]


def _layer_types(num_layers, every):
    return [LOCAL if i % every else GLOBAL for i in range(num_layers)]


def _read_attention(config):
    num_layers, every = (
        config.get("num_hidden_layers", 22),
        config.get("global_attn_every_n_layers"),
    )
    types = config.get("layer_types") or _layer_types(num_layers, every or 3)
    if every and types != _layer_types(num_layers, every):
        raise ValueError(disagreement({"layer_types": types, "global_attn_every_n_layers": every}))
    every = next((i for i, each in enumerate(types) if i and each == GLOBAL), num_layers + 1)
    if types != _layer_types(num_layers, every):
        raise ValueError(
            f"layer_types={str(types)[:60]} (expected {GLOBAL!r} first and at equal intervals in "
            f"num_hidden_layers={num_layers})"
        )
    rope = read_two_ropes(config, GLOBAL, LOCAL, _THETA_KEYS)
    width = config.get("local_attention")
    half = config.get("sliding_window")  # of transformers: a property, half of local_attention
    if half is not None and width not in (None, 2 * half):
        raise ValueError(disagreement({"local_attention": width, "sliding_window": half}))
    if every == 1:
        return rope | {
            "local_rope_theta": 0.0,
            "sliding_window": 0,
            "global_attn_every_n_layers": 0,
        }
    width = 128 if width is None else width
    window = (width // 2 if half is None else half) + 1  # as many on each side, and the token
    return rope | {"sliding_window": window, "global_attn_every_n_layers": every}


def _write_attention(model):
    window, every = model.sliding_window, model.global_attn_every_n_layers
    if window and not every:
        raise ValueError(
            f"model.global_attn_every_n_layers=0 with sliding_window={window} (expected at least 1)"
        )
    return {
        "global_attn_every_n_layers": every or 1,
        "layer_types": _layer_types(model.num_layers, every or 1),
        "local_attention": 2 * (window - 1) if window else 128,
        **write_two_ropes(model, GLOBAL, LOCAL, _THETA_KEYS),
    }


_ATTENTION = CustomKey(
    (*TWO_ROPES_FIELDS, "sliding_window", "global_attn_every_n_layers"),
    _read_attention,
    _write_attention,
    ("rope_parameters", "global_rope_theta", "local_rope_theta", "layer_types", "local_attention",
     "global_attn_every_n_layers", "sliding_window", "rope_scaling"),
)  # fmt: skip
_DROPOUT = CustomKey(
    ("embedding_dropout_rate",),
    lambda config: {"embedding_dropout_rate": config.get("embedding_dropout", 0.0) or -1.0},
    lambda model: {"embedding_dropout": model.resolved_embedding_dropout_rate},
    ("embedding_dropout",),
)

MODERNBERT = Family(
    model_type="modernbert",
    prefix="model.",
    classes={
        "ModernBertForMaskedLM": "lm",
        "ModernBertForSequenceClassification": "classification",
        "ModernBertForMultipleChoice": "multiple_choice",
        "ModernBertForTokenClassification": "tagging",
        "ModernBertForQuestionAnswering": "question_answering",
        "ModernBertModel": "",
    },
    params=[
        ParamMap("embed/tokens/embedding", "model.embeddings.tok_embeddings.weight", VOCAB),
        *norm("embed/norm", "model.embeddings.norm"),
        *norm(f"{LAYER}/self_attention_norm", f"{HF_LAYER}.attn_norm"),
        *_joined(f"{LAYER}/self_attention", ("query", "key", "value"), f"{HF_LAYER}.attn.Wqkv"),
        *dense(f"{LAYER}/self_attention/out", f"{HF_LAYER}.attn.Wo"),
        *norm(f"{LAYER}/mlp_norm", f"{HF_LAYER}.mlp_norm"),
        *_joined(f"{LAYER}/mlp", ("gate", "in"), f"{HF_LAYER}.mlp.Wi"),
        *dense(f"{LAYER}/mlp/out", f"{HF_LAYER}.mlp.Wo"),
        *norm("encoder/final_norm", "model.final_norm"),
        *dense("heads/lm/transform", "head.dense"),
        *norm("heads/lm/norm", "head.norm"),
        ParamMap("heads/lm/bias", "decoder.bias", VOCAB),
        # transformers' classifier has the model's activation and norm epsilon; ours has these.
        *dense("heads/classification/pooler", "head.dense", activation="gelu"),
        *norm("heads/classification/pooler_norm", "head.norm", norm_epsilon=1e-5),
        *dense("heads/classification/output", "classifier"),
        *dense("heads/multiple_choice/pooler", "head.dense", activation="gelu"),
        *norm("heads/multiple_choice/pooler_norm", "head.norm", norm_epsilon=1e-5),
        *dense("heads/multiple_choice/output", "classifier"),
        *dense("heads/tagging/pooler", "head.dense", activation="gelu"),
        *norm("heads/tagging/pooler_norm", "head.norm", norm_epsilon=1e-5),
        *dense("heads/tagging/output", "classifier"),
        *dense("heads/question_answering/pooler", "head.dense", activation="gelu"),
        *norm("heads/question_answering/pooler_norm", "head.norm", norm_epsilon=1e-5),
        *dense("heads/question_answering/output", "classifier"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 50368),
        ConfigKey("max_position_embeddings", "max_length", 8192),
        ConfigKey("num_hidden_layers", "num_layers", 22),
        ConfigKey("hidden_size", "emb_dim", 768),
        ConfigKey("num_attention_heads", "num_heads", 12),
        ConfigKey("intermediate_size", "mlp_dim", 1152),
        equal_keys(
            ("hidden_activation", "classifier_activation"), "activation", "gelu", ACTIVATIONS
        ),
        equal_keys(
            ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), "use_bias", False
        ),
        ConfigKey("norm_eps", "norm_epsilon", 1e-5),
        ConfigKey("decoder_bias", "lm_head_bias", True),
        _ATTENTION,
        _DROPOUT,
        ConfigKey("attention_dropout", "attention_dropout_rate", 0.0),
        ConfigKey("initializer_range", "init_std", 0.02),
        FixedKey("tie_word_embeddings", True),
    ],
    fixed={
        "architecture": "encoder",
        "positions": "rope",
        "embedding_norm": True,
        "skip_first_prenorm": True,
        "gated_mlp": True,
        "lm_head_transform": True,
    },
    tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    head_needs={
        **dict.fromkeys(
            ("classification", "multiple_choice", "tagging"),
            {"pooler": True, "pooler_activation": "gelu", "pooler_norm": True},
        ),
        "question_answering": {"pooler": True},
    },
    unused={
        **training("mlp_dropout", "initializer_cutoff_factor"),
        **numerics("deterministic_flash_attn", "reference_compile"),
        **dict.fromkeys(
            ("sparse_prediction", "sparse_pred_ignore_index"),
            "which positions have logits in training",
        ),
        **dict.fromkeys(
            ("layer_norm_eps", "position_embedding_type", "gradient_checkpointing"),
            "in published files, and read by no version of transformers",
        ),
    },
    head_dropout_key="classifier_dropout",
    pooling_key=("classifier_pooling", ("cls", "mean")),
)
