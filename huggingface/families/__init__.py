"""Every family there is, by the `model_type` of its config.json; a new one is a file and a line here.
Each file is two tables: names of tensors and keys of the config, theirs and ours side by side.
Read by huggingface/convert.py.
"""

from huggingface.families import bart, bert, distilbert, electra, modernbert, roberta
from huggingface.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        bert.BERT,
        roberta.ROBERTA,
        electra.ELECTRA,
        distilbert.DISTILBERT,
        modernbert.MODERNBERT,
        bart.BART,
    )
}
