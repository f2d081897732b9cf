"""Objectives of one architecture at equal FLOPs, finetuned on 200 labels with paired seeds.

    python -m tools.sweep --config=configs/sweeps/objectives.py --workdir=runs/electra-study
    ... --config=configs/sweeps/objectives.py:preset=denoisers --workdir=runs/denoisers
    ... --config=configs/sweeps/objectives.py:architecture=decoder,objectives=causal_lm+ul2

Measured on a 2-core CPU (docs/log.md), test accuracy: masked LM 0.452 ± 0.015; replaced-token detection,
which needs far more compute (six times is not enough), 0.171 ± 0.020 (about 15 minutes). The denoisers of
an encoder-decoder (tables 4, 5 and 7 of T5): from 0.34 (i.i.d. spans) to 0.47 (deshuffling), almost the
reverse of the published order (45 minutes). An earlier version, which chose each learning rate with a
separate seed, measured these numbers.
"""

from configs import base
from sweeps import Sweep, fixed, grid, train

PRESETS = {
    "electra": {"architecture": "encoder", "layers": "4", "flops": "1.22306e13",
                "objectives": "masked_lm+replaced_token_detection"},  # 500 steps of masked LM
    "denoisers": {"architecture": "encoder_decoder", "layers": "", "flops": "1.56985e13",
                  "objectives": "bert_style+prefix_lm+deshuffling+replace_spans+span_corruption"},
}  # fmt: skip


def get_sweep(arg=""):
    """A pretraining run of each objective; finetuning runs for each learning rate and seed. The table has
    the learning rate of each objective that is best on validation.

    Args:
      arg: comma-separated NAME=VALUE; several values are joined by +.
        preset: electra (default) or denoisers, which give the defaults of the next four.
        architecture: encoder, decoder, encoder_decoder.
        objectives: the first is the baseline of the others.
        flops: model FLOPs of each pretraining run.
        layers: number of layers; by default as in the size.
        size: tiny (default), ... of models/presets.py.
        finetuning: a duration, 200_steps by default.
        labels: number of labeled examples, 200 by default.
        seeds: number of seeds, 5 by default.
    """
    given = base.parse_preset(
        arg, PRESETS, size="tiny", finetuning="200_steps", labels="200", seeds="5"
    )
    file = f"configs/{given['architecture']}.py:size={given['size']},objective="
    files = [file + name for name in given["objectives"].split("+")]
    layers = {"model.num_layers": int(given["layers"])} if given["layers"] else {}
    pretraining = train(
        fixed(duration=f"{given['flops']} FLOPs", evaluation__every="20 %")
        * fixed(layers)
        * grid(config=files)
    )
    return Sweep(
        base.tuned_finetuning(given, pretraining),
        title="Objectives at equal FLOPs",
        metric="test/accuracy",
        baseline={"pretrain.config": files[0]},
        tuned=["lr"],
    )
