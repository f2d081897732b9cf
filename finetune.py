"""Finetunes a pretrained model on a labeled task, and scores it.

    python finetune.py --config=configs/finetune/classification.py --workdir=runs/enc-task \\
                       --config.init_from=runs/enc --config.init=pretrained   # embeddings, random

`run(config, workdir)` does the same without flags, globals or exits.
"""

from training import cli


def main(argv):
    """Runs the command line: `cli` imports this file again for `run`. It precedes the imports of JAX, so
    that --help needs none."""
    cli.run_entry_point(argv, __doc__, "training.schema:FinetuneConfig", "finetune:run")


if __name__ == "__main__":
    cli.main(main)

import functools
import logging

import jax

import huggingface
import models
from tasks import evaluate
from tasks.sums import format_metrics
from training import config as configs
from training import continuation, flops, init_from, logs, run_directory, schedules, sharding
from training.checkpoint import Checkpoints
from training.durations import StepConverter
from training.loop import Intervals, train_loop
from training.metric_writer import MetricWriter
from training.optimizers import Optimizer, describe_param_rules
from training.param_rules import flatten_params, merge_params, split_params, untrained_paths
from training.preflight import check_without_data
from training.run_directory import Result
from training.schema import FinetuneConfig
from training.state import TrainState, eval_params
from training.train_step import (
    accumulate_gradients,
    check_batch,
    init_adapter,
    init_params,
    rng_streams,
)

log = logging.getLogger("triptych")


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(task, model, state, frozen, rngs, inputs, learning_rate):
    """(state after one more update, {name: (sum, weight)} of the batch); frozen: other parameters."""
    batch = task.prepare(rngs["corruption"], inputs)
    dropout_rng = jax.random.fold_in(rngs["dropout"], state.step)
    grads, sums = accumulate_gradients(task, model, state, frozen, batch, dropout_rng)
    return state.apply_gradients(grads, sums, task.loss_weights(), learning_rate)


@functools.partial(jax.jit, static_argnums=(0, 1))
def eval_step(task, model, params, rngs, inputs):
    """The predictions [B, ...] of an evaluation batch, on every process."""
    batch = task.prepare(rngs["evaluation"], inputs)
    return sharding.constrain_replicated(task.outputs(model, params, batch))


def run(config, workdir):
    """Finetunes a model as defined by `config` (ConfigDict or mapping), or resumes the run in `workdir`.

    Returns a Result with 'validation/<metric>' and 'test/<metric>'; writes the predictions. Raises
    ConfigError, and preemption.Preempted after a save on SIGTERM.
    """
    # ---- Config ----------------------------------------------------------------------------------
    logs.banner("Config")
    config = configs.resolve(FinetuneConfig, config)
    run_dir = run_directory.open_run(workdir, "finetune")
    log.info(f"{config.task.name}, init={config.init}, in {run_dir}")

    # ---- Mesh ------------------------------------------------------------------------------------
    logs.banner("Mesh")
    mesh = sharding.make_mesh(config.mesh)
    check_batch(config.training.batch_size, config.training.grad_accum_steps, mesh)
    log.info(sharding.describe(mesh))

    # ---- Init source -----------------------------------------------------------------------------
    logs.banner("Init source")
    source = init_from.finetune_source(config, run_dir, huggingface.as_run)
    config = source.config
    resolved = configs.to_dict(config)
    continuation.check_config(run_dir, config)
    check_without_data(config.task, source, run_dir, mesh)
    log.info(f"{source.name}, {config.model.architecture}")

    # ---- Task ------------------------------------------------------------------------------------
    logs.banner("Task")
    task = config.task.load(
        config, config.model, source.tokenizer_file, log.info, **sharding.process_args(mesh)
    )
    sharding.assert_equal_across_processes(
        repr((resolved, task.fingerprint)), "the config or the data"
    )
    run_directory.check_unchanged(run_dir, **task.identities)
    for line in task.describe():
        log.info(line)

    # ---- Model and optimizer ---------------------------------------------------------------------
    logs.banner("Model and optimizer")
    model = models.build(task.model_config, config.adapter)
    rngs = rng_streams(config.seed)
    with sharding.use_mesh(mesh):
        abstract_params = jax.eval_shape(functools.partial(init_params, task, model), rngs)
    fixed = untrained_paths(config, flatten_params(abstract_params), task.name)
    converter = StepConverter.of(config, task)
    optimizer = Optimizer.of(config, converter)
    param_rules = describe_param_rules(config.optimizer, abstract_params, fixed)
    intervals = Intervals.of(config, converter)
    learning_rates = schedules.learning_rates(config.optimizer, converter)
    continued = continuation.plan(run_dir, config, task, learning_rates)
    step_flops = flops.flops_per_step(task, abstract_params, fixed)
    for line in (flops.describe(abstract_params, fixed), *continued.describe()):
        log.info(line)
    for line in (*param_rules, str(task.model_config)):
        log.debug(line)
    log.info(huggingface.describe_export(
        task.model_config, abstract_params, config.task, config.adapter
    ))  # fmt: skip
    select_best = config.evaluation.select == "best"

    with (
        MetricWriter(run_dir, config.logging.tensorboard) as metrics,
        Checkpoints(
            run_dir / "checkpoints",
            config.checkpoint,
            converter.steps(config.checkpoint.keep_period, "checkpoint.keep_period"),
            best=task.best_metric if select_best else "",
        ) as checkpoints,
        sharding.use_mesh(mesh),
    ):
        # ---- Train state: resume > init_from > random --------------------------------------------
        logs.banner("Train state")
        state, frozen = continued.restore(checkpoints, mesh, abstract_params, fixed, optimizer)
        resumed = state is not None
        if resumed:
            log.info(f"resumed from checkpoint {int(state.step)} of this run")
        else:
            shardings = sharding.param_shardings(mesh, abstract_params)
            params = jax.device_put(init_params(task, model, rngs), shardings)
            params, lines, base = init_from.load_for_finetuning(
                source, task, params, shardings, huggingface.as_run
            )
            if source.adapter != config.adapter:
                params |= init_adapter(model, rngs, params)
            params, frozen = split_params(params, fixed)
            state = TrainState.create(params, optimizer)
            state = jax.device_put(state, sharding.state_shardings(mesh, state))
            for line in (*lines, *checkpoints.save_frozen(frozen, base)):
                log.info(line)
        start = int(state.step)
        run_directory.write_run(run_dir, resolved, "finetune", task, continued.record(start), {
            **task.manifest(), "init_from": source.name, "param_rules": param_rules,
            **init_from.published(source),
            "parameters": flops.count_params(abstract_params),
            "total_steps": converter.total_steps, "flops_per_step": step_flops,
        })  # fmt: skip

        # ---- Train step --------------------------------------------------------------------------
        logs.banner("Train step")

        def step_fn(state, inputs, learning_rate):
            return train_step(task, model, state, frozen, rngs, inputs, learning_rate)

        def evaluate_params(params, split):
            def predict(inputs):
                return eval_step(task, model, params, rngs, sharding.global_array(mesh, inputs))

            return evaluate(task, split, predict)

        def evaluate_at(step, state):
            _, values = evaluate_params(eval_params(state, frozen), "validation")
            metrics.write(step, "validation", values)
            log.info(f"step {step:>7,}  validation: {format_metrics(values, {})}")
            return values

        # ---- Train loop --------------------------------------------------------------------------
        logs.banner("Train loop")
        metrics.open(start if resumed else -1)  # drops the lines after this step
        state = train_loop(
            state,
            (sharding.global_array(mesh, inputs) for inputs in task.iterate(start)),
            step_fn,
            start=start,
            resumed=resumed,
            intervals=intervals,
            learning_rates=learning_rates,
            loss_weights=task.loss_weights(),
            evaluate=evaluate_at if intervals.evaluate else None,
            save=checkpoints.save if intervals.save else None,
            save_evaluated=select_best,
            metrics=metrics,
            throughput=logs.Throughput(
                converter.total_steps, task.tokens_per_step, step_flops, flops.peak_flops()
            ),
        )
        checkpoints.wait()

        # ---- Final scores ------------------------------------------------------------------------
        logs.banner("Final scores")
        params, scored_step, scores = eval_params(state, frozen), converter.total_steps, {}
        if select_best:
            scored_step = checkpoints.best_step()
            trainable, _ = split_params(sharding.placed(mesh, abstract_params), fixed)
            params = merge_params(checkpoints.restore_params(scored_step, trainable), frozen)
        for split in ("validation", "test"):
            if task.has_split(split) and (split == "validation" or config.evaluation.test):
                predictions, values = evaluate_params(params, split)
                if sharding.is_main_process():
                    task.write_predictions(run_dir, split, predictions)
                if values:
                    log.info(f"{split}, step {scored_step:,}: {format_metrics(values, {})}")
                scores |= {f"{split}/{name}": value for name, value in values.items()}
    if sharding.is_main_process():
        run_directory.write_json(run_dir / "scores.json", {"step": scored_step, **scores})
    return Result(int(state.step), scores, str(run_dir))
