"""The main job in its large form: 3.3 million tokens per architecture, 200 and 2,000 labels, 5 seeds.

python -m studies.three_ways --config=configs/studies/study.py --workdir=runs/study
"""

import ml_collections

from configs import base


def get_config():
    """Plan of the study; the rates come from studies.tune (docs/log.md)."""
    config = ml_collections.ConfigDict()
    config.title = "Pretraining three ways"
    config.budgets = (200, 2000)
    config.seeds = (0, 1, 2, 3, 4)
    config.pretrain_config = "configs/{architecture}.py:size=tiny"
    config.pretrain = (
        "model.layers=4",
        "training.duration=3.3e6 tokens",
        "evaluation.every=10 %",
    )
    config.finetune = (
        "training.duration=200 steps",
        "evaluation.every=25 %",
        "evaluation.select=last",
        "checkpoint.every=never",
        "logging.tensorboard=false",
    )
    config.grid = (1e-4, 3e-4, 1e-3, 3e-3)
    config.tune_seeds = (1000,)
    config.rates = base.RATES
    return config
