"""Every family there is, by the `model_type` of its config.json; a new one is a file and a line here.
Each file is two tables: names of tensors and keys of the config, theirs and ours side by side.
Read by huggingface/convert.py. A run that several can say becomes the first of them.
"""

from huggingface.families import (
    bart,
    bert,
    distilbert,
    electra,
    gpt2,
    llama,
    modernbert,
    roberta,
    t5,
)
from huggingface.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        bert.BERT,
        gpt2.GPT2,
        t5.T5,
        llama.LLAMA,
        llama.MISTRAL,
        llama.QWEN2,
        llama.QWEN3,
        roberta.ROBERTA,
        electra.ELECTRA,
        distilbert.DISTILBERT,
        modernbert.MODERNBERT,
        bart.BART,
    )
}
