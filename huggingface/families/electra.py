"""ELECTRA (Clark et al. 2020): BERT with embeddings of a separate size. The generator is a masked
language model; the discriminator predicts for each token whether it was replaced.
"""

from huggingface.config_mapping import ConfigKey, of_other_classes
from huggingface.families import bert
from huggingface.family import VOCAB, Family, ParamMap, dense, norm

_OWN = (("activation",), ("emb_dim",), ("num_heads",), ("mlp_dim",))  # other values or defaults

ELECTRA = Family(
    model_type="electra",
    prefix="electra.",
    classes={
        "ElectraForMaskedLM": "lm",
        "ElectraForPreTraining": "discriminator",
        "ElectraForSequenceClassification": "classification",
        "ElectraForMultipleChoice": "multiple_choice",
        "ElectraForTokenClassification": "tagging",
        "ElectraForQuestionAnswering": "question_answering",
        "ElectraModel": "",
    },
    params=[
        *bert.trunk("electra."),
        *dense("projection", "electra.embeddings_project"),
        *dense("heads/lm/transform", "generator_predictions.dense"),
        *norm("heads/lm/norm", "generator_predictions.LayerNorm"),
        ParamMap("heads/lm/bias", "generator_lm_head.bias", VOCAB),
        *dense("heads/discriminator/dense", "discriminator_predictions.dense"),
        *dense("heads/discriminator/output", "discriminator_predictions.dense_prediction"),
        *dense("heads/classification/pooler", "classifier.dense"),
        *dense("heads/classification/output", "classifier.out_proj"),
        *dense("heads/multiple_choice/pooler", "sequence_summary.summary"),
        *dense("heads/multiple_choice/output", "classifier"),
        *dense("heads/tagging/output", "classifier"),
        *dense("heads/question_answering/output", "qa_outputs"),
    ],
    config_keys=[
        *(key for key in bert.CONFIG_KEYS if key.fields not in _OWN),
        ConfigKey("hidden_size", "emb_dim", 256),
        ConfigKey("num_attention_heads", "num_heads", 4),
        ConfigKey("intermediate_size", "mlp_dim", 1024),
        ConfigKey("embedding_size", "embedding_size", 128),
        ConfigKey("hidden_act", "activation", "gelu", {"gelu": "gelu"}),  # the LM head's is fixed
    ],
    fixed=bert.FIXED,
    tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ignored=bert.IGNORED,
    unused=of_other_classes(
        "summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"
    ),
    head_dropout_key="classifier_dropout",
    head_keys={
        "multiple_choice": {
            "summary_type": "first",
            "summary_use_proj": True,
            "summary_activation": "gelu",
        }
    },
    head_needs=bert.task_heads("gelu"),
)
