"""RoBERTa (Liu et al. 2019), DistilRoBERTa and XLM-RoBERTa (Conneau et al. 2020): BERT with one token type
and a position table whose first rows are unused.
"""

import dataclasses

from huggingface.config_mapping import ConfigKey, CustomKey
from huggingface.families import bert
from huggingface.family import VOCAB, Family, ParamMap, dense, norm


def _read_positions(config):
    """Positions start after the padding token's id (a convention of fairseq)."""
    pad, rows = config.get("pad_token_id", 1), config.get("max_position_embeddings", 512)
    if type(pad) is not int or type(rows) is not int or not 0 <= pad < rows - 1:
        raise ValueError(
            f"pad_token_id={pad!r}, max_position_embeddings={rows!r} (expected integers of at least 0, "
            "the second larger by at least 2)"
        )
    return {"position_offset": pad + 1, "max_length": rows - pad - 1}


def _write_positions(model):
    if not model.position_offset:
        raise ValueError("model.position_offset=0 (expected at least 1)")
    rows = model.max_length + model.position_offset
    return {"max_position_embeddings": rows, "pad_token_id": model.position_offset - 1}


_OWN = (("max_length",), ("activation",), ("vocab_size",))  # other values or defaults


def _classes(name):
    return {
        f"{name}ForMaskedLM": "lm pair/pooler?",
        f"{name}ForSequenceClassification": "classification",
        f"{name}ForMultipleChoice": "multiple_choice",
        f"{name}ForTokenClassification": "tagging",
        f"{name}ForQuestionAnswering": "question_answering",
        f"{name}Model": "pair/pooler?",
    }


ROBERTA = Family(
    model_type="roberta",
    prefix="roberta.",
    classes=_classes("Roberta"),
    params=[
        *bert.trunk("roberta."),
        *dense("heads/lm/transform", "lm_head.dense"),
        *norm("heads/lm/norm", "lm_head.layer_norm"),
        ParamMap("heads/lm/bias", "lm_head.bias", VOCAB),
        *dense("heads/pair/pooler", "roberta.pooler.dense"),
        *dense("heads/classification/pooler", "classifier.dense"),
        *dense("heads/classification/output", "classifier.out_proj"),
        *dense("heads/multiple_choice/pooler", "roberta.pooler.dense"),
        *dense("heads/multiple_choice/output", "classifier"),
        *dense("heads/tagging/output", "classifier"),
        *dense("heads/question_answering/output", "qa_outputs"),
    ],
    config_keys=[
        *(key for key in bert.CONFIG_KEYS if key.fields not in _OWN),
        ConfigKey("vocab_size", "vocab_size", 50265),
        CustomKey(
            ("position_offset", "max_length"),
            _read_positions,
            _write_positions,
            ("max_position_embeddings", "pad_token_id"),
        ),
        ConfigKey("hidden_act", "activation", "gelu", {"gelu": "gelu"}),  # the LM head's is fixed
    ],
    fixed=bert.FIXED,
    tied={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=bert.IGNORED,
    head_dropout_key="classifier_dropout",
    head_needs=bert.task_heads("tanh"),
)
XLM_ROBERTA = dataclasses.replace(ROBERTA, model_type="xlm-roberta", classes=_classes("XLMRoberta"))
XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta",
    classes=_classes("XLMRoberta"),
    config_keys=[
        key._replace(default=30522) if key.hf == "vocab_size" else key
        for key in ROBERTA.config_keys
    ],
)
