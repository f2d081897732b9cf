"""An encoder pretrained by masked language modeling, as BERT (Devlin et al. 2019).

python train.py --config=configs/encoder.py --workdir=runs/encoder
python train.py --config=configs/encoder.py:size=small --workdir=runs/encoder-small
python train.py --config=configs/encoder.py:preset=bert-base --workdir=runs/bert-base

Measured on a 2-core CPU (docs/log.md) as configs/sweeps/three_ways.py:preset=study:
4.8 minutes; validation loss 4.349;
test accuracy after finetuning on 200 docstrings 0.479 ± 0.020, on 2,000 0.685 ± 0.017 (5 seeds).
    ... --config=configs/encoder.py:size=tiny --config.model.num_layers=4 \\
        --config.training.duration='3.3e6 tokens'
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
