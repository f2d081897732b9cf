"""RoBERTa (Liu et al. 2019) and DistilRoBERTa.
BERT with one type of token and a position table whose first rows are never read.
"""

from huggingface.families import bert
from huggingface.family import PIECES, Family, Key, Line, Rule, dense, norm


def _read(config):
    """Positions are counted from behind the padding token's number, as fairseq did."""
    pad, rows = config.get("pad_token_id", 1), config.get("max_position_embeddings", 512)
    if type(pad) is not int or type(rows) is not int or not 0 <= pad < rows - 1:
        raise ValueError(
            f"pad_token_id={pad!r}, max_position_embeddings={rows!r} (expected natural numbers, the "
            "second larger by two at least)"
        )
    return {"position_offset": pad + 1, "max_length": rows - pad - 1}


def _write(model):
    if not model.position_offset:
        raise ValueError("model.position_offset=0 (expected at least 1)")
    rows = model.max_length + model.position_offset
    return {"max_position_embeddings": rows, "pad_token_id": model.position_offset - 1}


ROBERTA = Family(
    model_type="roberta",
    prefix="roberta.",
    classes={
        "RobertaForMaskedLM": "lm pair/pooler?",
        "RobertaForSequenceClassification": "classification",
        "RobertaModel": "pair/pooler?",
    },
    lines=[
        *bert.trunk("roberta."),
        *dense("heads/lm/transform", "lm_head.dense"),
        *norm("heads/lm/norm", "lm_head.layer_norm"),
        Line("heads/lm/bias", "lm_head.bias", PIECES),
        *dense("heads/pair/pooler", "roberta.pooler.dense"),
        *dense("heads/classification/pooler", "classifier.dense"),
        *dense("heads/classification/output", "classifier.out_proj"),
    ],
    keys=[
        *(key for key in bert.KEYS if key.fields not in (("max_length",), ("activation",))),
        Rule(("position_offset", "max_length"), _read, _write),
        Key("hidden_act", "activation", "gelu", {"gelu": "gelu"}),  # the output's is always this
    ],
    fixed=bert.FIXED,
    copies={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=bert.IGNORED,
    needs={"classification": {"pooler": True, "reading": "state"}},
)
