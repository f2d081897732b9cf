"""Pretraining: text -> rows -> batch -> model -> sums -> updates -> checkpoints, top to bottom.

    python train.py --config=configs/encoder.py --workdir=runs/enc [--config.key=value ...]

`run(config, workdir)` is the whole of it, without flags, globals or exits.
"""

import dataclasses
import logging
import math

import jax
import numpy as np

import models
import objectives
from data import framing, loader, prepare
from data import tokenizer as tokenizers
from data.config import DataConfig, TokenizerConfig
from data.store import unigram_entropy
from models.config import ModelConfig
from objectives.base import Setting
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary
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
from training.checkpoint import CheckpointConfig, Checkpoints, locate, params_metadata
from training.config import ConfigError, Seeds
from training.logs import LoggingConfig
from training.mesh import MeshConfig
from training.optimizer import OptimizerConfig
from training.run_directory import Result

log = logging.getLogger("triptych")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, how much at once, how precisely repeated."""

    duration: str = dataclasses.field(default="2000 steps", metadata={"help": "length of the run"})
    batch_size: int = dataclasses.field(default=32, metadata={"min": 1, "help": "rows per update"})
    length: int = dataclasses.field(
        default=128, metadata={"min": 4, "help": "tokens the model reads"}
    )
    microbatches: int = dataclasses.field(default=1, metadata={"min": 1, "help": "accumulation"})
    deterministic: bool = dataclasses.field(
        default=False, metadata={"help": "bit-equal reruns on a GPU, at some speed"}
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Held-out loss: how often and on how much."""

    every: str = dataclasses.field(default="10 %", metadata={"help": "cadence"})
    batches: int = dataclasses.field(
        default=20, metadata={"min": 0, "help": "0 = all held-out rows"}
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Every leaf of a pretraining config."""

    model: ModelConfig
    objective: objectives.Objective = dataclasses.field(
        metadata={"variants": objectives.REGISTRY, "default": "causal_lm"}
    )
    data: DataConfig
    tokenizer: TokenizerConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig
    mesh: MeshConfig
    seed: Seeds
    init_from: str = dataclasses.field(
        default="", metadata={"help": "run directory[@step] to continue pretraining from"}
    )


def run(config, workdir):
    """Pretrains as `config` (ConfigDict or mapping) says, in `workdir`; resumes what is there.

    Returns a Result; raises ConfigError, and preemption.Preempted after a save on SIGTERM.
    """
    # ---- configuration ---------------------------------------------------------------------------
    logs.banner("configuration")
    config = configs.resolve(Config, config)
    objectives.check(config.objective, config.model.architecture)
    resolved = configs.to_dict(config)
    folder = run_directory.open_run(workdir, config, "pretrain")
    log.info(f"{config.model.architecture} with {config.objective.name} in {folder}")

    # ---- devices ---------------------------------------------------------------------------------
    logs.banner("devices")
    mesh = meshes.make(config.mesh)
    batch_size = config.training.batch_size
    step.check_batch(batch_size, config.training.microbatches, mesh)
    log.info(f"{jax.device_count()} x {jax.devices()[0].device_kind} on {jax.process_count()} "
             f"process(es), mesh {dict(mesh.shape)}")  # fmt: skip

    # ---- text ------------------------------------------------------------------------------------
    logs.banner("text")
    corpus = prepare.prepare(
        config.data, config.tokenizer, build=jax.process_count() == 1, log=log.info
    )
    tokenizer = corpus.tokenizer
    meshes.agree(repr((resolved, corpus.fingerprint)), "the config or the data")
    run_directory.check_unchanged(folder, data=corpus.fingerprint, tokenizer=tokenizer.fingerprint)
    model_config = models.config.completed(config.model, tokenizer.size, config.training.length)
    vocabulary = Vocabulary(**tokenizer.special_ids())
    stores = zip(corpus.weights, (s.unigram for s in corpus.train), strict=True)
    shares = sum(weight * n / n.sum() for weight, n in stores)
    setting = Setting(
        model_config.architecture, vocabulary, config.training.length, Unigram(shares)
    )
    shapes = config.objective.shapes(setting)
    frame = framing.frame_for(model_config.architecture, tokenizer.special_ids())
    train_rows = [s.rows(shapes.raw, shapes.overlap, frame) for s in corpus.train]
    held_rows = [s.rows(shapes.raw, shapes.overlap, frame) for s in corpus.validation]
    epoch = sum(map(len, train_rows))
    unigram = unigram_entropy(shares)
    log.info(f"{sum(s.tokens for s in corpus.train):,} tokens of {sum(s.documents for s in corpus.train):,} "
             f"documents in {epoch:,} rows of {shapes.raw}; fingerprint {corpus.fingerprint}")  # fmt: skip
    log.info(f"unigram entropy {unigram:.3f} nats: a loss that stays there has learned word "
             f"frequencies and nothing else")  # fmt: skip

    # ---- model and objective ---------------------------------------------------------------------
    logs.banner("model and objective")
    model = models.build(model_config)
    make_batch = step.Corruption(config.objective, setting)
    source = jax.ShapeDtypeStruct((batch_size, shapes.raw), np.int32)
    keys = jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0, impl="threefry2x32"), batch_size)
    )
    batch = jax.eval_shape(make_batch, keys, source)
    init = states.initialiser(model, batch, "initialise")
    with meshes.use(mesh):
        params = jax.eval_shape(init, jax.eval_shape(lambda: step.stream_key(0, "init")))
    sizes = flops.count(params)
    log.info(f"{sizes['total']:,} parameters, {sizes['non_embedding']:,} outside embeddings")
    log.info(config.objective.describe(setting))

    # ---- optimizer and state ---------------------------------------------------------------------
    logs.banner("optimizer and state")
    tokens = batch_size * (shapes.inputs + (shapes.targets if batch.decoder is not None else 0))
    clock = durations.Clock(batch_size, tokens, epoch)
    clock = clock.whole(config.training.duration, "training.duration")
    total = clock.total
    rates = optimizer.schedule(config.optimizer, clock)
    table = optimizer.table(config.optimizer, params, frozenset())
    for line in table:
        log.info(f"  {line}")
    tx = optimizer.build(config.optimizer, params)
    abstract = states.abstract(params, tx, frozenset())
    placement = step.Placement(states.shardings(mesh, abstract))
    with (
        logs.Metrics(folder, config.logging.tensorboard) as metrics,
        Checkpoints(
            folder / "checkpoints",
            config.checkpoint,
            clock.steps(config.checkpoint.keep_every, "checkpoint.keep_every"),
            best="-loss",
        ) as checkpoints,
    ):
        with meshes.use(mesh):
            state = checkpoints.restore(states.target(abstract, placement.tree))
            resumed = state is not None
            if resumed:
                log.info(f"resumed from checkpoint {int(state.step)} of this run")
            else:
                init_placement = step.Placement(placement.tree.params)
                params = states.compiled(init, init_placement)(
                    step.stream_key(config.seed.init, "init")
                )
                if config.init_from:
                    params = continued(config.init_from, params, placement.tree.params, tokenizer)
                else:
                    log.info("fresh parameters")
                state = states.create(params, tx, frozenset(), placement.tree)
        start = int(state.step)

        # ---- training --------------------------------------------------------------------------------
        logs.banner("training")
        if meshes.main_process():
            tokenizer.save(folder / "tokenizer.json")
        run_directory.record_run(folder, resolved, "pretrain", model_config)
        step_flops = batch_size * flops.per_row(
            model_config,
            params,
            batch,
            model_config.vocab_size if model_config.tied_embeddings else 0,
        )
        run_directory.write_manifest(
            folder, resolved,
            {"data": corpus.fingerprint, "contents": corpus.contents,
             "tokenizer": tokenizer.fingerprint, "parameters": sizes,
             "unigram_entropy": unigram, "tokens_per_step": tokens, "total_steps": total,
             "targets_per_step": batch_size * config.objective.targets_expected(setting),
             "flops_per_step": step_flops, "rules": table},
        )  # fmt: skip
        program = step.compiled_update(
            config.objective, model, make_batch, optimizer.static(config.optimizer), optimizer.build,
            frozenset(), config.training.microbatches, mesh, placement,
        )  # fmt: skip
        judge = step.compiled_evaluation(config.objective, model, make_batch, mesh, placement)
        roots = (
            step.stream_key(config.seed.order, "corruption"),
            step.stream_key(config.seed.dropout, "dropout"),
        )
        process = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        stream = loader.batches(
            train_rows, corpus.weights, seed=config.seed.order, global_batch=batch_size, start_step=start,
            threads=config.data.threads, prefetch=config.data.prefetch, **process,
        )  # fmt: skip
        metrics.begin(start if resumed else -1)
        coefficients = config.objective.coefficients()

        def sources():
            for number, rows in stream:
                yield (
                    meshes.global_array(mesh, rows),
                    numbered(mesh, number * batch_size, rows.shape[0]),
                )

        def update(state, source, number, rate):
            rows, numbers = source
            return program(state, rows, numbers, roots, rate)

        def evaluate(number, state):
            totals = {}
            held = loader.evaluation_batches(
                held_rows, batch_size, limit=config.evaluation.batches, **process
            )
            for index, rows in enumerate(held):
                numbers = numbered(mesh, index * batch_size, rows.shape[0])
                root = step.stream_key(config.seed.order, "evaluation")
                sums = judge(state.params, meshes.global_array(mesh, rows), numbers, root)
                loop.add(totals, jax.device_get(sums))
            values = loop.summary(totals, coefficients)
            if config.objective.likelihood:
                scale = targets_per_byte(corpus.validation) / math.log(2)
                values["bits_per_byte"] = values["loss"] * scale
            metrics.write(number, "validation", values)
            log.info(f"step {number:>7,}  held out: {loop.words_of(values, coefficients)}"
                     + (f"  (unigram entropy {unigram:.3f})" if number == 0 else ""))  # fmt: skip
            return values

        cadence = loop.cadence(clock, config)
        rate = logs.Rate(start, total, tokens, step_flops, flops.peak())
        with meshes.use(mesh):
            state = loop.run(
                state, start, sources(), update, cadence, rates=rates, metrics=metrics, rate=rate,
                evaluate=evaluate if held_rows else None, save=checkpoints.save if cadence.save else None,
                coefficients=coefficients, resumed=resumed,
            )  # fmt: skip
        checkpoints.wait()

    # ---- finished --------------------------------------------------------------------------------
    logs.banner("finished")
    log.info(f"{total:,} updates in {folder}; finetune with --config.init_from={folder}")
    final = {f"validation/{name}": value for name, value in logs.last(folder, "validation").items()}
    return Result(int(state.step), final, str(folder))


def numbered(mesh, first, local_rows):
    """Global row numbers of a batch that starts at row `first`, as a global uint32[B, 2] array."""
    offset = first + jax.process_index() * local_rows
    return meshes.global_array(mesh, step.row_numbers(offset, local_rows))


def targets_per_byte(stores):
    """Framed tokens per byte of text: what turns nats per token into bits per byte."""
    return sum(s.tokens + s.documents for s in stores) / max(1, sum(s.bytes for s in stores))


def continued(init_from, params, shardings, tokenizer):
    """Parameters of another run of the same shape and tokenizer, all of them or an error."""
    run_folder, at = locate(init_from)
    theirs = tokenizers.load(run_folder / "tokenizer.json").fingerprint
    if theirs != tokenizer.fingerprint:
        raise ConfigError(
            f"config.init_from={init_from!r} was trained with another tokenizer ({theirs}, here "
            f"{tokenizer.fingerprint}); set config.tokenizer.path={run_folder}/tokenizer.json"
        )
    report = transfer.plan(
        rules.paths(params), params_metadata(run_folder, at), "all", what=init_from
    )
    log.info(f"parameters of {run_folder} at step {at}: {report.lines(rules.paths(params))[0]}")
    return transfer.load(run_folder, at, report, params, shardings)


def main(argv):
    """Command line of this file."""
    cli.enter(argv, __doc__.splitlines()[0], Config, run)


if __name__ == "__main__":
    cli.main(main)
