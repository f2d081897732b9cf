"""Replaced-token detection against masked LM at equal FLOPs: one model of 4 layers x 128, 200 labels.

python -m studies.objectives --config=configs/comparisons/electra.py --workdir=runs/electra-study

Measured on a 2-core CPU (docs/log.md), about 15 minutes: test accuracy 0.452 ± 0.015 for masked LM,
0.171 ± 0.020 for replaced-token detection, which needs far more compute (six times is not enough).
"""

from configs import base


def get_config():
    """Config of the comparison; every candidate's learning rate is tuned on validation, over the same
    grid."""
    file = "configs/encoder.py:size=tiny,objective="
    return base.study(
        "Replaced-token detection against masked LM",
        "200 steps",
        candidates=(
            ("masked LM", file + "masked_lm"),
            ("replaced-token detection", file + "replaced_token_detection"),
        ),
        num_steps=500,
        pretrain_overrides=("model.num_layers=4", "evaluation.every=20 %"),
    )
