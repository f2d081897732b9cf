"""SQuAD 1.1 or 2.0: the answer to a question is a span of its context, or none (2.0).

    python finetune.py --config=configs/finetune/question_answering.py:squad --workdir=runs/squad \\
                       --config.init_from=runs/encoder \\
                       --config.task.source='files:/path/{train,dev}-v1.1.json'
    python finetune.py --config=configs/finetune/question_answering.py:squad_v2 --workdir=runs/squad2 \\
                       --config.init_from=runs/encoder \\
                       --config.task.source='files:/path/{train,dev}-v2.0.json'

Published on the development set (exact match, F1; one model, no other data). SQuAD 1.1: BERT-base 80.8, 88.5
and BERT-large 84.1, 90.9 (Devlin et al. 2019, table 2), RoBERTa-large 88.9, 94.6 (Liu et al. 2019, table 6).
SQuAD 2.0: BERT-large 78.7, 81.9 (Devlin et al. 2019, table 3), RoBERTa-large 86.5, 89.4.
"""

import ml_collections


def get_config(arg="squad"):
    """The recipe of BERT's finetuning (Devlin et al. 2019, sections 4.2 and 4.3) at a learning rate for
    the base size; `arg` is squad or squad_v2."""
    if arg not in ("", "squad", "squad_v2"):
        raise ValueError(f"argument {arg!r}: expected squad or squad_v2")
    version = "v2.0" if arg == "squad_v2" else "v1.1"
    config = ml_collections.ConfigDict()
    config.task = {
        "name": "question_answering",
        "source": f"tfds:squad/{version}",
        "no_answer": arg == "squad_v2",
        "max_seq_len": 384,
        "stride": 128,
    }
    config.training = {"duration": "2 epochs", "batch_size": 32}
    config.optimizer = {"name": "adamw", "learning_rate": 5e-5, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_lr_frac": 0.0})
    return config
