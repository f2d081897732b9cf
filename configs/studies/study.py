"""The main job in its large form: 3.3 million tokens per architecture, 200 and 2,000 labels, 5 seeds.

python -m studies.three_ways --config=configs/studies/study.py --workdir=runs/study
"""

from configs import base


def get_config():
    """Plan of the study; the rates come from studies.tune (docs/log.md)."""
    return base.plan(
        "Pretraining three ways",
        "200 steps",
        pretrain_config="configs/{architecture}.py:size=tiny",
        pretrain=("model.layers=4", "training.duration=3.3e6 tokens", "evaluation.every=10 %"),
        budgets=(200, 2000),
        grid=(1e-4, 3e-4, 1e-3, 3e-3),
        rates=base.RATES,
    )
