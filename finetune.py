"""Finetuning: a pretrained run, labelled examples, a head -> a metric and predictions, top to bottom.

    python finetune.py --config=configs/finetune/classification.py --workdir=runs/enc-task \
                       --config.init_from=runs/enc --config.transfer=all       # all | embeddings | none

`run(config, workdir)` is the whole of it, without flags, globals or exits.
"""

import dataclasses
import logging

import jax
import numpy as np

import models
from huggingface import sources
from models.config import ModelConfig
from tasks import batches, predictions
from tasks import metrics as scores
from tasks.config import TaskConfig
from tasks.examples import open_examples
from training import (
    cli,
    durations,
    flops,
    logs,
    loop,
    optimizer,
    rules,
    run_directory,
    step,
    transfer,
)
from training import config as configs
from training import mesh as meshes
from training import state as states
from training.algorithms import OPTIMIZERS, OptimizerConfig
from training.checkpoint import CheckpointConfig, Checkpoints
from training.config import ConfigError, Seeds
from training.logs import LoggingConfig
from training.mesh import MeshConfig
from training.run_directory import Result
from training.transfer import InheritedConfig, RestoreConfig

log = logging.getLogger("triptych")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long and how much at once."""

    duration: str = dataclasses.field(default="3 epochs", metadata={"help": "length of the run"})
    batch_size: int = dataclasses.field(
        default=16, metadata={"min": 1, "help": "examples per update"}
    )
    microbatches: int = dataclasses.field(default=1, metadata={"min": 1, "help": "accumulation"})
    ema: float = dataclasses.field(
        default=0.0,
        metadata={"min": 0.0, "max": 0.999999, "help": "decay of averaged parameters; 0 = none"},
    )
    deterministic: bool = dataclasses.field(
        default=False, metadata={"help": "bit-equal reruns on a GPU, at some speed"}
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """When to look at the validation split, and which parameters the test split sees."""

    every: str = dataclasses.field(default="1 epochs", metadata={"help": "cadence"})
    select: str = dataclasses.field(
        default="best", metadata={"choices": ("best", "last"), "help": "by the validation metric"}
    )
    batch_size: int = dataclasses.field(default=64, metadata={"min": 1, "help": "examples at once"})
    test: bool = dataclasses.field(
        default=True, metadata={"help": "score and write the test split"}
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Every leaf of a finetuning config."""

    task: TaskConfig
    model: InheritedConfig
    network: ModelConfig
    training: TrainingConfig
    optimizer: OptimizerConfig = dataclasses.field(
        metadata={"variants": OPTIMIZERS, "default": "adamw"}
    )
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    restore: RestoreConfig
    logging: LoggingConfig
    mesh: MeshConfig
    seed: Seeds
    init_from: str = dataclasses.field(
        default="",
        metadata={
            "help": "pretrained run directory[@step], or a Hugging Face directory; word vectors (a "
            "skip-gram run, or a file .txt .vec .bin) give their table and tokenizer to config.network"
        },
    )
    embeddings_from: str = dataclasses.field(
        default="", metadata={"help": "transfer=embeddings: the run[@step] whose table is taken; "
                              "'': init_from"}
    )  # fmt: skip
    vectors_limit: int = dataclasses.field(
        default=0, metadata={"min": 0, "help": "first words of a file of vectors; 0: all"}
    )
    init_weights: str = dataclasses.field(
        default="average",
        metadata={"choices": transfer.WEIGHTS, "help": "average: raw where the run kept none"},
    )
    transfer: str = dataclasses.field(default="all", metadata={"choices": transfer.ARMS})
    freeze: tuple = dataclasses.field(
        default=(), metadata={"help": "regexes of parameters that stay as they are"}
    )

    def __post_init__(self):
        if not self.init_from:
            raise ValueError(
                "init_from is empty; set --config.init_from=RUN, the --workdir of a train.py run (with "
                "transfer=none, its network and tokenizer are used, its parameters are not)"
            )
        if self.embeddings_from and self.transfer != "embeddings":
            raise ValueError(
                f"embeddings_from={self.embeddings_from!r} with transfer={self.transfer!r}: it names "
                "a token table; set transfer=embeddings, or embeddings_from=''"
            )
        if scores.METRICS[self.task.metric][1] != "classes":
            raise ValueError(
                f"task.metric={self.task.metric!r} is of values, classification predicts classes; "
                f"expected accuracy, macro_f1 or matthews"
            )


def run(config, workdir):
    """Finetunes as `config` (ConfigDict or mapping) says, in `workdir`; resumes what is there.

    Returns a Result with 'validation/<metric>' and 'test/<metric>'; writes predictions of the test
    split. Raises ConfigError, and preemption.Preempted after a save on SIGTERM.
    """
    # ---- configuration ---------------------------------------------------------------------------
    logs.banner("configuration")
    config = configs.resolve(Config, config)
    resolved = configs.to_dict(config)
    folder = run_directory.open_run(workdir, config, "finetune")
    begun = run_directory.read_manifest(folder)
    source, model_config, tokenizer, lines = sources.origin(config, folder, begun)
    log.info(f"{model_config.architecture} of {source}, transfer={config.transfer}, into {folder}")
    for line in [] if begun else lines:
        log.info(line)

    # ---- devices ---------------------------------------------------------------------------------
    logs.banner("devices")
    mesh = meshes.make(config.mesh)
    batch_size = config.training.batch_size
    step.check_batch(batch_size, config.training.microbatches, mesh)

    # ---- labelled examples -----------------------------------------------------------------------
    logs.banner("labelled examples")
    examples = open_examples(config.task, model_config, tokenizer, config.seed.order, log.info)
    names, encoded, chosen = examples.names, examples.encoded, examples.chosen
    meshes.agree(repr((resolved, examples.fingerprint)), "the config or the data")
    known = {"data": examples.fingerprint, "tokenizer": tokenizer.fingerprint}
    run_directory.check_unchanged(folder, **known, labels=list(names))
    log.info(f"{len(names)} labels; {len(chosen):,} of {len(encoded['train']):,} training examples, "
             + ", ".join(f"{len(encoded[s]):,} {s}" for s in encoded if s != "train"))  # fmt: skip
    for split, each in encoded.items():
        if each.cut:
            log.info(f"{each.cut:,} of {len(each):,} {split} examples were cut to "
                     f"{config.task.length} tokens")  # fmt: skip

    # ---- model and head --------------------------------------------------------------------------
    logs.banner("model and head")
    task = examples.task
    model = models.build(model_config)
    batch = task.batch(encoded["train"], np.zeros(batch_size, np.int64))
    init = states.with_head(states.initialiser(task, model, batch), task)
    with meshes.use(mesh):
        key = jax.eval_shape(lambda: step.stream_key(0, "init"))
        params = jax.eval_shape(init, key, key)
    flat = rules.paths(params)
    frozen = rules.frozen_paths(config.freeze, flat)
    sizes = flops.count(params)
    log.info(f"{sizes['total']:,} parameters, {sum(flat[p].size for p in frozen):,} of them frozen")

    # ---- optimizer and state ---------------------------------------------------------------------
    logs.banner("optimizer and state")
    clock = clock_of(config, examples)
    total = clock.total
    cadence = loop.cadence(clock, config)
    best = config.evaluation.select == "best"
    if best and not (cadence.evaluate and cadence.save):
        raise ConfigError(
            "config.evaluation.select='best' needs evaluation.every and checkpoint.every; "
            "set select='last', or cadences"
        )
    rates = optimizer.schedule(config.optimizer, clock)
    metric = config.task.metric
    table = optimizer.table(config.optimizer, params, frozen)
    for line in table:
        log.info(f"  {line}")
    trainable, _ = rules.split(params, frozen)
    tx = optimizer.build(config.optimizer, trainable)
    abstract = states.abstract(params, tx, frozen, config.training.ema)
    placement = step.Placement(states.shardings(mesh, abstract))
    with (
        logs.Metrics(folder, config.logging.tensorboard) as metrics,
        Checkpoints(
            folder / "checkpoints",
            config.checkpoint,
            clock.steps(config.checkpoint.keep_every, "checkpoint.keep_every"),
            best=f"+{metric}" if best else "",
        ) as checkpoints,
    ):
        with meshes.use(mesh):
            state = checkpoints.restore(states.target(abstract, placement.tree))
            resumed = state is not None
            if resumed:
                log.info(f"resumed from checkpoint {int(state.step)} of this run")
            else:
                fresh = states.compiled(init, step.Placement(placement.tree.params))
                params = fresh(
                    step.stream_key(config.seed.init, "init"),
                    step.stream_key(config.seed.head, "head"),
                )
                params, lines = sources.inherit(
                    config, source, tokenizer, names, params, placement.tree.params
                )
                for line in lines:
                    log.info(line)
                state = states.create(params, tx, frozen, placement.tree)
        start = int(state.step)

        # ---- training --------------------------------------------------------------------------------
        logs.banner("training")
        if meshes.main_process():
            tokenizer.save(folder / "tokenizer.json")
        run_directory.record_run(folder, resolved, "finetune", model_config)
        run_directory.write_manifest(
            folder, resolved,
            {"data": examples.fingerprint, "tokenizer": tokenizer.fingerprint, "labels": list(names),
             "parameters": sizes, "total_steps": total,
             "init_from": source, "rules": table},
        )  # fmt: skip
        program = step.compiled_update(
            task, model, step.as_given, optimizer.static(config.optimizer), optimizer.build, frozen,
            config.training.microbatches, mesh, placement, config.training.ema,
        )  # fmt: skip
        judge = step.compiled_predictions(task, model, mesh, placement)
        root = step.stream_key(config.seed.dropout, "dropout")
        metrics.begin(start if resumed else -1)

        def local(indices):
            """This process's part of a global batch of examples."""
            share = len(indices) // jax.process_count()
            return indices[jax.process_index() * share :][:share]

        def batches_of_run():
            for number in range(start, total):
                indices = examples.at(number, batch_size, config.seed.order)
                width = examples.width(indices)
                rows = task.batch(encoded["train"], local(indices), width)
                yield jax.tree.map(lambda x: meshes.global_array(mesh, x), rows)

        def update(state, source, number, rate):
            return program(state, source, no_rows, (root, root), rate)

        def predict(params, split):
            """Logits float[n, classes] of a whole split."""
            size = -(-config.evaluation.batch_size // divisor) * divisor
            parts = []
            for indices in batches.evaluation_indices(len(encoded[split]), size):
                rows = task.batch(encoded[split], local(indices))
                parts.append(
                    judge(params, jax.tree.map(lambda x: meshes.global_array(mesh, x), rows))
                )
            return np.concatenate(jax.device_get(parts))[: len(encoded[split])]

        def evaluate(number, state):
            values = scores.evaluate(
                encoded["validation"].labels, predict(states.averaged(state), "validation")
            )
            metrics.write(number, "validation", values)
            log.info(f"step {number:>7,}  validation: {loop.words_of(values, {})}")
            return values

        divisor = meshes.row_divisor(mesh)
        no_rows = step.no_rows(mesh, batch_size)
        share = examples.share(batch_size, config.seed.order)
        tokens = round(batch_size * config.task.length * share)
        step_flops = batch_size * flops.per_row(task, model_config, params, batch) * share
        rate = logs.Rate(start, total, tokens, step_flops, flops.peak())
        result = {}
        with meshes.use(mesh):
            state = loop.run(
                state, start, batches_of_run(), update, cadence, rates=rates, metrics=metrics, rate=rate,
                coefficients=task.coefficients(), resumed=resumed,
                evaluate=evaluate if cadence.evaluate else None,
                save=checkpoints.save if cadence.save else None, save_measured=best,
            )  # fmt: skip
            checkpoints.wait()

            # ---- scores --------------------------------------------------------------------------
            logs.banner("scores")
            params, at = states.averaged(state), total
            if best:
                at = checkpoints.best_step()
                target = states.target(abstract, placement.tree).params
                params = checkpoints.restore_params(at, target)
            for split in ("validation", "test"):
                if split in encoded and (split == "validation" or config.evaluation.test):
                    logits = predict(params, split)
                    labels = encoded[split].labels
                    if meshes.main_process():
                        predictions.write(
                            folder / f"predictions_{split}.tsv", names, labels, logits
                        )
                    if (labels >= 0).all():
                        values = scores.evaluate(labels, logits)
                        result |= {f"{split}/{name}": value for name, value in values.items()}
                        log.info(f"{split} at step {at:,}: {loop.words_of(values, {})}")
    if meshes.main_process():
        run_directory.write_json(folder / "scores.json", {"step": at, **result})
    return Result(int(state.step), result, str(folder))


def clock_of(config, examples):
    """The run's length and the worth of an update, a durations.Clock."""
    size = config.training.batch_size
    clock = durations.Clock(size, size * config.task.length, len(examples.chosen))
    return clock.whole(config.training.duration, "training.duration")


def main(argv):
    """Command line of this file."""
    cli.enter(argv, __doc__.splitlines()[0], Config, run)


if __name__ == "__main__":
    cli.main(main)
