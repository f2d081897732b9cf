"""Finetuning against transformers' Trainer, score and speed:

    python -m benchmarks.finetuning --model=HF_DIR --data=TASKS_DIR --workdir=/tmp/ft --seeds=0,1,2

Both finetune the same published encoder on the same examples, encoded once, with one recipe (AdamW, linear
schedule, batches of 16, dropout of the model); both pad a batch to its longest rows. The two sides take
turns within a seed. Scores are of the test split, by our metrics, after the last update. A result is
a line of results.jsonl, and the same command continues after the last one; it prints a table at the end.

Needs `pip install -e .[parity] accelerate`, and TASKS_DIR with btc_ner/, ud_ewt/, stsb/, mrpc/ and
squad11_dev/ ({train,validation,test} as .conll, .conllu or .jsonl; SQuAD without validation).
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import jax
import numpy as np

import finetune
import huggingface
from training import checkpoint, logs
from training import config as config_lib
from training.run_directory import read_model_config
from training.schema import FinetuneConfig

PAIR = {"text_column": "sentence1", "text_pair_column": "sentence2"}
TASKS = {
    "btc_ner": ({"name": "tagging"}, "files:{data}/btc_ner/*.conll", ("f1",)),
    "ud_ewt": (
        {"name": "tagging", "tag_column": "upos", "scheme": "none"},
        "files:{data}/ud_ewt/*.conllu*",
        ("accuracy",),
    ),
    "stsb": (
        {"name": "regression", "label_column": "score", "metric": "spearman", **PAIR},
        "files:{data}/stsb/{{train,validation,test}}.jsonl",
        ("pearson", "spearman"),
    ),
    "mrpc": (
        {"name": "classification", "metric": "f1", **PAIR},
        "files:{data}/mrpc/*.jsonl",
        ("f1", "accuracy"),
    ),
    "squad": (
        {"name": "question_answering", "max_seq_len": 384, "stride": 128},
        "files:{data}/squad11_dev/*.jsonl*",
        ("exact_match", "f1"),
    ),
}
EPOCHS = {"squad": 2}  # 3 for the others
CLASSES = {
    "tagging": "AutoModelForTokenClassification",
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "question_answering": "AutoModelForQuestionAnswering",
}


def config_of(name, given, seed):
    """The config of our run, which has the recipe of both."""
    task, source, _ = TASKS[name]
    batch, limit = 16, given.max_steps
    return {
        "init_from": given.model,
        "task": {
            "max_seq_len": 128, **task, "source": source.format(data=given.data),
            "length_group_steps": 50,
        },
        "training": {
            "batch_size": batch,
            "duration": f"{limit} steps" if limit else f"{EPOCHS.get(name, 3)} epochs",
        },
        "optimizer": {
            "name": "adamw", "learning_rate": given.learning_rate, "beta2": 0.999,
            "schedule": "linear", "warmup": "10 %", "final_lr_frac": 0.0, "weight_decay": 0.01,
        },
        "evaluation": {"every": "never", "select": "last", "batch_size": 64},
        "checkpoint": {"every": "never"},
        "logging": {"every": "25 steps", "tensorboard": False},
        "seed": seed,
    }  # fmt: skip


def ours(name, given, seed):
    """{score, ..., 'examples_per_second', 'seconds'} of finetune.run."""
    config, workdir = config_of(name, given, seed), f"{given.workdir}/{name}-{seed}"
    start = time.perf_counter()
    result = finetune.run(config, workdir)
    seconds = time.perf_counter() - start
    steps = [line["seconds_per_step"] for line in logs.read_metrics(workdir, "throughput")]
    return result.metrics, config["training"]["batch_size"] / statistics.mean(steps), seconds


def load_task(name, given, seed):
    """The LoadedTask whose rows, shapes and metrics the other side uses too."""
    config = config_lib.resolve(FinetuneConfig, config_of(name, given, seed))
    run, _ = checkpoint.resolve_checkpoint(huggingface.as_run(given.model))
    return config, config.task.load(
        config, read_model_config(run), f"{run}/tokenizer.json", lambda line: None
    )


def theirs(name, given, seed):
    """As `ours`, of transformers' Trainer on the rows of our task."""
    import torch
    import transformers

    config, task = load_task(name, given, seed)
    start = time.perf_counter()
    kind = TASKS[name][0]["name"]
    options = {} if kind == "question_answering" else {"num_labels": max(len(task.label_names), 1)}
    transformers.set_seed(seed)
    model = getattr(transformers, CLASSES[kind]).from_pretrained(given.model, **options)

    def collate(rows):
        return tensors(task, kind, "train", np.array(rows))

    steps = given.max_steps
    arguments = transformers.TrainingArguments(
        output_dir=f"{given.workdir}/peer-{name}-{seed}",
        per_device_train_batch_size=config.training.batch_size,
        learning_rate=config.optimizer.learning_rate,
        num_train_epochs=EPOCHS.get(name, 3),
        max_steps=steps or -1,
        lr_scheduler_type="linear",
        warmup_steps=round(0.1 * (steps or EPOCHS.get(name, 3) * task.epoch_size / 16)),
        weight_decay=config.optimizer.weight_decay,
        adam_beta2=config.optimizer.beta2,
        max_grad_norm=config.optimizer.grad_clip_norm,
        seed=seed,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = task.rows.tolist()
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=collate)
    trained = trainer.train().metrics
    model.eval()
    outputs = []
    with torch.no_grad():
        for batch in task.eval_inputs("test"):
            outputs.append(to_ours(kind, batch, model(**model_inputs(batch))))
    collected = task.collect("test", task.in_order("test", outputs))
    scores = {f"test/{key}": value for key, value in task.score("test", collected).items()}
    return scores, trained["train_samples_per_second"], time.perf_counter() - start


def model_inputs(batch):
    """The inputs of a transformers encoder, as torch tensors."""
    import torch

    inputs = batch.inputs
    found = {"input_ids": inputs.tokens, "attention_mask": inputs.segment_ids}
    if inputs.token_type_ids is not None:
        found["token_type_ids"] = inputs.token_type_ids
    return {name: torch.from_numpy(np.asarray(x, np.int64)) for name, x in found.items()}


def tensors(task, kind, split, rows):
    """A training batch of transformers: our rows, padded to the longest, and the labels as it reads them."""
    import torch

    width = int(task.encoded[split].lengths[rows].max())
    batch = task.batch(split, rows, width)
    targets = np.asarray(batch.targets)
    if kind == "tagging":
        labels = {"labels": np.where(batch.loss_weights > 0, targets, -100).astype(np.int64)}
    elif kind == "question_answering":
        labels = {"start_positions": targets[:, 0], "end_positions": targets[:, 1]}
        labels = {name: x.astype(np.int64) for name, x in labels.items()}
    elif kind == "regression":
        labels = {"labels": task.encoded[split].labels[rows].astype(np.float32)}
    else:
        labels = {"labels": targets[:, 0].astype(np.int64)}
    return model_inputs(batch) | {name: torch.from_numpy(x) for name, x in labels.items()}


def to_ours(kind, batch, output):
    """The outputs of a batch as our task has them."""
    if kind == "question_answering":
        logits = np.stack([output.start_logits.numpy(), output.end_logits.numpy()], axis=-1)
        return np.where(batch.allowed[:, :, None], logits, np.float32(-1e9))
    logits = output.logits.float().numpy()
    if kind == "regression":
        return logits[:, 0]
    if kind == "classification":
        return logits
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    loss = -np.take_along_axis(log_probs, np.asarray(batch.targets)[..., None], -1)[..., 0]
    return {
        "tag": log_probs.argmax(-1).astype(np.int32), "probability": np.exp(log_probs.max(-1)), "loss": loss,
    }  # fmt: skip


def table(results):
    """Lines: mean and standard deviation of each score on both sides, their difference in standard errors,
    and the ratio of examples per second."""
    ratios = []
    for name, (_, _, metrics) in TASKS.items():
        mine, peer = ([r for r in results if (r["task"], r["side"]) == (name, side)]
                      for side in ("ours", "trainer"))  # fmt: skip
        if not mine or not peer:
            continue
        speeds = [statistics.mean(r["examples_per_second"] for r in each) for each in (mine, peer)]
        ratios.append(speeds[0] / speeds[1])
        for metric in metrics:
            values = [[r["scores"][f"test/{metric}"] for r in each] for each in (mine, peer)]
            means = [statistics.mean(each) for each in values]
            deviations = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
            error = math.sqrt(sum(d * d / len(v) for d, v in zip(deviations, values, strict=True)))
            yield (
                f"{name:<8} {metric:<12} ours {means[0]:.4f} ± {deviations[0]:.4f}  trainer "
                f"{means[1]:.4f} ± {deviations[1]:.4f}  difference {means[0] - means[1]:+.4f}, s.e. "
                f"{error:.4f}  examples/s {speeds[0]:.1f} and {speeds[1]:.1f}, ratio {ratios[-1]:.2f}"
            )
    if ratios:
        yield f"geometric mean of the ratios: {statistics.geometric_mean(ratios):.2f}"


def main():
    """Runs what results.jsonl does not have yet, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Hugging Face directory of an encoder")
    parser.add_argument("--data", required=True, help="directory of the data sets")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--max_steps", type=int, default=0, help="0: whole epochs")
    given = parser.parse_args()
    path = Path(given.workdir) / "results.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    results = [json.loads(line) for line in lines]
    done = {(r["task"], r["seed"], r["side"]) for r in results}
    for seed in map(int, given.seeds.split(",")):
        for name in given.tasks.split(","):
            for side, run in (("ours", ours), ("trainer", theirs)):
                if (name, seed, side) in done:
                    continue
                scores, speed, seconds = run(name, given, seed)
                result = {"task": name, "seed": seed, "side": side, "scores": scores}
                result |= {"examples_per_second": speed, "seconds": seconds}
                results.append(result)
                with path.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
