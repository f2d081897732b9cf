"""An encoder pretrained by masked language modeling, as BERT (Devlin et al. 2019).

python train.py --config=configs/encoder.py --workdir=runs/encoder
python train.py --config=configs/encoder.py:size=small --workdir=runs/encoder-small
python train.py --config=configs/encoder.py:preset=bert-base --workdir=runs/bert-base

Measured on one of two CPU cores (docs/results.md) as configs/sweeps/three_ways.py:preset=study:
14 minutes; validation loss 3.355; test accuracy after finetuning on 200 docstrings 0.543, on 2,000 0.792.
    ... --config=configs/encoder.py:size=tiny --config.training.duration='1e7 tokens'
"""

from configs import base


def get_config(arg=""):
    """Pretraining config of an encoder.

    Args:
      arg: comma-separated NAME=VALUE:
        size: tiny, mini (default), small, medium, base, large, xl.
        recipe: classic (default), modern or modernbert.
        preset, instead of size and recipe: bert-tiny, bert-mini, bert-small, bert-medium, bert-base,
          bert-large, electra-small, electra-small-generator, electra-small++-generator,
          electra-base, electra-base-generator, roberta-base, roberta-large, distilbert-base,
          modernbert-base, modernbert-large.
        objective: masked_lm (default), or another one for encoders (docs/objectives.md).
    """
    return base.pretraining("encoder", "masked_lm", arg)
