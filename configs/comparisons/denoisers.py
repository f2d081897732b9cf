"""What an encoder-decoder is asked to restore: T5's table 4 and its spans in small, at equal FLOPs.

python -m studies.objectives --config=configs/comparisons/denoisers.py --workdir=runs/denoisers

Measured on two busy CPU cores (docs/log.md), 45 minutes: test accuracies of 0.34 (i.i.d. spans) to 0.47
(deshuffling), nearly the published order upside down.
"""

from configs import base


def get_config():
    """Plan of the comparison: each objective with the values of Raffel et al. 2020, section 3.3;
    rates are tuned on validation, for each arm over the same grid."""
    network = "configs/encoder_decoder.py:size=tiny,objective="
    return base.plan(
        "Denoisers of a small encoder-decoder",
        "200 steps",
        arms=(
            ("BERT-style", network + "bert_style"),
            ("prefix LM", network + "prefix_lm"),
            ("deshuffling", network + "deshuffling"),
            ("replaced spans, i.i.d.", network + "replace_spans"),
            ("replaced spans of 3", network + "span_corruption"),
        ),
        updates=800,
        pretrain=("evaluation.every=20 %",),
    )
