"""BART (Lewis et al. 2020): a post-norm encoder-decoder over one token table, each stack with its own
positions and embedding norm.
"""

from huggingface.family import (
    ACTIVATIONS,
    PIECES,
    Family,
    How,
    Key,
    Line,
    Only,
    Rule,
    dense,
    norm,
    together,
)


def _stack(stack, theirs):
    """The lines of one stack; those of cross-attention hold in the decoder alone."""
    layer, at = f"{stack}/layer_{{i}}", f"{theirs}.layers.{{i}}"
    own = "decoder_" if stack == "decoder" else ""
    lines = [
        Line(f"embed/{own}positions/embedding", f"{theirs}.embed_positions.weight"),
        *norm(f"embed/{own}norm", f"{theirs}.layernorm_embedding"),
    ]
    for ours, name in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn")):
        for part in ("query", "key", "value"):
            lines += dense(f"{layer}/{ours}/{part}", f"{at}.{name}.{part[0]}_proj")
        lines += dense(f"{layer}/{ours}/out", f"{at}.{name}.out_proj")
        lines += norm(f"{layer}/{ours}_norm", f"{at}.{name}_layer_norm")
    return [
        *lines,
        *dense(f"{layer}/mlp/in", f"{at}.fc1"),
        *dense(f"{layer}/mlp/out", f"{at}.fc2"),
        *norm(f"{layer}/mlp_norm", f"{at}.final_layer_norm"),
    ]


BART = Family(
    model_type="bart",
    prefix="model.",
    classes={
        "BartForConditionalGeneration": "lm",
        "BartForSequenceClassification": "classification",
        "BartModel": "",
    },
    lines=[
        Line("embed/tokens/embedding", "model.shared.weight", PIECES),
        *_stack("encoder", "model.encoder"),
        *_stack("decoder", "model.decoder"),
        # heads
        Line("heads/lm/bias", "final_logits_bias", How(pieces=True, row=True)),
        *dense("heads/classification/pooler", "classification_head.dense"),
        *dense("heads/classification/output", "classification_head.out_proj"),
    ],
    keys=[
        Key("vocab_size", "vocab_size", 50265),
        Key("max_position_embeddings", "max_length", 1024),
        Key("encoder_layers", "layers", 12),
        Key("decoder_layers", "decoder_layers", 12),
        Key("d_model", "width", 1024),
        together(("encoder_attention_heads", "decoder_attention_heads"), "heads", 16),
        together(("encoder_ffn_dim", "decoder_ffn_dim"), "mlp_size", 4096),
        Key("activation_function", "activation", "gelu", ACTIVATIONS),
        Key("dropout", "dropout", 0.1),
        Key("attention_dropout", "attention_dropout", 0.0),
        Key("init_std", "init_std", 0.02),
        # Theirs has a bias that is not trained; a network of ours without one is theirs with zeros.
        Rule(("output_bias",), lambda config: {"output_bias": True}, lambda model: {}),
        Only("scale_embedding", False),
        Only("tie_word_embeddings", True),
        Only("is_encoder_decoder", True),
    ],
    fixed={
        "architecture": "encoder_decoder",
        "norm_position": "post",
        "norm_epsilon": 1e-5,
        "embedding_norm": True,
        "separate_embeddings": True,
        "position_offset": 2,
    },
    copies={
        "lm_head.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
    },
    needs={"classification": {"pooler": True, "reading": "state", "decoder_input": "text"}},
)
