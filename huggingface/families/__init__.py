"""Every family, by the `model_type` of its config.json; a new one is a file and two lines here.
Each file is two tables: tensor names and config keys, Hugging Face's and ours side by side.
Read by huggingface/convert.py. A run that fits several families is exported as the first.
"""

from huggingface.families.bart import BART
from huggingface.families.bert import BERT
from huggingface.families.distilbert import DISTILBERT
from huggingface.families.electra import ELECTRA
from huggingface.families.esm import ESM
from huggingface.families.gemma import GEMMA, GEMMA2, GEMMA3
from huggingface.families.gpt2 import GPT2
from huggingface.families.gpt_neox import GPT_NEOX
from huggingface.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from huggingface.families.modernbert import MODERNBERT
from huggingface.families.olmo2 import OLMO2
from huggingface.families.phi3 import PHI3
from huggingface.families.roberta import ROBERTA, XLM_ROBERTA
from huggingface.families.starcoder2 import STARCODER2
from huggingface.families.t5 import MT5, T5
from huggingface.family import Family

_DECODERS = (
    GPT2, T5, LLAMA, MISTRAL, QWEN2, QWEN3, STARCODER2, GPT_NEOX, GEMMA, GEMMA2, GEMMA3, OLMO2, PHI3,
    MT5,
)  # fmt: skip
_ENCODERS = (ROBERTA, ELECTRA, DISTILBERT, MODERNBERT, XLM_ROBERTA, ESM)
FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (BERT, *_DECODERS, *_ENCODERS, BART)
}
