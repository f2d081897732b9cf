"""GLUE's nine tasks (Wang et al. 2018), from any pretrained run or Hugging Face directory.

    python finetune.py --config=configs/glue.py:task=mrpc --workdir=runs/mrpc --config.init_from=PATH
    ... --config.task.source='files:/path/{train,dev}.tsv'      # instead of tfds:glue/mrpc

`task` is one of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte and wnli. Columns are named as in TFDS; a file
with other names needs --config.task.text_column and so on. Published test scores of BERT-base (Devlin et
al. 2019, table 1), by which the best checkpoint is chosen here too:

    cola  Matthews correlation  52.1       qqp   F1        71.2 (accuracy is reported too)
    sst2  accuracy              93.5       mnli  accuracy  84.6 matched, 83.4 mismatched
    mrpc  F1                    88.9       qnli  accuracy  90.5
    stsb  Spearman correlation  85.8       rte   accuracy  66.4
    wnli  accuracy              65.1, what the most frequent label gives (Wang et al. 2018, table 4)

With tfds:glue/mnli validation is the matched part. Small models pretrained here need larger learning rates
than published ones: --config.optimizer.learning_rate=1e-3.
"""

import ml_collections

from configs.base import parse

PAIR = {"text_column": "sentence1", "text_pair_column": "sentence2"}
TASKS = {
    "cola": {"text_column": "sentence", "metric": "matthews"},
    "sst2": {"text_column": "sentence"},
    "mrpc": PAIR | {"metric": "f1"},
    "stsb": PAIR | {"name": "regression", "metric": "spearman"},
    "qqp": {"text_column": "question1", "text_pair_column": "question2", "metric": "f1"},
    "mnli": {"text_column": "premise", "text_pair_column": "hypothesis"},
    "qnli": {"text_column": "question", "text_pair_column": "sentence"},
    "rte": PAIR,
    "wnli": PAIR,
}


def get_config(arg="task=sst2"):
    """The recipe of Devlin et al. 2019, appendix A.3: batches of 32, 3 epochs, a rate among 2e-5 to 5e-5."""
    task = parse(arg, task="sst2")["task"]
    if task not in TASKS:
        raise ValueError(f"task={task}: expected one of {', '.join(TASKS)}")
    return recipe({"source": f"tfds:glue/{task}", **TASKS[task]})


def recipe(task, **training):
    """The config with these fields of the task."""
    config = ml_collections.ConfigDict()
    config.task = {"name": "classification", "label_column": "label", "max_seq_len": 128, **task}
    config.training = {"duration": "3 epochs", "batch_size": 32, **training}
    config.optimizer = {"name": "adamw", "learning_rate": 3e-5, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_lr_frac": 0.0})
    return config
