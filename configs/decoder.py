"""A decoder by causal language modelling, as GPT (Radford et al. 2018): the next word.

python train.py --config=configs/decoder.py --workdir=runs/decoder
python train.py --config=configs/decoder.py:size=small --workdir=runs/decoder-small
python train.py --config=configs/decoder.py:preset=gpt2 --workdir=runs/gpt2
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl with recipe=classic|modern, or preset=NAME of
    models/presets.py; objective=NAME."""
    return base.pretraining("decoder", "causal_lm", arg)
