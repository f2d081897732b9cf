"""DistilBERT (Sanh et al. 2019): BERT without token types, under other names."""

from huggingface.families import bert
from huggingface.family import ACTIVATIONS, PIECES, Family, Key, Line, Only, dense, norm

LAYER, THEIRS = "encoder/layer_{i}", "distilbert.transformer.layer.{i}"

DISTILBERT = Family(
    model_type="distilbert",
    prefix="distilbert.",
    classes={
        "DistilBertForMaskedLM": "lm",
        "DistilBertForSequenceClassification": "classification",
        "DistilBertModel": "",
    },
    lines=[
        Line("embed/tokens/embedding", "distilbert.embeddings.word_embeddings.weight", PIECES),
        Line("embed/positions/embedding", "distilbert.embeddings.position_embeddings.weight"),
        *norm("embed/norm", "distilbert.embeddings.LayerNorm"),
        *dense(f"{LAYER}/self_attention/query", f"{THEIRS}.attention.q_lin"),
        *dense(f"{LAYER}/self_attention/key", f"{THEIRS}.attention.k_lin"),
        *dense(f"{LAYER}/self_attention/value", f"{THEIRS}.attention.v_lin"),
        *dense(f"{LAYER}/self_attention/out", f"{THEIRS}.attention.out_lin"),
        *norm(f"{LAYER}/self_attention_norm", f"{THEIRS}.sa_layer_norm"),
        *dense(f"{LAYER}/mlp/in", f"{THEIRS}.ffn.lin1"),
        *dense(f"{LAYER}/mlp/out", f"{THEIRS}.ffn.lin2"),
        *norm(f"{LAYER}/mlp_norm", f"{THEIRS}.output_layer_norm"),
        # heads
        *dense("heads/lm/transform", "vocab_transform"),
        *norm("heads/lm/norm", "vocab_layer_norm"),
        Line("heads/lm/bias", "vocab_projector.bias", PIECES),
        *dense("heads/classification/pooler", "pre_classifier"),
        *dense("heads/classification/output", "classifier"),
    ],
    keys=[
        Key("vocab_size", "vocab_size", 30522),
        Key("max_position_embeddings", "max_length", 512),
        Key("n_layers", "layers", 6),
        Key("dim", "width", 768),
        Key("n_heads", "heads", 12),
        Key("hidden_dim", "mlp_size", 3072),
        Key("activation", "activation", "gelu", ACTIVATIONS),
        Key("dropout", "dropout", 0.1),
        Key("attention_dropout", "attention_dropout", 0.1),
        Key("initializer_range", "init_std", 0.02),
        Only("tie_word_embeddings", True),
    ],
    fixed={**bert.FIXED, "norm_epsilon": 1e-12},
    copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=bert.IGNORED,
    needs={"classification": {"pooler": True, "pooler_activation": "relu", "reading": "state"}},
    # Sinusoids, where a model has them, are rows of the table like any others.
    said={"sinusoidal_pos_embds": False},
)
