"""BART (Lewis et al. 2020): a post-norm encoder-decoder with one token table; each stack has its own
positions and embedding norm.
"""

from huggingface.config_mapping import (
    ACTIVATIONS,
    ConfigKey,
    CustomKey,
    FixedKey,
    equal_keys,
    training,
)
from huggingface.family import VOCAB, ArrayTransform, Family, ParamMap, attention, dense, norm

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
VOCAB_ROW = ArrayTransform(vocab_rows=True, leading_axis=True)


def _stack(stack):
    """One stack; cross-attention applies to the decoder alone."""
    layer, hf, hf_layer = f"{stack}/layer_{{i}}", f"model.{stack}", f"model.{stack}.layers.{{i}}"
    embed = "embed/decoder_" if stack == "decoder" else "embed/"
    return [
        ParamMap(f"{embed}positions/embedding", f"{hf}.embed_positions.weight"),
        *norm(f"{embed}norm", f"{hf}.layernorm_embedding"),
        *attention(f"{layer}/self_attention", f"{hf_layer}.self_attn", *PROJECTIONS),
        *norm(f"{layer}/self_attention_norm", f"{hf_layer}.self_attn_layer_norm"),
        *attention(f"{layer}/cross_attention", f"{hf_layer}.encoder_attn", *PROJECTIONS),
        *norm(f"{layer}/cross_attention_norm", f"{hf_layer}.encoder_attn_layer_norm"),
        *dense(f"{layer}/mlp/in", f"{hf_layer}.fc1"),
        *dense(f"{layer}/mlp/out", f"{hf_layer}.fc2"),
        *norm(f"{layer}/mlp_norm", f"{hf_layer}.final_layer_norm"),
    ]


BART = Family(
    model_type="bart",
    prefix="model.",
    classes={
        "BartForConditionalGeneration": "lm",
        "BartForSequenceClassification": "classification",
        "BartForQuestionAnswering": "question_answering",
        "BartModel": "",
    },
    params=[
        ParamMap("embed/tokens/embedding", "model.shared.weight", VOCAB),
        *_stack("encoder"),
        *_stack("decoder"),
        ParamMap("heads/lm/bias", "final_logits_bias", VOCAB_ROW),
        *dense("heads/classification/pooler", "classification_head.dense"),
        *dense("heads/classification/output", "classification_head.out_proj"),
        *dense("heads/question_answering/output", "qa_outputs"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 50265),
        ConfigKey("max_position_embeddings", "max_length", 1024),
        ConfigKey("encoder_layers", "num_layers", 12),
        ConfigKey("decoder_layers", "num_decoder_layers", 12),
        ConfigKey("d_model", "emb_dim", 1024),
        equal_keys(("encoder_attention_heads", "decoder_attention_heads"), "num_heads", 16),
        equal_keys(("encoder_ffn_dim", "decoder_ffn_dim"), "mlp_dim", 4096),
        ConfigKey("activation_function", "activation", "gelu", ACTIVATIONS),
        ConfigKey("dropout", "dropout_rate", 0.1),
        ConfigKey("attention_dropout", "attention_dropout_rate", 0.0),
        ConfigKey("init_std", "init_std", 0.02),
        # transformers has a bias that is not trained; a model without one is exported with zeros.
        CustomKey(("lm_head_bias",), lambda config: {"lm_head_bias": True}, lambda model: {}),
        FixedKey("scale_embedding", False),
        FixedKey("tie_word_embeddings", True),
        FixedKey("is_encoder_decoder", True),
        FixedKey("is_decoder", False),
    ],
    fixed={
        "architecture": "encoder_decoder",
        "norm_position": "post",
        "norm_epsilon": 1e-5,
        "embedding_norm": True,
        "separate_decoder_embeddings": True,
        "position_offset": 2,
    },
    tied={
        "lm_head.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
    },
    aliases={
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    },
    unused={
        **training("activation_dropout", "encoder_layerdrop", "decoder_layerdrop"),
        "forced_eos_token_id": "an option of generation, kept for the export",
        **dict.fromkeys(
            (
                "add_bias_logits",
                "add_final_layer_norm",
                "normalize_before",
                "normalize_embedding",
                "static_position_embeddings",
                "extra_pos_embeddings",
                "force_bos_token_to_be_generated",
            ),
            "of older versions, which transformers no longer reads",
        ),
    },
    num_labels=3,
    start=2,
    head_dropout_key="classifier_dropout",
    optional=("final_logits_bias",),
    ignored=(r"model\.(encoder|decoder)\.version",),
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
