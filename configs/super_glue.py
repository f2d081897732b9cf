"""The tasks of SuperGLUE (Wang et al. 2019) that read texts, pairs or choices, from any pretrained run.

    python finetune.py --config=configs/super_glue.py:task=boolq --workdir=runs/boolq --config.init_from=PATH
    ... --config.task.source=files:/path/{train,val}.jsonl      # instead of tfds:super_glue/boolq

`task` is one of boolq, cb, copa and rte. Published test scores of BERT-large (Wang et al. 2019, table 3):

    boolq  accuracy            77.4       copa  accuracy  70.6
    cb     macro F1, accuracy  75.7, 83.6 rte   accuracy  71.7

wic, wsc, multirc and record need more columns than a text and a pair; axb and axg have no train split.
"""

from configs.base import parse
from configs.glue import recipe

NLI = {"text_column": "premise", "text_pair_column": "hypothesis"}
TASKS = {
    "boolq": {"text_column": "question", "text_pair_column": "passage", "max_seq_len": 256},
    "cb": NLI | {"metric": "macro_f1"},
    "copa": {
        "name": "multiple_choice",
        "context_column": "premise",
        "text_column": "question",
        "choice_columns": ("choice1", "choice2"),
    },
    "rte": NLI,
}


def get_config(arg="task=boolq"):
    """The recipe of configs/glue.py, with 10 epochs for the sets of a few hundred examples."""
    task = parse(arg, task="boolq")["task"]
    if task not in TASKS:
        raise ValueError(f"task={task}: expected one of {', '.join(TASKS)}")
    epochs = "10 epochs" if task in ("cb", "copa") else "3 epochs"
    return recipe({"source": f"tfds:super_glue/{task}", **TASKS[task]}, duration=epochs)
