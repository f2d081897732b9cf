"""What pretraining buys: pretrain three ways, then finetune from three initializations with paired seeds.

    python -m tools.sweep --config=configs/sweeps/three_ways.py --workdir=runs/quickstart
    ... --config=configs/sweeps/three_ways.py:preset=study --workdir=runs/study
    ... --config=configs/sweeps/three_ways.py:architectures=encoder,labels=20,finetuning=80_steps

`python -m studies.three_ways --workdir=DIR` adds TF-IDF, figures and a page; `make quickstart` and
`make study` run both. Measured on a 2-core CPU (docs/results.md), test accuracy, pretrained and random:
quickstart (10.5 minutes, 1,000 labels, 80 steps, 2 seeds) encoder 0.475 and 0.264, decoder 0.520 and 0.294,
encoder-decoder 0.346 and 0.247; study (200 labels, 300 steps, 3 seeds) 0.543 and 0.475, 0.548 and 0.442,
0.566 and 0.438.

In each row, the study has the better of two learning rates by its mean validation accuracy. The quickstart
has the learning rates LEARNING_RATES in configs/base.py. This tunes them, with other seeds, and prints the
rows; in the directory of the study it shares the pretraining runs (repeat the study's command afterwards):

    python -m tools.sweep --config=configs/sweeps/three_ways.py:preset=study,tune=1 --workdir=runs/study
"""

from configs import base
from sweeps import Space, Sweep, finetune, fixed, grid, train

PRESETS = {
    "quickstart": {"layers": "", "pretraining": "400_steps", "finetuning": "80_steps",
                   "labels": "100+1000", "seeds": "2", "lr": "", "pooling": "auto",
                   "max_seq_len": "64"},
    "study": {"layers": "", "pretraining": "1e7_tokens", "finetuning": "300_steps+700_steps",
              "labels": "200+2000", "seeds": "3", "lr": "5e-4+1.5e-3", "pooling": "mean",
              "max_seq_len": "128"},
}  # fmt: skip
CONDITIONS = {name: {"init": name} for name in ("random", "embeddings", "pretrained")}
GRID = [1e-4, 3e-4, 1e-3, 3e-3]
TUNING_SEED = 1000  # so that the rates do not depend on the label subsets that they are used with


def get_sweep(arg=""):
    """A pretraining run of each architecture; finetuning runs for each initialization, number of labels and
    seed.

    Args:
      arg: comma-separated NAME=VALUE; several values are joined by +.
        preset: quickstart (default) or study, which give the defaults of what follows.
        architectures: encoder+decoder+encoder_decoder by default.
        size: tiny (default), ... of models/presets.py.
        layers: number of layers; by default as in the size.
        source: text of the pretraining runs, as data.source; '': the manuals of Python.
        config: config file of the task, one whose texts have one class each and whose test split has labels.
        vectors: a run of skip_gram with the same text and tokenizer, whose word vectors become one more
          condition.
        pretraining: duration such as 400_steps or 3e14_FLOPs.
        labels: numbers of labeled examples, such as 100+1000.
        finetuning: duration, or one for each number of labels, such as 300_steps+700_steps.
        seeds: number of seeds.
        lr: learning rates of finetuning, of which each row has the best on validation; '': that of
          LEARNING_RATES in configs/base.py.
        pooling: what the head reads: auto or mean; see docs/tasks.md.
        max_seq_len: tokens of a labeled text that are read.
        tune: number of seeds to tune learning rates with; 0 (default): the study itself.
    """
    given = base.parse_preset(
        arg, PRESETS, architectures="encoder+decoder+encoder_decoder", size="tiny", tune="0", source="",
        config="configs/finetune/classification.py", vectors="",
    )  # fmt: skip
    names = given["architectures"].split("+")
    files = {f"configs/{name}.py:size={given['size']}": name for name in names}
    labels, tune = [int(number) for number in given["labels"].split("+")], int(given["tune"])
    durations = given["finetuning"].split("+")
    if len(durations) == 1:
        durations *= len(labels)
    if len(durations) != len(labels):
        raise ValueError(
            f"argument 'finetuning={given['finetuning']}': expected one duration, or one for each number of "
            f"labels ({given['labels']}); with labels= give finetuning= too"
        )
    given_rates = GRID if tune else [float(rate) for rate in given["lr"].split("+") if rate]
    changes = {"model.num_layers": int(given["layers"])} if given["layers"] else {}
    changes |= {"data.source": given["source"]} if given["source"] else {}
    conditions = dict(CONDITIONS)
    if given["vectors"]:
        conditions["vectors"] = {"init": "embeddings", "embeddings_from": given["vectors"]}
    pretraining = train(
        fixed(duration=given["pretraining"].replace("_", " "), evaluation__every="20 %")
        * fixed(changes)
        * grid(config=list(files))
    )

    task = {"task.pooling": given["pooling"], "task.max_seq_len": int(given["max_seq_len"])}

    def finetuning(run):
        space = Space(())
        for condition in conditions.values():
            for number, duration in zip(labels, durations, strict=True):
                tuned = base.learning_rate(files[run.config], condition["init"], number)
                recipe = fixed(base.short_finetuning(duration)) * fixed(evaluation__test=not tune)
                labeled = fixed({**task, **condition, "task.num_train_examples": number})
                space += recipe * labeled * grid(lr=given_rates or [tuned])
        first, count = (TUNING_SEED, tune) if tune else (0, int(given["seeds"]))
        return space * grid(seed=range(first, first + count))

    return Sweep(
        finetune(given["config"], finetuning, init_from=pretraining),
        title="Pretraining three ways" + (": learning rates" if tune else ""),
        metric="validation/accuracy" if tune else "test/accuracy",
        baseline={} if tune else {"init": "random"},
        tuned=["lr"],
    )
