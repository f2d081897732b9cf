"""The main job in its small form: every step of the study on data that every machine has.

python -m studies.three_ways --config=configs/studies/quickstart.py --workdir=runs/quickstart
"""

import ml_collections


def get_config():
    """Plan of the quickstart; the rates come from studies.tune (docs/log.md)."""
    config = ml_collections.ConfigDict()
    config.title = "Pretraining three ways: quickstart"
    config.budgets = (100, 1000)
    config.seeds = (0, 1, 2)
    config.pretrain_config = "configs/{architecture}.py:size=tiny"
    config.pretrain = ("training.duration=400 steps", "evaluation.every=20 %")
    config.finetune = (
        "training.duration=80 steps",
        "evaluation.every=25 %",
        "evaluation.select=last",
        "checkpoint.every=never",
        "logging.tensorboard=false",
    )
    return config
