"""The right one of several choices (SWAG, RACE, COPA, PIQA), from any pretrained run.

    python finetune.py --config=configs/finetune/multiple_choice.py --workdir=runs/enc-swag \\
                       --config.init_from=runs/encoder --config.task.source='files:/path/{train,dev}.jsonl'
    SWAG  --config.task.context_column=sent1 --config.task.text_column=sent2 \\
          --config.task.choice_columns="('ending0', 'ending1', 'ending2', 'ending3')"
    RACE  --config.task.context_column=article --config.task.text_column=question \\
          --config.task.choices_column=options --config.task.label_column=answer --config.task.max_seq_len=512
    PIQA  --config.task.text_column=goal --config.task.choice_columns="('sol1', 'sol2')"

The published reference on SWAG is a test accuracy of 86.3 (BERT-large; Devlin et al. 2019, table 4).
"""

import ml_collections


def get_config():
    """The recipe of configs/finetune/classification.py."""
    config = ml_collections.ConfigDict()
    config.task = {"name": "multiple_choice", "source": "", "max_seq_len": 128}
    config.training = {"duration": "3 epochs", "batch_size": 16}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_lr_frac": 0.0})
    return config
