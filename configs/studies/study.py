"""The study: 3.3 million tokens per architecture, then 200 and 2,000 labels, with five seeds.

python -m studies.three_ways --config=configs/studies/study.py --workdir=runs/study

Measured on a 2-core CPU (docs/log.md), 16 minutes of pretraining in all: test accuracy with 2,000
labels, pretrained and random: encoder 0.685 and 0.420, decoder 0.694 and 0.426, encoder-decoder 0.616
and 0.372 (5 seeds).
"""

from configs import base


def get_config():
    """Config of the study, with the learning rates that studies.tune found (docs/log.md)."""
    return base.study(
        "Pretraining three ways",
        "200 steps",
        pretrain_config="configs/{architecture}.py:size=tiny",
        pretrain_overrides=(
            "model.num_layers=4",
            "training.duration=3.3e6 tokens",
            "evaluation.every=10 %",
        ),
        label_budgets=(200, 2000),
        learning_rate_grid=(1e-4, 3e-4, 1e-3, 3e-3),
        learning_rates=base.LEARNING_RATES,
    )
