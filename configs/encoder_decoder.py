"""An encoder-decoder by denoising: half of the pieces corrupted, the whole text typed (BERT-style).

T5's comparison (Raffel et al. 2020, section 3.3.1, table 4) with more noise: what is merely copied
teaches little (docs/log.md). objective=span_corruption is T5 itself, objective=prefix_lm as well.

python train.py --config=configs/encoder_decoder.py --workdir=runs/encoder_decoder
python train.py --config=configs/encoder_decoder.py:size=small --workdir=runs/encoder_decoder-small
python train.py --config=configs/encoder_decoder.py:preset=t5-base --workdir=runs/t5-base

Measured on two busy CPU cores (docs/log.md), as the study pretrains it:
6.4 minutes to a held-out loss of 2.478;
finetuned on 200 docstrings 0.472 ± 0.023 test accuracy, on 2,000 0.616 ± 0.024 (five seeds).
    ... --config=configs/encoder_decoder.py:size=tiny --config.model.layers=4 \\
        --config.training.duration='3.3e6 tokens'
"""

from configs import base


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl with recipe=classic|modern, or preset=NAME of
    models/presets.py; objective=NAME, with its paper's values."""
    config = base.pretraining("encoder_decoder", "bert_style", arg, noise_density=0.5)
    config.training.batch_size = 16  # a row is read on two sides: as many tokens as the others' 32
    return config
