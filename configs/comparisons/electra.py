"""ELECTRA against masked LM at equal FLOPs, then 200 labels; the same network of 4 layers x 128.

python -m studies.objectives --config=configs/comparisons/electra.py --workdir=runs/electra-study

Measured on two busy CPU cores (docs/log.md), about a quarter of an hour: masked LM 0.452 ± 0.015,
replaced-token detection 0.171 ± 0.020 test accuracy: this is far too early for it, and six times as long
changes nothing.
"""

from configs import base


def get_config():
    """Plan of the comparison; rates are tuned on validation, for each arm over the same grid."""
    network = "configs/encoder.py:size=tiny,objective="
    return base.plan(
        "Replaced-token detection against masked LM",
        "200 steps",
        arms=(
            ("masked LM", network + "masked_lm"),
            ("replaced-token detection", network + "replaced_token_detection"),
        ),
        updates=500,
        pretrain=("model.layers=4", "evaluation.every=20 %"),
    )
