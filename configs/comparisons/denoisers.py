"""Denoising objectives of a small encoder-decoder at equal FLOPs, after T5 (tables 4 and 7).

python -m studies.objectives --config=configs/comparisons/denoisers.py --workdir=runs/denoisers

Measured on a 2-core CPU (docs/log.md), 45 minutes: test accuracies from 0.34 (i.i.d. spans) to 0.47
(deshuffling), almost the reverse of the published order.
"""

from configs import base


def get_config():
    """Config of the comparison: each objective with the values of Raffel et al. 2020, section 3.3.

    Every candidate's learning rate is tuned on validation, over the same grid.
    """
    file = "configs/encoder_decoder.py:size=tiny,objective="
    return base.study(
        "Denoisers of a small encoder-decoder",
        "200 steps",
        candidates=(
            ("BERT-style", file + "bert_style"),
            ("prefix LM", file + "prefix_lm"),
            ("deshuffling", file + "deshuffling"),
            ("replaced spans, i.i.d.", file + "replace_spans"),
            ("replaced spans of 3", file + "span_corruption"),
        ),
        num_steps=800,
        pretrain_overrides=("evaluation.every=20 %",),
    )
