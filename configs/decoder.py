"""A decoder by causal language modelling, as GPT (Radford et al. 2018): the next word.

python train.py --config=configs/decoder.py --workdir=runs/decoder
python train.py --config=configs/decoder.py:size=small --workdir=runs/decoder-small
python train.py --config=configs/decoder.py:preset=gpt2 --workdir=runs/gpt2

Measured on two busy CPU cores (docs/log.md), as the study pretrains it:
4.8 minutes to a held-out loss of 4.079;
finetuned on 200 docstrings 0.487 ± 0.025 test accuracy, on 2,000 0.694 ± 0.007 (five seeds).
    ... --config=configs/decoder.py:size=tiny --config.model.layers=4 \\
        --config.training.duration='3.3e6 tokens'
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl with recipe=classic|modern, or preset=NAME of
    models/presets.py; objective=NAME."""
    return base.pretraining("decoder", "causal_lm", arg)
