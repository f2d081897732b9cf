"""The main job in its small form: every step of the study on data that every machine has.

python -m studies.three_ways --config=configs/studies/quickstart.py --workdir=runs/quickstart
"""

from configs import base


def get_config():
    """Plan of the quickstart; its rates are those that studies.tune found for the study."""
    return base.plan(
        "Pretraining three ways: quickstart",
        "80 steps",
        pretrain_config="configs/{architecture}.py:size=tiny",
        pretrain=("training.duration=400 steps", "evaluation.every=20 %"),
        budgets=(100, 1000),
        seeds=(0, 1),
        rates=base.RATES,
    )
