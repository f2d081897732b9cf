"""The whole study at its smallest, on data that every machine has (`make quickstart`).

python -m studies.three_ways --config=configs/studies/quickstart.py --workdir=runs/quickstart

Measured on a 2-core CPU (docs/log.md), 11.5 minutes: test accuracy with 1,000 labels, pretrained and
random: encoder 0.475 and 0.264, decoder 0.520 and 0.294, encoder-decoder 0.346 and 0.247 (2 seeds).
"""

from configs import base


def get_config():
    """Config of the quickstart, with the learning rates that studies.tune found for the study."""
    return base.study(
        "Pretraining three ways: quickstart",
        "80 steps",
        pretrain_config="configs/{architecture}.py:size=tiny",
        pretrain_overrides=("training.duration=400 steps", "evaluation.every=20 %"),
        label_budgets=(100, 1000),
        seeds=(0, 1),
        learning_rates=base.LEARNING_RATES,
    )
