"""DistilBERT (Sanh et al. 2019): BERT without token types, under other names."""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, FixedKey, training
from huggingface.families import bert
from huggingface.family import VOCAB, Family, ParamMap, attention, dense, norm

LAYER = "encoder/layer_{i}"
QKVO = ("q_lin", "k_lin", "v_lin", "out_lin")
EMBEDDINGS, HF_LAYER = "distilbert.embeddings", "distilbert.transformer.layer.{i}"

DISTILBERT = Family(
    model_type="distilbert",
    prefix="distilbert.",
    classes={
        "DistilBertForMaskedLM": "lm",
        "DistilBertForSequenceClassification": "classification",
        "DistilBertForMultipleChoice": "multiple_choice",
        "DistilBertForTokenClassification": "tagging",
        "DistilBertForQuestionAnswering": "question_answering",
        "DistilBertModel": "",
    },
    params=[
        ParamMap("embed/tokens/embedding", f"{EMBEDDINGS}.word_embeddings.weight", VOCAB),
        ParamMap("embed/positions/embedding", f"{EMBEDDINGS}.position_embeddings.weight"),
        *norm("embed/norm", f"{EMBEDDINGS}.LayerNorm"),
        *attention(f"{LAYER}/self_attention", f"{HF_LAYER}.attention", *QKVO),
        *norm(f"{LAYER}/self_attention_norm", f"{HF_LAYER}.sa_layer_norm"),
        *dense(f"{LAYER}/mlp/in", f"{HF_LAYER}.ffn.lin1"),
        *dense(f"{LAYER}/mlp/out", f"{HF_LAYER}.ffn.lin2"),
        *norm(f"{LAYER}/mlp_norm", f"{HF_LAYER}.output_layer_norm"),
        *dense("heads/lm/transform", "vocab_transform"),
        *norm("heads/lm/norm", "vocab_layer_norm"),
        ParamMap("heads/lm/bias", "vocab_projector.bias", VOCAB),
        *dense("heads/classification/pooler", "pre_classifier"),
        *dense("heads/classification/output", "classifier"),
        *dense("heads/multiple_choice/pooler", "pre_classifier"),
        *dense("heads/multiple_choice/output", "classifier"),
        *dense("heads/tagging/output", "classifier"),
        *dense("heads/question_answering/output", "qa_outputs"),
    ],
    config_keys=[
        ConfigKey("vocab_size", "vocab_size", 30522),
        ConfigKey("max_position_embeddings", "max_length", 512),
        ConfigKey("n_layers", "num_layers", 6),
        ConfigKey("dim", "emb_dim", 768),
        ConfigKey("n_heads", "num_heads", 12),
        ConfigKey("hidden_dim", "mlp_dim", 3072),
        ConfigKey("activation", "activation", "gelu", ACTIVATIONS),
        ConfigKey("dropout", "dropout_rate", 0.1),
        ConfigKey("attention_dropout", "attention_dropout_rate", 0.1),
        ConfigKey("initializer_range", "init_std", 0.02),
        FixedKey("tie_word_embeddings", True),
    ],
    fixed={**bert.FIXED, "norm_epsilon": 1e-12},
    tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=bert.IGNORED,
    aliases={
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    },
    unused={
        "sinusoidal_pos_embds": "sinusoids, where a model has them, are rows of its position table",
        **training("qa_dropout"),
    },
    head_dropout_key="seq_classif_dropout",
    head_needs=bert.task_heads("relu"),
)
