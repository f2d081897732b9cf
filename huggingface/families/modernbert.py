"""ModernBERT (Warner et al. 2024): a pre-norm encoder with rotary positions and a gated MLP, whose
layers see everything or a window in turn, each kind by a rotary base of its own.
"""

from huggingface.family import (
    ACTIVATIONS,
    PIECES,
    TRANSPOSED,
    Family,
    Key,
    Line,
    Only,
    Rule,
    dense,
    norm,
    together,
)  # fmt: skip

LAYER, THEIRS = "encoder/layer_{i}", "model.layers.{i}"
_KINDS = ("full_attention", "sliding_attention")
_BASES = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}


def _joined(ours, theirs):
    """One dense layer there, several here, side by side."""
    return [
        Line(tuple(f"{name}/kernel" for name in ours), f"{theirs}.weight", TRANSPOSED),
        Line(tuple(f"{name}/bias" for name in ours), f"{theirs}.bias"),
    ]


def _kinds(layers, every):
    return [_KINDS[bool(i % every)] for i in range(layers)]


def _read_layers(config):
    """Which layers see a window, how wide it is, and the rotary base of either kind."""
    layers = config.get("num_hidden_layers", 22)
    every = config.get("global_attn_every_n_layers") or 3
    given = config.get("layer_types") or _kinds(layers, every)
    every = next((i for i, kind in enumerate(given) if i and kind == _KINDS[0]), layers + 1)
    if given != _kinds(layers, every):
        raise ValueError(
            f"layer_types={given!r} (expected {_KINDS[0]!r} first and at equal distances)"
        )
    bases = {}
    for kind, key in zip(_KINDS, ("global_rope_theta", "local_rope_theta"), strict=True):
        rope = (config.get("rope_parameters") or {}).get(kind) or {}
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters={config['rope_parameters']!r} (expected 'default')")
        bases[kind] = float(rope.get("rope_theta") or config.get(key) or _BASES[kind])
    found = {
        "rotary_base": bases[_KINDS[0]],
        "window": 0,
        "global_every": 0,
        "local_rotary_base": 0.0,
    }
    if every == 1:
        return found
    window = config.get("local_attention", 128) // 2 + 1  # as many on either side, and itself
    local = bases[_KINDS[1]]
    return found | {"window": window, "global_every": every, "local_rotary_base": local}


def _write_layers(model):
    if model.window and not model.global_every:
        raise ValueError(f"model.global_every=0 with window={model.window} (expected at least 1)")
    every = model.global_every or 1
    local = model.local_rotary_base or model.rotary_base
    bases = dict(zip(_KINDS, (model.rotary_base, local), strict=True))
    return {
        "global_attn_every_n_layers": every,
        "layer_types": _kinds(model.layers, every),
        "local_attention": 2 * (model.window - 1) if model.window else 128,
        "global_rope_theta": model.rotary_base,
        "local_rope_theta": local,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()
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
    lines=[
        Line("embed/tokens/embedding", "model.embeddings.tok_embeddings.weight", PIECES),
        *norm("embed/norm", "model.embeddings.norm"),
        *norm(f"{LAYER}/self_attention_norm", f"{THEIRS}.attn_norm"),
        *_joined([f"{LAYER}/self_attention/{name}" for name in ("query", "key", "value")],
                 f"{THEIRS}.attn.Wqkv"),
        *dense(f"{LAYER}/self_attention/out", f"{THEIRS}.attn.Wo"),
        *norm(f"{LAYER}/mlp_norm", f"{THEIRS}.mlp_norm"),
        *_joined([f"{LAYER}/mlp/gate", f"{LAYER}/mlp/in"], f"{THEIRS}.mlp.Wi"),
        *dense(f"{LAYER}/mlp/out", f"{THEIRS}.mlp.Wo"),
        *norm("encoder/final_norm", "model.final_norm"),
        # heads
        *dense("heads/lm/transform", "head.dense"),
        *norm("heads/lm/norm", "head.norm"),
        Line("heads/lm/bias", "decoder.bias", PIECES),
        # A classifier's activation and norm are the network's there, and these here.
        Line("heads/classification/pooler/kernel", "head.dense.weight", TRANSPOSED,
             {"activation": "gelu"}),
        Line("heads/classification/pooler_norm/scale", "head.norm.weight",
             where={"norm_epsilon": 1e-5}),
        *dense("heads/classification/output", "classifier"),
    ],
    keys=[
        Key("vocab_size", "vocab_size", 50368),
        Key("max_position_embeddings", "max_length", 8192),
        Key("num_hidden_layers", "layers", 22),
        Key("hidden_size", "width", 768),
        Key("num_attention_heads", "heads", 12),
        Key("intermediate_size", "mlp_size", 1152),
        together(("hidden_activation", "classifier_activation"), "activation", "gelu", ACTIVATIONS),
        together(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), "biases", False),
        Key("norm_eps", "norm_epsilon", 1e-5),
        Key("decoder_bias", "output_bias", True),
        Rule(("rotary_base", "window", "global_every", "local_rotary_base"),
             _read_layers, _write_layers),
        Key("embedding_dropout", "dropout", 0.0),
        Key("attention_dropout", "attention_dropout", 0.0),
        Key("initializer_range", "init_std", 0.02),
        Only("tie_word_embeddings", True),
    ],
    fixed={
        "architecture": "encoder",
        "positions": "rotary",
        "embedding_norm": True,
        "first_norm": False,
        "gated": True,
        "readout_transform": True,
    },
    copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    needs={"classification": {"pooler": True, "pooler_activation": "gelu", "pooler_norm": True}},
    readings=("classifier_pooling", {"cls": "state", "mean": "mean"}),
)  # fmt: skip
