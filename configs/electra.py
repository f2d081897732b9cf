"""An encoder pretrained by replaced-token detection, as ELECTRA (Clark et al. 2020).

python train.py --config=configs/electra.py --workdir=runs/electra
python finetune.py --config=configs/finetune/classification.py --workdir=runs/electra-docs \\
                   --config.init_from=runs/electra

Measured on a 2-core CPU (docs/log.md), as configs/sweeps/objectives.py pretrains it:
test accuracy after finetuning on 200 docstrings 0.171 ± 0.020 (5 seeds; masked LM: 0.452 ± 0.015).
This objective needs far more compute than masked LM before it is better.
"""

from configs import base, encoder


def get_config(arg=""):
    """configs/encoder.py:objective=replaced_token_detection with the shapes of Clark et al. (table 6):
    embeddings of size 128 below base (ELECTRA-Small), a generator of 1/3 at base and 1/4 elsewhere.

    Args:
      arg: size=SIZE, one of tiny, mini (default), small, medium, base, large, xl.
    """
    size = base.parse(arg, size="mini")["size"]
    config = encoder.get_config(f"size={size},objective=replaced_token_detection")
    if config.model.emb_dim < 768:
        config.model.embedding_size = 128
    config.objective.generator_size = 1 / 3 if size == "base" else 1 / 4
    return config
