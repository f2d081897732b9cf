"""What pretraining buys: pretrain once, then finetune from three initializations with paired seeds.

    python -m tools.sweep --config=configs/sweeps/dividend.py --workdir=runs/dividend
    ... --config=configs/sweeps/dividend.py:architecture=decoder,labels=1000,seeds=8

The learning rates are those that studies.tune found (configs/base.py).
"""

from configs import base
from sweeps import Sweep, finetune, fixed, grid, train


def get_sweep(arg=""):
    """One pretraining run, and a finetuning run for each initialization and seed.

    Args:
      arg: comma-separated NAME=VALUE:
        architecture: encoder (default), decoder, encoder_decoder.
        size: tiny (default), ... of models/presets.py.
        pretraining, finetuning: durations, 400_steps and 80_steps by default.
        labels: number of labeled examples, 200 by default.
        seeds: number of seeds, 5 by default.
    """
    given = base.parse(
        arg, architecture="encoder", size="tiny", pretraining="400_steps", finetuning="80_steps",
        labels="200", seeds="5",
    )  # fmt: skip
    rates = {
        row[1]: row[3] for row in base.LEARNING_RATES if row[::2] == (given["architecture"], 0)
    }
    conditions = fixed(init="random", lr=rates["random"])
    for init in ("embeddings", "pretrained"):
        conditions += fixed(init=init, lr=rates[init])
    pretraining = train(
        f"configs/{given['architecture']}.py:size={given['size']}",
        fixed(duration=given["pretraining"].replace("_", " "), evaluation__every="20 %"),
    )
    finetuning = finetune(
        "configs/finetune/classification.py",
        fixed(
            duration=given["finetuning"].replace("_", " "), evaluation__every="25 %",
            evaluation__select="last", task__num_train_examples=int(given["labels"]),
        )
        * conditions
        * grid(seed=range(int(given["seeds"]))),
        init_from=pretraining,
    )  # fmt: skip
    return Sweep(
        finetuning,
        title="What pretraining buys",
        metric="test/accuracy",
        baseline={"init": "random"},
    )
