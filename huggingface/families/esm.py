"""ESM-2 (Lin et al. 2023): a pre-norm BERT with RoPE, made for proteins. model_type "esm".
Of transformers' encoders it is the one with the layers of GPT-2, so it also expresses encoders of text.
"""

import numpy as np

from huggingface.config_mapping import ConfigKey, FixedKey
from huggingface.families import bert
from huggingface.family import TOKEN_HEAD, VOCAB, Family, ParamMap, attention, dense, norm

LAYER, HF_LAYER = "encoder/layer_{i}", "esm.encoder.layer.{i}"
ROTARY = "attention.self.rotary_embeddings.inv_freq"


def _constants(model):
    size, total = model.resolved_head_dim, model.num_layers * model.num_heads
    frequencies = model.rope_theta ** -(np.arange(0, size, 2, dtype=np.float32) / size)
    rotary = f"{HF_LAYER}.{ROTARY}"
    return {
        "esm.contact_head.regression.weight": np.zeros((1, total), np.float32),
        "esm.contact_head.regression.bias": np.zeros(1, np.float32),
        **{rotary.format(i=i): frequencies.astype(np.float32) for i in range(model.num_layers)},
    }


ESM = Family(
    model_type="esm",
    prefix="esm.",
    classes={
        "EsmForMaskedLM": "lm",
        "EsmForSequenceClassification": "classification",
        "EsmForTokenClassification": "tagging",
        "EsmModel": "",
    },
    params=[
        ParamMap("embed/tokens/embedding", "esm.embeddings.word_embeddings.weight", VOCAB),
        *norm("embed/norm", "esm.embeddings.layer_norm"),
        *norm(f"{LAYER}/self_attention_norm", f"{HF_LAYER}.attention.LayerNorm"),
        *attention(
            f"{LAYER}/self_attention", f"{HF_LAYER}.attention",
            "self.query", "self.key", "self.value", "output.dense",
        ),
        *norm(f"{LAYER}/mlp_norm", f"{HF_LAYER}.LayerNorm"),
        *dense(f"{LAYER}/mlp/in", f"{HF_LAYER}.intermediate.dense"),
        *dense(f"{LAYER}/mlp/out", f"{HF_LAYER}.output.dense"),
        *norm("encoder/final_norm", "esm.encoder.emb_layer_norm_after"),
        *dense("heads/lm/transform", "lm_head.dense"),
        *norm("heads/lm/norm", "lm_head.layer_norm"),
        ParamMap("heads/lm/bias", "lm_head.bias", VOCAB),
        *dense("heads/classification/pooler", "classifier.dense"),
        *dense("heads/classification/output", "classifier.out_proj"),
        *dense("heads/tagging/output", "classifier"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", None),
        ConfigKey("max_position_embeddings", "max_length", 1026),
        ConfigKey("num_hidden_layers", "num_layers", 12),
        ConfigKey("hidden_size", "emb_dim", 768),
        ConfigKey("num_attention_heads", "num_heads", 12),
        ConfigKey("intermediate_size", "mlp_dim", 3072),
        ConfigKey("layer_norm_eps", "norm_epsilon", 1e-12),
        ConfigKey("rope_theta", "rope_theta", 10_000.0),
        ConfigKey("emb_layer_norm_before", "embedding_norm", False, null=False),
        ConfigKey("hidden_dropout_prob", "dropout_rate", 0.1),
        ConfigKey("attention_probs_dropout_prob", "attention_dropout_rate", 0.1),
        ConfigKey("initializer_range", "init_std", 0.02),
        ConfigKey("position_embedding_type", "positions", "absolute", {"rotary": "rope"}),
        FixedKey("token_dropout", False),
        FixedKey("is_folding_model", False),
        FixedKey("tie_word_embeddings", True),
        FixedKey("is_decoder", False),
        FixedKey("add_cross_attention", False),
    ],
    fixed={
        "architecture": "encoder",
        "lm_head_transform": True,
        "lm_head_bias": True,
    },
    tied={"lm_head.decoder.weight": "esm.embeddings.word_embeddings.weight"},
    legacy_suffixes=(
        *bert.LEGACY_SUFFIXES,
        (f".*.{ROTARY}", f".0.{ROTARY}"),  # as transformers 5 writes it
    ),
    # The head that predicts contacts of amino acids is not read, and is written as zeros.
    ignored=(r".*position_ids", r".*rotary_embeddings\.inv_freq", r".*contact_head\..*"),
    constants=_constants,
    unused=dict.fromkeys(("esmfold_config", "vocab_list"), "of a model that folds proteins"),
    head_needs={
        "classification": {"pooler": True, "pooler_activation": "tanh", "pooling": "cls"},
        "tagging": TOKEN_HEAD,
    },
)  # fmt: skip
