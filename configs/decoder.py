"""A decoder by causal language modelling, as GPT (Radford et al. 2018): the next word.

python train.py --config=configs/decoder.py --workdir=runs/decoder
python train.py --config=configs/decoder.py:size=small --workdir=runs/decoder-small
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl, objective=NAME."""
    arg = base.parse(arg, size="mini", objective="causal_lm")
    return base.pretraining("decoder", arg["objective"], arg["size"])
