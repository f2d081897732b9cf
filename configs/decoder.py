"""A decoder pretrained by causal language modeling, as GPT (Radford et al. 2018).

python train.py --config=configs/decoder.py --workdir=runs/decoder
python train.py --config=configs/decoder.py:size=small --workdir=runs/decoder-small
python train.py --config=configs/decoder.py:preset=gpt2 --workdir=runs/gpt2

Measured on one of two CPU cores (docs/results.md) as configs/sweeps/three_ways.py:preset=study:
22 minutes beside tests; validation loss 4.076; test accuracy after finetuning on 200 docstrings 0.548, on
2,000 0.791.
    ... --config=configs/decoder.py:size=tiny --config.training.duration='1e7 tokens'
"""

from configs import base


def get_config(arg=""):
    """Pretraining config of a decoder.

    Args:
      arg: comma-separated NAME=VALUE:
        size: tiny, mini (default), small, medium, base, large, xl.
        recipe: classic (default) or modern.
        preset, instead of size and recipe: gpt2, gpt2-medium, gpt2-large, gpt2-xl.
        objective: causal_lm (default), or another one for decoders (docs/objectives.md), such as mntp
          (masked next-token prediction) or hybrid (both; --config.objective.causal_share=0.5).
    """
    return base.pretraining("decoder", "causal_lm", arg)
