"""ELECTRA (Clark et al. 2020), both halves: the generator is a masked language model, the
discriminator says of every token whether it was replaced. BERT with embeddings of their own width.
"""

from huggingface.families import bert
from huggingface.family import PIECES, Family, Key, Line, dense, norm

ELECTRA = Family(
    model_type="electra",
    prefix="electra.",
    classes={
        "ElectraForMaskedLM": "lm",
        "ElectraForPreTraining": "discriminator",
        "ElectraForSequenceClassification": "classification",
        "ElectraModel": "",
    },
    lines=[
        *bert.trunk("electra."),
        *dense("projection", "electra.embeddings_project"),
        *dense("heads/lm/transform", "generator_predictions.dense"),
        *norm("heads/lm/norm", "generator_predictions.LayerNorm"),
        Line("heads/lm/bias", "generator_lm_head.bias", PIECES),
        *dense("heads/discriminator/dense", "discriminator_predictions.dense"),
        *dense("heads/discriminator/output", "discriminator_predictions.dense_prediction"),
        *dense("heads/classification/pooler", "classifier.dense"),
        *dense("heads/classification/output", "classifier.out_proj"),
    ],
    keys=[
        *(key for key in bert.KEYS if key.fields != ("activation",)),
        Key("embedding_size", "embedding_size", 128),
        Key("hidden_act", "activation", "gelu", {"gelu": "gelu"}),  # the output's is always this
    ],
    fixed=bert.FIXED,
    copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ignored=bert.IGNORED,
    needs={"classification": {"pooler": True, "pooler_activation": "gelu", "reading": "state"}},
)
