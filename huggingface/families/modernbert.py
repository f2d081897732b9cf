"""ModernBERT (Warner et al. 2024): a pre-norm encoder with rotary positions and a gated MLP, whose
layers alternate between global and sliding-window attention, each with its own rope theta.
"""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, CustomKey, FixedKey, equal_keys
from huggingface.family import TRANSPOSE, VOCAB, Family, ParamMap, dense, norm

LAYER, HF_LAYER = "encoder/layer_{i}", "model.layers.{i}"
GLOBAL, LOCAL = "full_attention", "sliding_attention"  # layer types
_THETA_KEYS = {GLOBAL: ("global_rope_theta", 160_000.0), LOCAL: ("local_rope_theta", 10_000.0)}
_FIELDS = ("rope_theta", "local_rope_theta", "sliding_window", "global_attn_every_n_layers")


def _joined(native, names, hf):
    """Several of our dense layers, stored as one."""
    kernels, biases = (tuple(f"{native}/{n}/{part}" for n in names) for part in ("kernel", "bias"))
    return [ParamMap(kernels, f"{hf}.weight", TRANSPOSE), ParamMap(biases, f"{hf}.bias")]


def _layer_types(num_layers, every):
    return [LOCAL if i % every else GLOBAL for i in range(num_layers)]


def _read_attention(config):
    num_layers = config.get("num_hidden_layers", 22)
    every = config.get("global_attn_every_n_layers") or 3
    types = config.get("layer_types") or _layer_types(num_layers, every)
    every = next((i for i, each in enumerate(types) if i and each == GLOBAL), num_layers + 1)
    if types != _layer_types(num_layers, every):
        raise ValueError(
            f"layer_types={types!r} (expected {GLOBAL!r} first and at equal intervals)"
        )
    theta = {}
    for kind, (key, default) in _THETA_KEYS.items():
        rope = (config.get("rope_parameters") or {}).get(kind) or {}
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters={config['rope_parameters']!r} (expected 'default')")
        theta[kind] = float(rope.get("rope_theta") or config.get(key) or default)
    if every == 1:
        return dict(zip(_FIELDS, (theta[GLOBAL], 0.0, 0, 0), strict=True))
    window = config.get("local_attention", 128) // 2 + 1  # as many on each side, and the token
    return dict(zip(_FIELDS, (theta[GLOBAL], theta[LOCAL], window, every), strict=True))


def _write_attention(model):
    window, every = model.sliding_window, model.global_attn_every_n_layers
    if window and not every:
        raise ValueError(
            f"model.global_attn_every_n_layers=0 with sliding_window={window} (expected at least 1)"
        )
    theta = {GLOBAL: model.rope_theta, LOCAL: model.local_rope_theta or model.rope_theta}
    return {
        "global_attn_every_n_layers": every or 1,
        "layer_types": _layer_types(model.num_layers, every or 1),
        "local_attention": 2 * (window - 1) if window else 128,
        **{key: theta[kind] for kind, (key, _) in _THETA_KEYS.items()},
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": value} for kind, value in theta.items()
        },
    }


MODERNBERT = Family(
    model_type="modernbert",
    prefix="model.",
    classes={
        "ModernBertForMaskedLM": "lm",
        "ModernBertForSequenceClassification": "classification",
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
        CustomKey(_FIELDS, _read_attention, _write_attention),
        ConfigKey("embedding_dropout", "dropout_rate", 0.0),
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
        "classification": {"pooler": True, "pooler_activation": "gelu", "pooler_norm": True}
    },
    pooling_key=("classifier_pooling", ("cls", "mean")),
)
