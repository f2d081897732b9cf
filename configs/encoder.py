"""An encoder by masked language modelling, as BERT (Devlin et al. 2019): both directions seen.

python train.py --config=configs/encoder.py --workdir=runs/encoder
python train.py --config=configs/encoder.py:size=small --workdir=runs/encoder-small
python train.py --config=configs/encoder.py:preset=bert-base --workdir=runs/bert-base
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl with recipe=classic|modern, or preset=NAME of
    models/presets.py; objective=NAME."""
    return base.pretraining("encoder", "masked_lm", arg)
