"""When does masking win? Masked LM, causal LM, and causal then masked LM, over budgets of pretraining.

    python -m tools.sweep --config=configs/sweeps/masked_or_causal.py --workdir=runs/masked-or-causal
    ... --config=configs/sweeps/masked_or_causal.py:path=causal_then_masked --workdir=runs/causal-then-masked

The question of Gisserot-Boukhlef et al. (2025), "Should We Still Pretrain Encoders with Masked Language
Modeling?": with 610 M parameters and 100 B tokens, 25 % causal LM and then 75 % masked LM is best (sentence
classification 87.85; masked LM alone 87.00, causal LM alone 83.58), and causal LM leads early in training.
The learning rate of finetuning is the best on validation for each budget. `python -m studies.budgets
--workdirs runs/masked-or-causal runs/causal-then-masked --output=DIR` shows where the curves cross.
"""

from configs import base
from sweeps import Sweep, fixed, grid, train

# Path -> its stages: (config file, share of the steps, stacks that the stage before fills).
PATHS = {
    "masked": [("configs/encoder.py", 1.0, "")],
    "causal": [("configs/decoder.py", 1.0, "")],
    "causal_then_masked": [
        ("configs/decoder.py", 0.25, ""),
        ("configs/encoder.py", 0.75, "encoder"),
    ],
    # Two that Gisserot-Boukhlef et al. do not test.
    "causal_then_span_corruption": [
        ("configs/decoder.py", 0.25, ""),
        ("configs/encoder_decoder.py:objective=span_corruption", 0.75, "both"),
    ],
    "prefix_lm_then_masked": [
        ("configs/decoder.py:objective=prefix_lm", 0.25, ""),
        ("configs/encoder.py", 0.75, "encoder"),
    ],
}


def get_sweep(arg=""):
    """A pretraining run of each number of steps, of one or two stages; finetuning runs for each learning
    rate and seed.

    Args:
      arg: comma-separated NAME=VALUE; several values are joined by +.
        path: masked (default), causal, causal_then_masked, causal_then_span_corruption,
          prefix_lm_then_masked.
        steps: of pretraining, 100+400+1600+6400 by default.
        size: tiny (default), ... of models/presets.py.
        finetuning: a duration, 200_steps by default.
        labels: number of labeled examples, 1000 by default.
        seeds: number of seeds, 3 by default.
        source: text of the pretraining runs, as data.source; '': the manuals of Python.
        config: config file of the task.
    """
    given = base.parse(
        arg, path="masked", steps="100+400+1600+6400", size="tiny", finetuning="200_steps", labels="1000",
        seeds="3", source="", config="configs/finetune/classification.py",
    )  # fmt: skip
    if given["path"] not in PATHS:
        raise ValueError(f"argument 'path={given['path']}': expected one of {', '.join(PATHS)}")
    (first, share, _), *later = PATHS[given["path"]]
    evaluation, size = fixed(evaluation__every="20 %"), given["size"]
    if given["source"]:
        evaluation *= fixed(data__source=given["source"])
    durations = [f"{max(1, round(share * int(n)))} steps" for n in given["steps"].split("+")]
    pretraining = train(sized(first, size), evaluation * grid(duration=durations))
    for config, rest, stacks in later:

        def space(run, rest=rest, stacks=stacks):
            steps = round(int(run.duration.split()[0]) * rest / share)
            return evaluation * fixed(duration=f"{steps} steps", init_stacks=stacks)

        pretraining = train(sized(config, size), space, init_from=pretraining)
    title = f"Budgets of pretraining: {given['path'].replace('_', ' ')}"
    return Sweep(
        base.tuned_finetuning(given, pretraining), title=title, metric="test/accuracy", tuned=["lr"]
    )


def sized(config, size):
    """'file.py:objective=x' -> 'file.py:size=SIZE,objective=x'."""
    file, colon, rest = config.partition(":")
    return f"{file}:size={size}{',' * bool(colon)}{rest}"
