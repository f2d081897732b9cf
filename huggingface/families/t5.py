"""T5 v1.0 (Raffel et al. 2020), v1.1 and Flan-T5 (its releases after Shazeer 2020). model_type "t5".
No biases anywhere; the relative biases of a stack lie in its first layer.
"""

from huggingface.family import OUTPUT, PIECES, Family, Key, Line, Only, dense, norm

ENCODER, THEIR_ENCODER = "encoder/layer_{i}", "transformer.encoder.block.{i}.layer"
DECODER, THEIR_DECODER = "decoder/layer_{i}", "transformer.decoder.block.{i}.layer"


def attention(ours, theirs):
    """Query, key, value and output, and the norm before them."""
    return [
        line
        for here, there in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
        for line in dense(f"{ours}/{here}", f"{theirs}.{there}")
    ]


def mlp(ours, theirs):
    """`wi` where the MLP is not gated, `wi_0` and `wi_1` where it is."""
    return [
        *dense(f"{ours}/in", f"{theirs}.wi", gated=False),
        *dense(f"{ours}/gate", f"{theirs}.wi_0", gated=True),
        *dense(f"{ours}/in", f"{theirs}.wi_1", gated=True),
        *dense(f"{ours}/out", f"{theirs}.wo"),
    ]


T5 = Family(
    model_type="t5",
    prefix="transformer.",
    classes={
        "T5ForConditionalGeneration": "lm",
        "T5ForSequenceClassification": "classification",
        "T5Model": "",
    },
    bare_classes=("T5ForConditionalGeneration", "T5Model"),
    lines=[
        Line("embed/tokens/embedding", "transformer.shared.weight", PIECES),
        Line(
            "encoder/relative_bias/embedding",
            "transformer.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        *attention(f"{ENCODER}/self_attention", f"{THEIR_ENCODER}.0.SelfAttention"),
        *norm(f"{ENCODER}/self_attention_norm", f"{THEIR_ENCODER}.0.layer_norm"),
        *mlp(f"{ENCODER}/mlp", f"{THEIR_ENCODER}.1.DenseReluDense"),
        *norm(f"{ENCODER}/mlp_norm", f"{THEIR_ENCODER}.1.layer_norm"),
        *norm("encoder/final_norm", "transformer.encoder.final_layer_norm"),
        Line(
            "decoder/relative_bias/embedding",
            "transformer.decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        *attention(f"{DECODER}/self_attention", f"{THEIR_DECODER}.0.SelfAttention"),
        *norm(f"{DECODER}/self_attention_norm", f"{THEIR_DECODER}.0.layer_norm"),
        *attention(f"{DECODER}/cross_attention", f"{THEIR_DECODER}.1.EncDecAttention"),
        *norm(f"{DECODER}/cross_attention_norm", f"{THEIR_DECODER}.1.layer_norm"),
        *mlp(f"{DECODER}/mlp", f"{THEIR_DECODER}.2.DenseReluDense"),
        *norm(f"{DECODER}/mlp_norm", f"{THEIR_DECODER}.2.layer_norm"),
        *norm("decoder/final_norm", "transformer.decoder.final_layer_norm"),
        # heads
        Line("heads/lm/kernel", "lm_head.weight", OUTPUT),
        *dense("heads/classification/pooler", "classification_head.dense"),
        *dense("heads/classification/output", "classification_head.out_proj"),
    ],
    keys=[
        Key("vocab_size", "vocab_size", 32128),
        Key("n_positions", "max_length", 512),
        Key("num_layers", "layers", 6),
        Key("num_decoder_layers", "decoder_layers", lambda config: config.get("num_layers", 6)),
        Key("d_model", "width", 512),
        Key("num_heads", "heads", 8),
        Key("d_kv", "head_size", 64),
        Key("d_ff", "mlp_size", 2048),
        Key(
            "feed_forward_proj",
            ("gated", "activation"),
            "relu",
            {
                "relu": (False, "relu"),
                "gated-gelu": (True, "gelu_tanh"),
                "gated-silu": (True, "silu"),
            },
        ),
        Key("relative_attention_num_buckets", "relative_buckets", 32),
        Key("relative_attention_max_distance", "relative_max_distance", 128),
        Key("layer_norm_epsilon", "norm_epsilon", 1e-6),
        # v1.1 is not tied, and then nothing is scaled; transformers 5 says the latter, too
        Key("tie_word_embeddings", "tied_embeddings", True),
        Key(
            "scale_decoder_outputs",
            "readout_scale",
            lambda config: config.get("tie_word_embeddings") is not False,
        ),
        Key("dropout_rate", ("dropout", "attention_dropout"), 0.1),
        Only("is_encoder_decoder", True),
    ],
    fixed={
        "architecture": "encoder_decoder",
        "positions": "relative",
        "norm": "rmsnorm",
        "biases": False,
        "attention_scale": False,
    },
    copies={
        "lm_head.weight": "transformer.shared.weight",
        "transformer.encoder.embed_tokens.weight": "transformer.shared.weight",
        "transformer.decoder.embed_tokens.weight": "transformer.shared.weight",
    },
    ignored=(r".*\.EncDecAttention\.relative_attention_bias\.weight",),
    needs={"classification": {"pooler": True, "reading": "state", "decoder_input": "text"}},
)
