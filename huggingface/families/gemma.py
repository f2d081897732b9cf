"""Gemma and Gemma 2 (Gemma Team 2024), and the text models of Gemma 3 (2025): Llama's layers with scaled
embeddings and norm scales of 1 + w. Gemma 2 also normalizes each sublayer's output, alternates windows
and caps logits; Gemma 3 normalizes queries and keys, and its windows have a RoPE of their own.
"""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, CustomKey, FixedKey, disagreement
from huggingface.families import llama
from huggingface.family import LAST_TOKEN_HEAD, TOKEN_HEAD, Family, norm
from huggingface.rope import TWO_ROPES_FIELDS, read_two_ropes, rope_key, write_two_ropes

GLOBAL, LOCAL = "full_attention", "sliding_attention"  # layer types
_THETA_KEYS = {GLOBAL: ("rope_theta", 1_000_000.0), LOCAL: ("rope_local_base_freq", 10_000.0)}
# gelu is the tanh approximation in Gemma; the first spelling is written.
_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh", **ACTIVATIONS, "gelu": "gelu_tanh", "gelu_python": "gelu_tanh"
}  # fmt: skip
_EXACT = {"gelu_pytorch_tanh": "gelu_tanh", **ACTIVATIONS}
_FIXED = {
    "architecture": "decoder",
    "positions": "rope",
    "norm": "rmsnorm",
    "norm_scale_offset": True,
    "gated_mlp": True,
    "use_bias": False,
    "scale_embeddings": True,
}
_HEAD = {"classification": LAST_TOKEN_HEAD}


def _keys(vocab_size, emb_dim, layers, heads, kv_heads, mlp_dim, max_length):
    """Keys of both, with their defaults."""
    return [
        ConfigKey("vocab_size", "vocab_size", vocab_size),
        ConfigKey("max_position_embeddings", "max_length", max_length),
        ConfigKey("num_hidden_layers", "num_layers", layers),
        ConfigKey("hidden_size", "emb_dim", emb_dim),
        ConfigKey("num_attention_heads", "num_heads", heads),
        ConfigKey("num_key_value_heads", "num_kv_heads", kv_heads),
        ConfigKey("head_dim", "head_dim", 256),
        ConfigKey("intermediate_size", "mlp_dim", mlp_dim),
        ConfigKey("rms_norm_eps", "norm_epsilon", 1e-6),
        ConfigKey("tie_word_embeddings", "tie_word_embeddings", True),
        ConfigKey("attention_dropout", "attention_dropout_rate", 0.0),
        ConfigKey("initializer_range", "init_std", 0.02),
        FixedKey("attention_bias", False),
    ]


def _layer_types(num_layers, every, first):
    return [GLOBAL if i % every == first else LOCAL for i in range(num_layers)]


def _read_attention(config):
    """Gemma 3: window, kinds of layers, and the RoPE of each kind."""
    layers = config.get("num_hidden_layers", 26)
    pattern = config.get("sliding_window_pattern")
    types = config.get("layer_types") or _layer_types(layers, pattern or 6, (pattern or 6) - 1)
    if pattern and types != _layer_types(layers, pattern, pattern - 1):
        raise ValueError(
            disagreement({"layer_types": types[:9], "sliding_window_pattern": pattern})
        )
    window = _read_windows(config, types)
    one_kind = {} if window["sliding_window"] else {"local_rope_theta": 0.0}
    return read_two_ropes(config, GLOBAL, LOCAL, _THETA_KEYS) | window | one_kind


def _read_windows(config, types):
    """Window and kinds of layers."""
    layers = config.get("num_hidden_layers", 26)
    places = [i for i, each in enumerate(types) if each == GLOBAL] or [layers]
    first, every = places[0], places[1] - places[0] if len(places) > 1 else places[0] + 1
    every = max(every, first + 1)
    if types != _layer_types(layers, every, first):
        raise ValueError(
            f"layer_types={str(types)[:60]} (expected {GLOBAL!r} at equal intervals in "
            f"num_hidden_layers={layers})"
        )
    window = config.get("sliding_window", 4096)
    if every == 1:
        return {"sliding_window": 0, "global_attn_every_n_layers": 0}
    if not window:
        raise ValueError(
            f"sliding_window={window!r} with layer_types={str(types)[:60]} (expected a size)"
        )
    return {
        "sliding_window": window,
        "global_attn_every_n_layers": every,
        "first_global_layer": first,
    }


def _write_attention(model):
    return _write_windows(model) | write_two_ropes(model, GLOBAL, LOCAL, _THETA_KEYS)


def _write_windows(model):
    every, first = model.global_attn_every_n_layers, model.first_global_layer
    if model.sliding_window and not every:
        raise ValueError(
            "model.global_attn_every_n_layers=0 with a sliding_window (expected at least 1)"
        )
    types = _layer_types(model.num_layers, every, first) if every else [GLOBAL] * model.num_layers
    return {
        "layer_types": types,
        **({"sliding_window": model.sliding_window} if every else {}),
    }


def _read_gemma2_windows(config):
    return _read_windows(
        config,
        config.get("layer_types") or _layer_types(config.get("num_hidden_layers", 26), 2, 1),
    )


_WINDOW_FIELDS = ("sliding_window", "global_attn_every_n_layers", "first_global_layer")


def _cap(name, field, default):
    """The key of a soft cap; null: none. 0 would divide by it."""

    def read(config):
        value = config.get(name, default)
        if value is not None and (type(value) not in (int, float) or value <= 0):
            raise ValueError(f"{name}={value!r} (expected a number above 0, or null)")
        return {field: float(value or 0)}

    return CustomKey((field,), read, lambda model: {name: getattr(model, field) or None}, (name,))


_FOUR_NORMS = [
    *(each for each in llama.PARAMS if not each.hf.endswith("post_attention_layernorm.weight")),
    *norm(f"{llama.LAYER}/self_attention_output_norm", f"{llama.HF_LAYER}.post_attention_layernorm"),
    *norm(f"{llama.LAYER}/mlp_norm", f"{llama.HF_LAYER}.pre_feedforward_layernorm"),
    *norm(f"{llama.LAYER}/mlp_output_norm", f"{llama.HF_LAYER}.post_feedforward_layernorm"),
]  # fmt: skip
_SCALE = CustomKey(
    ("attention_scale_dim",),
    lambda config: {"attention_scale_dim": config.get("query_pre_attn_scalar", 256)},
    lambda model: {"query_pre_attn_scalar": model.attention_scale_dim or model.head_dim},
    ("query_pre_attn_scalar",),
)

GEMMA = Family(
    model_type="gemma",
    prefix="model.",
    classes={
        "GemmaForCausalLM": "lm",
        "GemmaForSequenceClassification": "classification",
        "GemmaForTokenClassification": "tagging",
        "GemmaModel": "",
    },
    params=llama.PARAMS,
    config_keys=[
        *_keys(256000, 3072, 28, 16, 16, 24576, 8192),
        ConfigKey("hidden_act", "activation", "gelu_pytorch_tanh", _ACTIVATIONS),
        rope_key(),
        FixedKey("use_bidirectional_attention", None),
    ],
    fixed=_FIXED,
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    unused={"hidden_activation": "of older files, which transformers no longer reads"},
    head_needs={**_HEAD, "tagging": TOKEN_HEAD},
)

GEMMA2 = Family(
    model_type="gemma2",
    prefix="model.",
    classes={
        "Gemma2ForCausalLM": "lm",
        "Gemma2ForSequenceClassification": "classification",
        "Gemma2ForTokenClassification": "tagging",
        "Gemma2Model": "",
    },
    params=_FOUR_NORMS,
    config_keys=[
        *_keys(256000, 2304, 26, 8, 4, 9216, 8192),
        ConfigKey("hidden_activation", "activation", "gelu_pytorch_tanh", _EXACT),
        rope_key(scalings=("default",)),
        CustomKey(
            _WINDOW_FIELDS, _read_gemma2_windows, _write_windows, ("layer_types", "sliding_window")
        ),
        _SCALE,
        _cap("attn_logit_softcapping", "attention_logit_softcap", 50.0),
        _cap("final_logit_softcapping", "final_logit_softcap", 30.0),
        FixedKey("use_bidirectional_attention", None),
    ],
    fixed={**_FIXED, "norm_position": "both"},
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    unused={
        "hidden_act": "of older files, beside hidden_activation, which transformers reads",
        "sliding_window_size": "of older files, beside sliding_window, which transformers reads",
        "cache_implementation": "an option of generation, kept for the export",
    },
    head_needs={**_HEAD, "tagging": TOKEN_HEAD},
)

GEMMA3 = Family(
    model_type="gemma3_text",
    prefix="model.",
    classes={
        "Gemma3ForCausalLM": "lm",
        "Gemma3TextForSequenceClassification": "classification",
        "Gemma3TextModel": "",
    },
    params=_FOUR_NORMS,
    config_keys=[
        *_keys(262208, 2304, 26, 8, 4, 9216, 131072),
        ConfigKey("hidden_activation", "activation", "gelu_pytorch_tanh", _EXACT),
        CustomKey(
            (*TWO_ROPES_FIELDS, *_WINDOW_FIELDS),
            _read_attention,
            _write_attention,
            ("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq", "layer_types",
             "sliding_window", "sliding_window_pattern"),
        ),
        _SCALE,
        _cap("final_logit_softcapping", "final_logit_softcap", None),
        FixedKey("attn_logit_softcapping", None),  # which transformers' code ignores
        FixedKey("use_bidirectional_attention", False),
    ],
    fixed={**_FIXED, "norm_position": "both", "qk_norm": True},
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    unused={
        "_sliding_window_pattern": "written by transformers, which reads layer_types",
        "cache_implementation": "an option of generation, kept for the export",
    },
    head_needs={**_HEAD, "tagging": TOKEN_HEAD},
)  # fmt: skip
