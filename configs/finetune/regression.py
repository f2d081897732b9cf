"""A number for each text or pair of texts (similarity, quality, price), from any pretrained run.

    python finetune.py --config=configs/finetune/regression.py --workdir=runs/enc-stsb \\
                       --config.init_from=runs/encoder --config.task.source='files:/path/{train,dev,test}.tsv'
    ... --config.task.text_column=sentence1 --config.task.text_pair_column=sentence2 \\
        --config.task.label_column=score

The published reference on STS-B's test set is 85.8 Spearman (BERT-base; Devlin et al. 2019, table 1).
"""

import ml_collections


def get_config():
    """The recipe of configs/finetune/classification.py."""
    config = ml_collections.ConfigDict()
    config.task = {"name": "regression", "source": "", "max_seq_len": 128}
    config.training = {"duration": "3 epochs", "batch_size": 16}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_lr_frac": 0.0})
    return config
