"""An encoder-decoder pretrained by denoising: the encoder reads the text with half of its tokens
corrupted, the decoder generates all of it (`bert_style` of Raffel et al. 2020, section 3.3.1, table 4).

T5's comparison corrupts 15 %; with more noise less of the target is a copy (docs/log.md). T5 itself is
objective=span_corruption; objective=prefix_lm works too.

python train.py --config=configs/encoder_decoder.py --workdir=runs/encoder_decoder
python train.py --config=configs/encoder_decoder.py:size=small --workdir=runs/encoder_decoder-small
python train.py --config=configs/encoder_decoder.py:preset=t5-base --workdir=runs/t5-base

Measured on one of two CPU cores (docs/results.md) as configs/sweeps/three_ways.py:preset=study:
20 minutes; validation loss 1.827; test accuracy after finetuning on 200 docstrings 0.566, on 2,000 0.778.
    ... --config=configs/encoder_decoder.py:size=tiny --config.training.duration='1e7 tokens'
"""

from configs import base


def get_config(arg=""):
    """Pretraining config of an encoder-decoder.

    Args:
      arg: comma-separated NAME=VALUE:
        size: tiny, mini (default), small, medium, base, large, xl.
        recipe: classic (default), modern or t5.
        preset, instead of size and recipe: t5-small, t5-base, t5-large, t5-3b, t5-11b,
          t5-v1.1-small, t5-v1.1-base, t5-v1.1-large, t5-v1.1-xl, t5-v1.1-xxl, bart-base, bart-large.
        objective: bert_style with noise_density 0.5 (default), or another one for encoder-decoders
          (docs/objectives.md) with the values of its paper.
    """
    config = base.pretraining("encoder_decoder", "bert_style", arg, noise_density=0.5)
    # Encoder and decoder read a row each: as many tokens per step as the 32 rows of the others.
    config.training.batch_size = 16
    return config
