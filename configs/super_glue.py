"""Seven of SuperGLUE's eight tasks (Wang et al. 2019), from any pretrained run.

    python finetune.py --config=configs/super_glue.py:task=boolq --workdir=runs/boolq --config.init_from=PATH
    ... --config.task.source='files:/path/{train,val}.jsonl'      # instead of tfds:super_glue/boolq

`task` is one of these; the published test scores are those of BERT-large (Wang et al. 2019, table 3):

    boolq    accuracy            77.4         wic   accuracy  69.6
    cb       macro F1, accuracy  75.7, 83.6   wsc   accuracy  64.4
    copa     accuracy            70.6         rte   accuracy  71.7
    multirc  F1 of the answers   70.0

wic, wsc and multirc have more columns than a text and a pair: they are prompts for a decoder or an
encoder-decoder, which generates the label. record fills a gap in a query with an entity of the passage, of
which several may be right: no task here does that; axb and axg have no train split.
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
    "wic": {
        "name": "text_to_text",
        "prompt": "wic word: {word} sentence1: {sentence1} sentence2: {sentence2}",
    },
    "wsc": {
        "name": "text_to_text",
        "prompt": "wsc noun: {span1_text} pronoun: {span2_text} text: {text}",
    },
    "multirc": {
        "name": "text_to_text",
        "prompt": "multirc question: {question} answer: {answer} paragraph: {paragraph}",
        "metric": "f1",
        "max_seq_len": 512,
    },
}


def get_config(arg="task=boolq"):
    """The recipe of configs/glue.py, with 10 epochs for the sets of a few hundred examples."""
    task = parse(arg, task="boolq")["task"]
    if task not in TASKS:
        raise ValueError(f"task={task}: expected one of {', '.join(TASKS)}")
    epochs = "10 epochs" if task in ("cb", "copa", "wsc") else "3 epochs"
    return recipe({"source": f"tfds:super_glue/{task}", **TASKS[task]}, duration=epochs)
