"""T5 v1.0 (Raffel et al. 2020), v1.1 and Flan-T5 (its releases after Shazeer 2020), mT5 (Xue et al. 2021).
No biases; the relative position bias of a stack is stored in its first layer.
"""

import dataclasses

from huggingface.config_mapping import (
    ACTIVATIONS,
    ConfigKey,
    CustomKey,
    FixedKey,
    disagreement,
    training,
)
from huggingface.family import VOCAB, VOCAB_TRANSPOSE, Family, ParamMap, attention, dense, norm

ENCODER, HF_ENCODER = "encoder/layer_{i}", "transformer.encoder.block.{i}.layer"
DECODER, HF_DECODER = "decoder/layer_{i}", "transformer.decoder.block.{i}.layer"
QKVO = ("q", "k", "v", "o")
_MLPS = {
    "relu": (False, "relu"), "gated-gelu": (True, "gelu_tanh"), "gated-silu": (True, "silu"),
    "gelu": (False, "gelu"), "silu": (False, "silu"), "gelu_new": (False, "gelu_tanh"),
    "gated-relu": (True, "relu"), "swish": (False, "silu"), "gated-gelu_new": (True, "gelu_tanh"),
    "gated-swish": (True, "silu"),
}  # fmt: skip


_MLP_KEYS = ("feed_forward_proj", "dense_act_fn", "is_gated_act")
_OUTPUT_KEYS = ("tie_word_embeddings", "scale_decoder_outputs")


def _num_layers(config):
    return config.get("num_layers", 6)


def _read_mlp(default):
    """feed_forward_proj, and what transformers derives from it, which a file may repeat."""

    def read(config):
        name = config.get("feed_forward_proj", default)
        if name not in _MLPS:
            raise ValueError(f"feed_forward_proj={name!r} (expected one of {', '.join(_MLPS)})")
        gated, activation = _MLPS[name]
        given = config.get("dense_act_fn"), config.get("is_gated_act")
        if given[0] is not None and ACTIVATIONS.get(given[0]) != activation:
            raise ValueError(disagreement({"feed_forward_proj": name, "dense_act_fn": given[0]}))
        if given[1] is not None and given[1] is not gated:
            raise ValueError(disagreement({"feed_forward_proj": name, "is_gated_act": given[1]}))
        return {"gated_mlp": gated, "activation": activation}

    return read


def _write_mlp(model):
    found = (model.gated_mlp, model.activation)
    name = next((name for name, each in _MLPS.items() if each == found), None)
    if name is None:
        raise ValueError(
            f"model.gated_mlp={found[0]}, model.activation={found[1]!r} (expected "
            f"{' or '.join(map(repr, _MLPS.values()))})"
        )
    return {"feed_forward_proj": name}


def _read_output(config):
    """The fields of the output layer. transformers scales its input unless tie_word_embeddings is false,
    and ties by the tensors alone (`tensors.is_tied`)."""
    tied = config.get("tie_word_embeddings") is not False
    scaled = config.get("scale_decoder_outputs", tied)
    if type(scaled) is not bool:
        raise ValueError(f"scale_decoder_outputs={scaled!r} (expected true or false)")
    return {"tie_word_embeddings": tied, "scale_logits_by_embedding_size": scaled}


def _write_output(model):
    return {
        "tie_word_embeddings": model.tie_word_embeddings,
        "scale_decoder_outputs": model.scale_logits_by_embedding_size,
    }


def _relative_bias(stack):
    table = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return ParamMap(f"{stack}/relative_bias/embedding", f"transformer.{stack}.{table}")


def _mlp(native, hf):
    """`wi`, or `wi_0` and `wi_1` in a gated MLP."""
    return [
        *dense(f"{native}/in", f"{hf}.wi", gated_mlp=False),
        *dense(f"{native}/gate", f"{hf}.wi_0", gated_mlp=True),
        *dense(f"{native}/in", f"{hf}.wi_1", gated_mlp=True),
        *dense(f"{native}/out", f"{hf}.wo"),
    ]


T5 = Family(
    model_type="t5",
    prefix="transformer.",
    classes={
        "T5ForConditionalGeneration": "lm",
        "T5ForSequenceClassification": "classification",
        "T5ForQuestionAnswering": "question_answering",
        "T5Model": "",
    },
    bare_classes=("T5ForConditionalGeneration", "T5Model"),
    params=[
        ParamMap("embed/tokens/embedding", "transformer.shared.weight", VOCAB),
        _relative_bias("encoder"),
        *attention(f"{ENCODER}/self_attention", f"{HF_ENCODER}.0.SelfAttention", *QKVO),
        *norm(f"{ENCODER}/self_attention_norm", f"{HF_ENCODER}.0.layer_norm"),
        *_mlp(f"{ENCODER}/mlp", f"{HF_ENCODER}.1.DenseReluDense"),
        *norm(f"{ENCODER}/mlp_norm", f"{HF_ENCODER}.1.layer_norm"),
        *norm("encoder/final_norm", "transformer.encoder.final_layer_norm"),
        _relative_bias("decoder"),
        *attention(f"{DECODER}/self_attention", f"{HF_DECODER}.0.SelfAttention", *QKVO),
        *norm(f"{DECODER}/self_attention_norm", f"{HF_DECODER}.0.layer_norm"),
        *attention(f"{DECODER}/cross_attention", f"{HF_DECODER}.1.EncDecAttention", *QKVO),
        *norm(f"{DECODER}/cross_attention_norm", f"{HF_DECODER}.1.layer_norm"),
        *_mlp(f"{DECODER}/mlp", f"{HF_DECODER}.2.DenseReluDense"),
        *norm(f"{DECODER}/mlp_norm", f"{HF_DECODER}.2.layer_norm"),
        *norm("decoder/final_norm", "transformer.decoder.final_layer_norm"),
        ParamMap("heads/lm/kernel", "lm_head.weight", VOCAB_TRANSPOSE),
        *dense("heads/classification/pooler", "classification_head.dense"),
        *dense("heads/classification/output", "classification_head.out_proj"),
        *dense("heads/question_answering/output", "qa_outputs"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 32128),
        ConfigKey("n_positions", "max_length", 512),
        ConfigKey("num_layers", "num_layers", 6),
        ConfigKey("num_decoder_layers", "num_decoder_layers", _num_layers),
        ConfigKey("d_model", "emb_dim", 512),
        ConfigKey("num_heads", "num_heads", 8),
        ConfigKey("d_kv", "head_dim", 64),
        ConfigKey("d_ff", "mlp_dim", 2048),
        CustomKey(("gated_mlp", "activation"), _read_mlp("relu"), _write_mlp, _MLP_KEYS),
        ConfigKey("relative_attention_num_buckets", "relative_num_buckets", 32),
        ConfigKey("relative_attention_max_distance", "relative_max_distance", 128),
        ConfigKey("layer_norm_epsilon", "norm_epsilon", 1e-6),
        # v1.1 has an untied output and then scales no features; transformers 5 has a key for both.
        CustomKey(
            ("tie_word_embeddings", "scale_logits_by_embedding_size"),
            _read_output,
            _write_output,
            _OUTPUT_KEYS,
        ),
        ConfigKey("dropout_rate", ("dropout_rate", "attention_dropout_rate"), 0.1),
        FixedKey("is_encoder_decoder", True),
        FixedKey("is_decoder", False),
    ],
    fixed={
        "architecture": "encoder_decoder",
        "positions": "relative",
        "norm": "rmsnorm",
        "use_bias": False,
        "scale_attention": False,
    },
    tied={
        "lm_head.weight": "transformer.shared.weight",
        "transformer.encoder.embed_tokens.weight": "transformer.shared.weight",
        "transformer.decoder.embed_tokens.weight": "transformer.shared.weight",
    },
    ignored=(r".*\.EncDecAttention\.relative_attention_bias\.weight",),
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    unused=training("initializer_factor"),
    head_dropout_key="classifier_dropout",
    ties_by_tensors=True,
    start=0,
    head_needs={
        "classification": {
            "pooler": True,
            "pooler_activation": "tanh",
            "pooling": "last",
            "decoder_input": "text",
        },
        "question_answering": {"pooler": False},
    },
)


_MT5_DEFAULTS = {"vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6}


def _mt5_output(config):
    """mT5 never scales; whether it ties is seen from the tensors."""
    return {"tie_word_embeddings": config.get("tie_word_embeddings") is not False}


def _of_mt5(key):
    """T5's entry with mT5's default."""
    if key.hf == _MLP_KEYS:
        return key._replace(read=_read_mlp("gated-gelu"))
    if key.hf == _OUTPUT_KEYS:
        write = ConfigKey("tie_word_embeddings", "tie_word_embeddings", True).write
        return CustomKey(("tie_word_embeddings",), _mt5_output, write, ("tie_word_embeddings",))
    if key.hf == "num_decoder_layers":
        return key._replace(default=lambda config: config.get("num_layers", 8))
    return key._replace(default=_MT5_DEFAULTS[key.hf]) if key.hf in _MT5_DEFAULTS else key


MT5 = dataclasses.replace(
    T5,
    model_type="mt5",
    classes={name.replace("T5", "MT5"): heads for name, heads in T5.classes.items()},
    bare_classes=tuple(name.replace("T5", "MT5") for name in T5.bare_classes),
    config_keys=[_of_mt5(key) for key in T5.config_keys],
)
