"""An encoder-decoder by span corruption, as T5 (Raffel et al. 2020): prefix in, dropped spans out.

python train.py --config=configs/encoder_decoder.py --workdir=runs/encoder_decoder
python train.py --config=configs/encoder_decoder.py:size=small --workdir=runs/encoder_decoder-small
python train.py --config=configs/encoder_decoder.py:preset=t5-base --workdir=runs/t5-base
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl with recipe=classic|modern, or preset=NAME of
    models/presets.py; objective=NAME."""
    return base.pretraining("encoder_decoder", "span_corruption", arg)
