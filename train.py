"""Pretraining: text -> rows -> batch -> model -> sums -> updates -> checkpoints, top to bottom.

    python train.py --config=configs/encoder.py --workdir=runs/enc [--config.key=value ...]

`run(config, workdir)` is the whole of it, without flags, globals or exits.
"""

import dataclasses
import functools
import logging
import math

import jax
import numpy as np

import models
import objectives
from data import framing, loader, prepare
from data import tokenizer as tokenizers
from data.config import DataConfig, TokenizerConfig
from data.store import Rows
from huggingface import sources
from models.config import ModelConfig
from objectives.base import Setting, Shapes
from objectives.batch import Batch
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary
from training import (
    architectures,
    cli,
    durations,
    entropy,
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
from training.checkpoint import CheckpointConfig, Checkpoints, locate, params_metadata
from training.config import ConfigError, Seeds
from training.logs import LoggingConfig
from training.mesh import MeshConfig
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
    ema: float = dataclasses.field(
        default=0.0,
        metadata={"min": 0.0, "max": 0.999999, "help": "decay of averaged parameters; 0 = none"},
    )
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
    optimizer: OptimizerConfig = dataclasses.field(
        metadata={"variants": OPTIMIZERS, "default": "adamw"}
    )
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig
    mesh: MeshConfig
    seed: Seeds
    init_from: str = dataclasses.field(
        default="",
        metadata={
            "help": "run directory[@step] or Hugging Face directory to continue pretraining from; "
            "of the latter network and tokenizer are taken too"
        },
    )
    init_as: str = dataclasses.field(
        default="same",
        metadata={"choices": architectures.AS, "help": "stacks that init_from fills; same: all"},
    )
    init_weights: str = dataclasses.field(
        default="average",
        metadata={"choices": transfer.WEIGHTS, "help": "average: raw where the run kept none"},
    )


@dataclasses.dataclass(frozen=True)
class Text:
    """A config's text, opened: all that decides what a step reads. `tools.inspect` reads the same."""

    corpus: prepare.Prepared
    model: ModelConfig  # the config's, with its zeros filled in
    setting: Setting
    shapes: Shapes
    train: list[Rows]  # one for each source
    validation: list[Rows]
    make_batch: step.Corruption  # (keys of rows, rows) -> Batch
    batch: Batch  # abstract: shapes and dtypes

    @property
    def epoch(self):
        """Rows in one pass over the training text."""
        return sum(map(len, self.train))

    def clock(self, config):
        """The run's length and the worth of an update, a durations.Clock."""
        rows, decoder = config.training.batch_size, self.batch.decoder is not None
        tokens = rows * (self.shapes.inputs + (self.shapes.targets if decoder else 0))
        clock = durations.Clock(rows, tokens, self.epoch)
        return clock.whole(config.training.duration, "training.duration")

    def order(self, config, **process):
        """Every batch of the run by its number, a loader.Batches; `process`: which part of it."""
        return loader.Batches(
            self.train, self.corpus.weights, seed=config.seed.order,
            global_batch=config.training.batch_size, **process,
        )  # fmt: skip


def run(config, workdir):
    """Pretrains as `config` (ConfigDict or mapping) says, in `workdir`; resumes what is there.

    Returns a Result; raises ConfigError, and preemption.Preempted after a save on SIGTERM.
    """
    # ---- configuration ---------------------------------------------------------------------------
    logs.banner("configuration")
    config = configs.resolve(Config, config)
    objectives.check(config.objective, config.model.architecture)
    architectures.check_asked(config)
    resolved = configs.to_dict(config)
    folder = run_directory.open_run(workdir, config, "pretrain")
    config = sources.adopted(config, folder)
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
    text = open_text(config, log.info)
    corpus, tokenizer = text.corpus, text.corpus.tokenizer
    meshes.agree(repr((resolved, corpus.fingerprint)), "the config or the data")
    run_directory.check_unchanged(folder, data=corpus.fingerprint, tokenizer=tokenizer.fingerprint)
    log.info(f"{sum(s.tokens for s in corpus.train):,} tokens of "
             f"{sum(s.documents for s in corpus.train):,} documents in {text.epoch:,} rows of "
             f"{text.shapes.raw}; fingerprint {corpus.fingerprint}")  # fmt: skip

    # ---- model and objective ---------------------------------------------------------------------
    logs.banner("model and objective")
    model_config, batch = text.model, text.batch
    model = models.build(model_config)
    init = states.initialiser(config.objective, model, batch)
    with meshes.use(mesh):
        params = jax.eval_shape(init, jax.eval_shape(lambda: step.stream_key(0, "init")))
    sizes = flops.count(params)
    log.info(f"{sizes['total']:,} parameters, {sizes['non_embedding']:,} outside embeddings")
    log.info(config.objective.describe(text.setting))

    # ---- optimizer and state ---------------------------------------------------------------------
    logs.banner("optimizer and state")
    clock = text.clock(config)
    total, tokens = clock.total, clock.tokens
    rates = optimizer.schedule(config.optimizer, clock)
    table = optimizer.table(config.optimizer, params, frozenset())
    for line in table:
        log.info(f"  {line}")
    tx = optimizer.build(config.optimizer, params)
    abstract = states.abstract(params, tx, frozenset(), config.training.ema)
    placement = step.Placement(states.shardings(mesh, abstract))
    process = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    order = text.order(config, **process)
    roots = (
        step.stream_key(config.seed.order, "corruption"),
        step.stream_key(config.seed.dropout, "dropout"),
    )
    coefficients = config.objective.coefficients()

    def source(number, rows):
        """Batch `number`: its rows and their global numbers, spread over the mesh."""
        first = number * batch_size
        return meshes.global_array(mesh, rows), numbered(mesh, first, rows.shape[0])

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
            resumed, chance = state is not None, {}
            if resumed:
                log.info(f"resumed from checkpoint {int(state.step)} of this run")
            else:
                init_placement = step.Placement(placement.tree.params)
                params = states.compiled(init, init_placement)(
                    step.stream_key(config.seed.init, "init")
                )
                if config.init_from:
                    shardings = placement.tree.params
                    params = continued(config, model_config, params, shardings, tokenizer)
                else:
                    log.info("fresh parameters")
                count = entropy.sample(tokens, total)
                tally = step.compiled_tally(
                    config.objective, model, text.make_batch, mesh, init_placement
                )
                answers = entropy.added(
                    tally(params, *source(n, order.batch_at(n)), roots[0]) for n in range(count)
                )
                chance = entropy.of_targets(answers, coefficients)
                log.info(f"entropy of the targets of {count:,} batches: "
                         f"{loop.words_of(chance, coefficients)} nats; a loss that stays there has "
                         f"learned how often each occurs and nothing else")  # fmt: skip
                if not config.init_from:
                    params = states.at_frequencies(params, answers)
                state = states.create(params, tx, frozenset(), placement.tree)
        start = int(state.step)

        # ---- training --------------------------------------------------------------------------------
        logs.banner("training")
        if meshes.main_process():
            tokenizer.save(folder / "tokenizer.json")
        run_directory.record_run(folder, resolved, "pretrain", model_config)
        step_flops = batch_size * flops.per_row(config.objective, model_config, params, batch)
        run_directory.write_manifest(
            folder, resolved,
            {"data": corpus.fingerprint, "contents": corpus.contents,
             "tokenizer": tokenizer.fingerprint, "parameters": sizes,
             "target_entropy": chance, "tokens_per_step": tokens, "total_steps": total,
             "targets_per_step": batch_size * config.objective.targets_expected(text.setting),
             "flops_per_step": step_flops, "rules": table},
        )  # fmt: skip
        program = step.compiled_update(
            config.objective, model, text.make_batch, optimizer.static(config.optimizer),
            optimizer.build, frozenset(), config.training.microbatches, mesh, placement,
            config.training.ema,
        )  # fmt: skip
        judge = step.compiled_evaluation(
            config.objective.measured(), model, text.make_batch, mesh, placement
        )
        metrics.begin(start if resumed else -1)

        def batches_of_run():
            for number, rows in order.iterate(start, config.data.threads, config.data.prefetch):
                yield source(number, rows)

        def update(state, source, number, rate):
            rows, numbers = source
            return program(state, rows, numbers, roots, rate)

        def evaluate(number, state):
            totals, weights = {}, states.averaged(state)
            held = loader.evaluation_batches(
                text.validation, batch_size, limit=config.evaluation.batches, **process
            )
            root = step.stream_key(config.seed.order, "evaluation")
            for index, rows in enumerate(held):
                sums = judge(weights, *source(index, rows), root)
                loop.add(totals, jax.device_get(sums))
            values = loop.summary(totals, coefficients)
            if config.objective.likelihood:
                scale = targets_per_byte(corpus.validation) / math.log(2)
                values["bits_per_byte"] = values["loss"] * scale
            metrics.write(number, "validation", values)
            log.info(f"step {number:>7,}  held out: {loop.words_of(values, coefficients)}"
                     + (f"  (entropy {chance['loss']:.3f})" if number == 0 else ""))  # fmt: skip
            return values

        cadence = loop.cadence(clock, config)
        rate = logs.Rate(start, total, tokens, step_flops, flops.peak())
        with meshes.use(mesh):
            state = loop.run(
                state, start, batches_of_run(), update, cadence, rates=rates, metrics=metrics, rate=rate,
                evaluate=evaluate if text.validation else None,
                save=checkpoints.save if cadence.save else None, coefficients=coefficients, resumed=resumed,
            )  # fmt: skip
        checkpoints.wait()

    # ---- finished --------------------------------------------------------------------------------
    logs.banner("finished")
    log.info(f"{total:,} updates in {folder}; finetune with --config.init_from={folder}")
    final = {f"validation/{name}": value for name, value in logs.last(folder, "validation").items()}
    return Result(int(state.step), final, str(folder))


def open_text(config, say):
    """The Text of a resolved Config; `say(line)` hears of what has to be made first."""
    corpus = prepare.prepare(config.data, config.tokenizer, build=jax.process_count() == 1, log=say)
    tokenizer, length = corpus.tokenizer, config.training.length
    model = models.config.completed(
        config.model, tokenizer.size, length, config.objective.token_types
    )
    stores = zip(corpus.weights, (s.unigram for s in corpus.train), strict=True)
    setting = Setting(
        model.architecture, Vocabulary(**tokenizer.special_ids()), length,
        Unigram(sum(weight * n / n.sum() for weight, n in stores)),
    )  # fmt: skip
    shapes = config.objective.shapes(setting)
    frame = framing.frame_for(
        model.architecture, tokenizer.special_ids(), tokenizer.frame, documents=True
    )
    make_batch = step.Corruption(config.objective, setting)
    rows = jax.ShapeDtypeStruct((config.training.batch_size, shapes.raw), np.int32)
    keys = jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0, impl="threefry2x32"), rows.shape[0])
    )
    return Text(
        corpus, model, setting, shapes,
        [s.rows(shapes.raw, shapes.overlap, frame) for s in corpus.train],
        [s.rows(shapes.raw, shapes.overlap, frame) for s in corpus.validation],
        make_batch, jax.eval_shape(make_batch, keys, rows),
    )  # fmt: skip


def numbered(mesh, first, local_rows):
    """Global row numbers of a batch that starts at row `first`, as a global uint32[B, 2] array."""
    offset = first + jax.process_index() * local_rows
    return meshes.global_array(mesh, step.row_numbers(offset, local_rows))


def targets_per_byte(stores):
    """Framed tokens per byte of text: what turns nats per token into bits per byte."""
    return sum(s.tokens + s.documents for s in stores) / max(1, sum(s.bytes for s in stores))


def continued(config, model_config, params, shardings, tokenizer):
    """Parameters of another run of the same tokenizer: all of them or an error, or, where init_as
    says so, those of the stacks that a network of another architecture has too."""
    init_from = config.init_from
    run_folder, at = locate(sources.run_of(init_from, config.data.cache_dir))
    theirs = tokenizers.load(run_folder / "tokenizer.json").fingerprint
    if theirs != tokenizer.fingerprint:
        raise ConfigError(
            f"config.init_from={init_from!r} was trained with another tokenizer ({theirs}, here "
            f"{tokenizer.fingerprint}); set config.tokenizer.path={run_folder}/tokenizer.json"
        )
    there = ModelConfig(**run_directory.read_config(run_folder)["model"])
    flat, found = rules.paths(params), params_metadata(run_folder, at)
    published = "huggingface" in run_directory.read_manifest(run_folder)
    plan = architectures.plan(
        there, model_config, found, flat, config.init_as, init_from, published
    )
    report = transfer.plan(flat, plan.renamed(found), "all", plan.new(), what=init_from)
    log.info(f"{transfer.origin(run_folder, at, config.init_weights)}:")
    for line in plan.lines(flat):
        log.info(f"  {line}")
    read = functools.partial(transfer.load, run_folder, at, weights=config.init_weights)
    return architectures.load(read, plan, report, params, shardings)


def main(argv):
    """Command line of this file."""
    cli.enter(argv, __doc__.splitlines()[0], Config, run)


if __name__ == "__main__":
    cli.main(main)
