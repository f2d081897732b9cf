"""How to finetune one pretrained model: learning rates and seeds, of all parameters or of a few.

python -m tools.sweep --config=configs/sweeps/finetuning.py:init_from=runs/encoder --workdir=runs/tuned
... --config=configs/sweeps/finetuning.py:init_from=runs/encoder,train=full+linear+lora,lr=1e-4+1e-3+1e-2

Runs that differ in learning rate and seed are replicas of one program. For other labels, give a config file
of your own: config=my_task.py.
"""

from configs import base
from sweeps import Space, Sweep, finetune, fixed, grid

TRAINED = {
    "full": fixed(),
    "linear": fixed(freeze=("(?!heads/).*",)),
    "lora": fixed(adapter__name="lora"),
    "bitfit": fixed(adapter__name="bitfit"),
}


def get_sweep(arg=""):
    """Each learning rate with each seed, for each choice of trained parameters.

    Args:
      arg: comma-separated NAME=VALUE; several values are joined by +.
        init_from: a run directory, or a Hugging Face directory; a path without commas.
        config: config file of the task; configs/finetune/classification.py by default.
        train: full (default), linear (the head alone), lora, bitfit.
        lr: 3e-4+1e-3+3e-3 by default.
        seeds: number of seeds, 8 by default.
        labels: numbers of labeled examples, such as 20+200; 0 (default): all.
        duration: such as 200_steps; by default that of the config file.
    """
    given = base.parse(
        arg, init_from="runs/encoder", config="configs/finetune/classification.py", train="full",
        lr="3e-4+1e-3+3e-3", seeds="8", labels="0", duration="",
    )  # fmt: skip
    unknown = sorted({*given["train"].split("+")} - TRAINED.keys())
    if unknown:
        raise ValueError(f"argument 'train={unknown[0]}': expected some of {', '.join(TRAINED)}")
    recipe = {"init_from": given["init_from"]} | base.short_finetuning(given["duration"])
    trained = sum((TRAINED[name] for name in given["train"].split("+")), Space(()))
    rates = [float(rate) for rate in given["lr"].split("+")]
    budgets = grid(task__num_train_examples=[int(number) for number in given["labels"].split("+")])
    space = fixed(recipe) * trained * budgets * grid(lr=rates, seed=range(int(given["seeds"])))
    return Sweep(finetune(given["config"], space), title="How to finetune", tuned=["lr"])
