"""An encoder by replaced-token detection, as ELECTRA (Clark et al. 2020): every piece is judged.

python train.py --config=configs/electra.py --workdir=runs/electra
python finetune.py --config=configs/finetune/classification.py --workdir=runs/electra-docs \
                   --config.init_from=runs/electra
"""

from configs import base, encoder


def get_config(arg=""):
    """`arg`: size=tiny|mini|small|medium|base|large|xl.

    What configs/encoder.py:objective=replaced_token_detection does not set: tables of 128 entries a
    piece below base, as ELECTRA-Small's, and a generator of a third at base (table 6).
    """
    size = base.parse(arg, size="mini")["size"]
    config = encoder.get_config(f"size={size},objective=replaced_token_detection")
    if config.model.width < 768:
        config.model.embedding_size = 128
    config.objective.generator_size = 1 / 3 if size == "base" else 1 / 4
    return config
