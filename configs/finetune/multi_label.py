"""Any number of labels for each text or pair of texts (topics, emotions), from any pretrained run.

    python finetune.py --config=configs/finetune/multi_label.py --workdir=runs/enc-topics \\
                       --config.init_from=runs/encoder \\
                       --config.task.source='files:/path/{train,dev,test}.jsonl'
    ... --config.task.label_separator=,                                # 'sports,finance' in a column
    ... --config.task.label_columns="('toxic', 'obscene', 'insult')"   # a column of 0 and 1 for each label

The published reference on GoEmotions is 0.46 macro F1 (BERT-base; Demszky et al. 2020, table 4).
"""

import ml_collections


def get_config():
    """The recipe of configs/finetune/classification.py."""
    config = ml_collections.ConfigDict()
    config.task = {"name": "multi_label", "source": "", "max_seq_len": 128}
    config.training = {"duration": "3 epochs", "batch_size": 16}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_lr_frac": 0.0})
    return config
