"""An encoder by masked language modelling, as BERT (Devlin et al. 2019): both directions seen.

python train.py --config=configs/encoder.py --workdir=runs/encoder
python train.py --config=configs/encoder.py:size=small --workdir=runs/encoder-small
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl, objective=NAME."""
    arg = base.parse(arg, size="mini", objective="masked_lm")
    return base.pretraining("encoder", arg["objective"], arg["size"])
