"""A tagger of words: named entities, parts of speech, in all three architectures.

    python finetune.py --config=configs/finetune/tagging.py --workdir=runs/enc-ner \\
                       --config.init_from=runs/encoder \\
                       --config.task.source='files:conll2003/{train,validation,test}.conll'
    ... --config=configs/finetune/tagging.py:data=ud --config.task.source='files:UD_English-EWT/*.conllu'
    ... --config.task.spans_column=entities --config.task.source='files:/path/{train,dev,test}.jsonl'

Published: CoNLL-2003 test, entity F1 92.4 with BERT-base and 92.8 with BERT-large (Devlin et al. 2019, table
7; cased, with document context). UD English EWT test, UPOS 95.4 from raw text (Stanza; Qi et al. 2020,
table 2); tokens are given here, so scores are higher.
"""

import ml_collections

from configs import base

# Columns of each kind of set: the defaults of the task.
_DATA = {
    "ner": {"source": "files:conll2003/{train,validation,test}.conll"},
    "ud": {"source": "files:UD_English-EWT/*.conllu", "tag_column": "upos", "scheme": "none"},
}


def get_config(arg=""):
    """Finetuning config of a tagger.

    Args:
      arg: comma-separated NAME=VALUE:
        data: ner (default; entities in the last column) or ud (UPOS of Universal Dependencies).
    """
    kind = base.parse(arg, data="ner")["data"]
    if kind not in _DATA:
        raise ValueError(f"data={kind}: expected {' or '.join(_DATA)}")
    config = ml_collections.ConfigDict()
    config.task = {"name": "tagging", **_DATA[kind]}
    config.training = {"duration": "3 epochs", "batch_size": 32}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_lr_frac": 0.0})
    return config
