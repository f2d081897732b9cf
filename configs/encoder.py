"""An encoder by masked language modelling, as BERT (Devlin et al. 2019): both directions seen.

python train.py --config=configs/encoder.py --workdir=runs/encoder
python train.py --config=configs/encoder.py:size=small --workdir=runs/encoder-small
python train.py --config=configs/encoder.py:preset=bert-base --workdir=runs/bert-base

Measured on two busy CPU cores (docs/log.md), as the study pretrains it:
4.8 minutes to a held-out loss of 4.349;
finetuned on 200 docstrings 0.479 ± 0.020 test accuracy, on 2,000 0.685 ± 0.017 (five seeds).
    ... --config=configs/encoder.py:size=tiny --config.model.layers=4 \\
        --config.training.duration='3.3e6 tokens'
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl with recipe=classic|modern, or preset=NAME of
    models/presets.py; objective=NAME."""
    return base.pretraining("encoder", "masked_lm", arg)
