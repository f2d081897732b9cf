"""BERT (Devlin et al. 2019), its smaller sizes (Turc et al. 2019) and what is shaped like it: MiniLM,
sentence encoders. model_type "bert".
"""

from huggingface.family import ACTIVATIONS, PIECES, Family, Key, Line, Only, Rule, dense, norm

LAYER = "encoder/layer_{i}"


def _types(model):
    if not model.token_types:
        raise ValueError("model.token_types=0 (expected at least 1)")
    return {"type_vocab_size": model.token_types}


KEYS = [
    Key("vocab_size", "vocab_size", 30522),
    Key("max_position_embeddings", "max_length", 512),
    Rule(("token_types",), Key("type_vocab_size", "token_types", 2).read, _types),
    Key("num_hidden_layers", "layers", 12),
    Key("hidden_size", "width", 768),
    Key("num_attention_heads", "heads", 12),
    Key("intermediate_size", "mlp_size", 3072),
    Key("hidden_act", "activation", "gelu", ACTIVATIONS),
    Key("layer_norm_eps", "norm_epsilon", 1e-12),
    Key("hidden_dropout_prob", "dropout", 0.1),
    Key("attention_probs_dropout_prob", "attention_dropout", 0.1),
    Key("initializer_range", "init_std", 0.02),
    Only("position_embedding_type", "absolute"),
    Only("tie_word_embeddings", True),
    Only("is_decoder", False),
    Only("add_cross_attention", False),
]
FIXED = {
    "architecture": "encoder",
    "norm_position": "post",
    "embedding_norm": True,
    "readout_transform": True,
    "output_bias": True,
}
IGNORED = (r".*embeddings\.position_ids",)


def trunk(prefix: str) -> list[Line]:
    """The network's lines; `prefix` is the family's, with its dot."""
    at = f"{prefix}encoder.layer.{{i}}"
    return [
        Line("embed/tokens/embedding", f"{prefix}embeddings.word_embeddings.weight", PIECES),
        Line("embed/positions/embedding", f"{prefix}embeddings.position_embeddings.weight"),
        Line("embed/types/embedding", f"{prefix}embeddings.token_type_embeddings.weight"),
        *norm("embed/norm", f"{prefix}embeddings.LayerNorm"),
        *dense(f"{LAYER}/self_attention/query", f"{at}.attention.self.query"),
        *dense(f"{LAYER}/self_attention/key", f"{at}.attention.self.key"),
        *dense(f"{LAYER}/self_attention/value", f"{at}.attention.self.value"),
        *dense(f"{LAYER}/self_attention/out", f"{at}.attention.output.dense"),
        *norm(f"{LAYER}/self_attention_norm", f"{at}.attention.output.LayerNorm"),
        *dense(f"{LAYER}/mlp/in", f"{at}.intermediate.dense"),
        *dense(f"{LAYER}/mlp/out", f"{at}.output.dense"),
        *norm(f"{LAYER}/mlp_norm", f"{at}.output.LayerNorm"),
    ]


BERT = Family(
    model_type="bert",
    prefix="bert.",
    classes={
        "BertForPreTraining": "lm pair",
        "BertForMaskedLM": "lm pair?",
        "BertForNextSentencePrediction": "pair",
        "BertForSequenceClassification": "classification",
        "BertModel": "pair/pooler?",
    },
    lines=[
        *trunk("bert."),
        # heads
        *dense("heads/lm/transform", "cls.predictions.transform.dense"),
        *norm("heads/lm/norm", "cls.predictions.transform.LayerNorm"),
        Line("heads/lm/bias", "cls.predictions.bias", PIECES),
        *dense("heads/pair/pooler", "bert.pooler.dense"),
        *dense("heads/pair/output", "cls.seq_relationship"),
        *dense("heads/classification/pooler", "bert.pooler.dense"),
        *dense("heads/classification/output", "classifier"),
    ],
    keys=KEYS,
    fixed=FIXED,
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    renamed=((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")),
    ignored=IGNORED,
    needs={"classification": {"pooler": True, "reading": "state"}},
)
