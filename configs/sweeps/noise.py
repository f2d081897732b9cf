"""What an objective should hide: the rate and the length of its noise, and the passes over the data.

    python -m tools.sweep --config=configs/sweeps/noise.py:study=noise_rate --workdir=runs/noise-rate
    ... --config=configs/sweeps/noise.py:study=span_length,pretraining=10e6_tokens --workdir=runs/spans

`noise_rate`, `span_length` and `passes` are tables 6, 7 and 9 of T5 (Raffel et al. 2020, sections 3.3 and
3.4.2) for an encoder-decoder with span corruption (table 6: single tokens); `mask_rate` is the question of
Wettig et al. (2023), "Should You Mask 15% in Masked Language Modeling?", for an encoder. Published GLUE
averages: noise of 10, 15, 25, 50 %: 82.82, 83.28, 83.00, 81.27; spans of 2, 3, 5, 10: 83.54, 83.49, 83.40,
82.85; data that is seen once, 64, 256, 1,024 and 4,096 times: 83.28, 82.87, 82.62, 79.55, 76.34.
"""

from configs import base
from sweeps import Sweep, fixed, grid, train

ENCODER = "configs/encoder.py:size="
ENCODER_DECODER = "configs/encoder_decoder.py:objective=span_corruption,size="
# Study -> (config file, swept field, values); the first value is the baseline.
STUDIES = {
    "noise_rate": (ENCODER_DECODER, "objective.noise_density", [0.15, 0.1, 0.25, 0.5]),
    "span_length": (ENCODER_DECODER, "objective.mean_noise_span_length", [3.0, 2.0, 5.0, 10.0]),
    "mask_rate": (ENCODER, "objective.noise_density", [0.15, 0.2, 0.3, 0.4, 0.5]),
    "passes": (ENCODER_DECODER, "data.num_train_tokens", [0, 100_000, 30_000, 10_000]),
}


def get_sweep(arg=""):
    """A pretraining run of each value; finetuning runs for each learning rate and seed.

    Args:
      arg: comma-separated NAME=VALUE:
        study: noise_rate (default), span_length, mask_rate, passes.
        size: tiny (default), ... of models/presets.py.
        pretraining: a duration, 1000_steps by default.
        finetuning: a duration, 200_steps by default.
        labels: number of labeled examples, 1000 by default.
        seeds: number of seeds, 3 by default.
    """
    given = base.parse(
        arg, study="noise_rate", size="tiny", pretraining="1000_steps", finetuning="200_steps",
        labels="1000", seeds="3",
    )  # fmt: skip
    if given["study"] not in STUDIES:
        raise ValueError(f"argument 'study={given['study']}': expected one of {', '.join(STUDIES)}")
    config, field, values = STUDIES[given["study"]]
    pretraining = train(
        config + given["size"],
        fixed(duration=given["pretraining"].replace("_", " "), evaluation__every="20 %")
        * grid({field: values}),
    )
    return Sweep(
        base.tuned_finetuning(given, pretraining),
        title=f"What to hide: {given['study'].replace('_', ' ')}",
        metric="test/accuracy",
        baseline={f"pretrain.{field}": values[0]},
        tuned=["lr"],
    )
