"""BERT (Devlin et al. 2019), its smaller sizes (Turc et al. 2019) and models with its layers: MiniLM,
sentence encoders. model_type "bert".
"""

from huggingface.config_mapping import ACTIVATIONS, ConfigKey, CustomKey, FixedKey
from huggingface.family import TOKEN_HEAD, VOCAB, Family, ParamMap, attention, dense, norm

LAYER = "encoder/layer_{i}"


def _write_token_types(model):
    if not model.num_token_types:
        raise ValueError("model.num_token_types=0 (expected at least 1)")
    return {"type_vocab_size": model.num_token_types}


_TOKEN_TYPES = ConfigKey("type_vocab_size", "num_token_types", 2)
CONFIG_KEYS = [
    ConfigKey("vocab_size", "vocab_size", 30522),
    ConfigKey("max_position_embeddings", "max_length", 512),
    CustomKey(_TOKEN_TYPES.fields, _TOKEN_TYPES.read, _write_token_types, (_TOKEN_TYPES.hf,)),
    ConfigKey("num_hidden_layers", "num_layers", 12),
    ConfigKey("hidden_size", "emb_dim", 768),
    ConfigKey("num_attention_heads", "num_heads", 12),
    ConfigKey("intermediate_size", "mlp_dim", 3072),
    ConfigKey("hidden_act", "activation", "gelu", ACTIVATIONS),
    ConfigKey("layer_norm_eps", "norm_epsilon", 1e-12),
    ConfigKey("hidden_dropout_prob", "dropout_rate", 0.1),
    ConfigKey("attention_probs_dropout_prob", "attention_dropout_rate", 0.1),
    ConfigKey("initializer_range", "init_std", 0.02),
    FixedKey("position_embedding_type", "absolute"),
    FixedKey("tie_word_embeddings", True),
    FixedKey("is_decoder", False),
    FixedKey("add_cross_attention", False),
]
FIXED = {
    "architecture": "encoder",
    "norm_position": "post",
    "embedding_norm": True,
    "lm_head_transform": True,
    "lm_head_bias": True,
}
LEGACY_SUFFIXES = (
    (".LayerNorm.gamma", ".LayerNorm.weight"),
    (".LayerNorm.beta", ".LayerNorm.bias"),
)
IGNORED = (r".*embeddings\.position_ids",)


def trunk(prefix: str) -> list[ParamMap]:
    """The base model's tensors; `prefix` is the family's, with its dot."""
    embeddings, layer = f"{prefix}embeddings", f"{prefix}encoder.layer.{{i}}"
    names = ("self.query", "self.key", "self.value", "output.dense")
    return [
        ParamMap("embed/tokens/embedding", f"{embeddings}.word_embeddings.weight", VOCAB),
        ParamMap("embed/positions/embedding", f"{embeddings}.position_embeddings.weight"),
        ParamMap("embed/types/embedding", f"{embeddings}.token_type_embeddings.weight"),
        *norm("embed/norm", f"{embeddings}.LayerNorm"),
        *attention(f"{LAYER}/self_attention", f"{layer}.attention", *names),
        *norm(f"{LAYER}/self_attention_norm", f"{layer}.attention.output.LayerNorm"),
        *dense(f"{LAYER}/mlp/in", f"{layer}.intermediate.dense"),
        *dense(f"{LAYER}/mlp/out", f"{layer}.output.dense"),
        *norm(f"{LAYER}/mlp_norm", f"{layer}.output.LayerNorm"),
    ]


def task_heads(activation: str) -> dict[str, dict]:
    """`head_needs` of BERT and the encoders with its heads; activation of their pooler."""
    return {
        **dict.fromkeys(
            ("classification", "multiple_choice"),
            {"pooler": True, "pooler_activation": activation, "pooling": "cls"},
        ),
        "tagging": TOKEN_HEAD,
        "question_answering": {"pooler": False},
    }


BERT = Family(
    model_type="bert",
    prefix="bert.",
    classes={
        "BertForPreTraining": "lm pair",
        "BertForMaskedLM": "lm pair?",
        "BertForNextSentencePrediction": "pair",
        "BertForSequenceClassification": "classification",
        "BertForMultipleChoice": "multiple_choice",
        "BertForTokenClassification": "tagging",
        "BertForQuestionAnswering": "question_answering",
        "BertModel": "pair/pooler?",
    },
    params=[
        *trunk("bert."),
        *dense("heads/lm/transform", "cls.predictions.transform.dense"),
        *norm("heads/lm/norm", "cls.predictions.transform.LayerNorm"),
        ParamMap("heads/lm/bias", "cls.predictions.bias", VOCAB),
        *dense("heads/pair/pooler", "bert.pooler.dense"),
        *dense("heads/pair/output", "cls.seq_relationship"),
        *dense("heads/classification/pooler", "bert.pooler.dense"),
        *dense("heads/classification/output", "classifier"),
        *dense("heads/multiple_choice/pooler", "bert.pooler.dense"),
        *dense("heads/multiple_choice/output", "classifier"),
        *dense("heads/tagging/output", "classifier"),
        *dense("heads/question_answering/output", "qa_outputs"),
    ],
    config_keys=CONFIG_KEYS,
    fixed=FIXED,
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    legacy_suffixes=LEGACY_SUFFIXES,
    ignored=IGNORED,
    head_dropout_key="classifier_dropout",
    head_needs=task_heads("tanh"),
)
