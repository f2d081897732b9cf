"""An encoder-decoder by span corruption, as T5 (Raffel et al. 2020): prefix in, dropped spans out.

python train.py --config=configs/encoder_decoder.py --workdir=runs/encoder_decoder
python train.py --config=configs/encoder_decoder.py:size=small --workdir=runs/encoder_decoder-small
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl, objective=NAME."""
    arg = base.parse(arg, size="mini", objective="span_corruption")
    return base.pretraining("encoder_decoder", arg["objective"], arg["size"])
