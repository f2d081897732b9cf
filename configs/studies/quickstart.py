"""The main job in its small form: every step of the study on data that every machine has.

python -m studies.three_ways --config=configs/studies/quickstart.py --workdir=runs/quickstart
"""

import ml_collections

from configs import base


def get_config():
    """Plan of the quickstart; its rates are those that studies.tune found for the study."""
    config = ml_collections.ConfigDict()
    config.title = "Pretraining three ways: quickstart"
    config.budgets = (100, 1000)
    config.seeds = (0, 1)
    config.pretrain_config = "configs/{architecture}.py:size=tiny"
    config.pretrain = ("training.duration=400 steps", "evaluation.every=20 %")
    config.finetune = (
        "training.duration=80 steps",
        "evaluation.every=25 %",
        "evaluation.select=last",
        "checkpoint.every=never",
        "logging.tensorboard=false",
    )
    config.rates = base.RATES
    return config
