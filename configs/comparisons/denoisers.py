"""What an encoder-decoder is asked to restore: T5's table 4 and its spans in small, at equal FLOPs.

python -m studies.objectives --config=configs/comparisons/denoisers.py --workdir=runs/denoisers

Measured on two busy CPU cores (docs/log.md), 45 minutes: test accuracies of 0.34 (i.i.d. spans) to 0.47
(deshuffling), nearly the published order upside down.
"""

import ml_collections


def get_config():
    """Plan of the comparison: each objective with the values of Raffel et al. 2020, section 3.3;
    rates are tuned on validation, for each arm over the same grid."""
    network = "configs/encoder_decoder.py:size=tiny,objective="
    config = ml_collections.ConfigDict()
    config.title = "Denoisers of a small encoder-decoder"
    config.arms = (
        ("BERT-style", network + "bert_style", "objective.noise_density=0.15"),
        ("prefix LM", network + "prefix_lm"),
        ("deshuffling", network + "deshuffling"),
        ("replaced spans, i.i.d.", network + "replace_spans"),
        ("replaced spans of 3", network + "span_corruption"),
    )
    config.updates = 800
    config.pretrain = ("evaluation.every=20 %",)
    config.finetune = (
        "training.duration=200 steps",
        "evaluation.every=25 %",
        "evaluation.select=last",
        "checkpoint.every=never",
        "logging.tensorboard=false",
    )
    config.budgets = (200,)
    config.seeds = (0, 1, 2, 3, 4)
    config.grid = (3e-4, 1e-3, 3e-3)
    config.tune_seeds = (1000,)
    return config
