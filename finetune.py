"""Finetunes a pretrained model on a labeled task, and scores it.

    python finetune.py --config=configs/finetune/classification.py --workdir=runs/enc-task \\
                       --config.init_from=runs/enc --config.init=pretrained   # embeddings, random

`run(config, workdir)` does the same without flags, globals or exits.
"""

from training import cli


def main(argv):
    """Runs the command line; `cli` imports this file again and calls `run`. Defined before the imports of
    JAX, so that --help does not load it."""
    cli.run_entry_point(argv, __doc__, "training.schema:FinetuneConfig", "finetune:run")


if __name__ == "__main__":
    cli.main(main, resumes=True)

import functools
import logging

import jax

import huggingface
import models
from tasks.sums import format_metrics
from training import config as config_lib
from training import flops, init_from, logs, replica_scores, replicas, schedules, sharding
from training.compilation import announced_jit
from training.continuation import Continuation, check_config
from training.durations import StepConverter
from training.loop import Intervals, train_loop
from training.optimizers import Optimizer, describe_param_rules
from training.param_rules import find_all_frozen, flatten_params, merge_params, split_params
from training.preflight import check_without_data
from training.schema import FinetuneConfig
from training.state import TrainState, eval_params
from training.train_step import accumulate_gradients, check_batch_layout, init_params, rng_streams

log = logging.getLogger("triptych")


@announced_jit("the train step", static_argnums=(0, 1, 2), donate_argnums=3)
def train_step(task, model, axis, state, frozen, rngs, inputs, learning_rate):
    """As in train.py, with a replica axis."""

    def update(state, frozen, rngs, inputs, learning_rate):
        batch = task.prepare(rngs["corruption"], inputs)
        dropout_rng = jax.random.fold_in(rngs["dropout"], state.step)
        grads, sums = accumulate_gradients(task, model, state, frozen, batch, dropout_rng)
        return state.apply_gradients(grads, sums, task.loss_coefficients(), learning_rate)

    state, sums = axis.vmap(update, frozen=1)(state, frozen, rngs, inputs, learning_rate)
    return axis.replicate_counters(state, sums)


@announced_jit("the evaluation step", static_argnums=(0, 1, 2))
def eval_step(task, model, axis, params, frozen, rngs, inputs):
    """`task.outputs` of an evaluation batch, replicated over processes: [B, ...], or [R, B, ...] of R
    replicas."""

    def predict(params, frozen, rngs, inputs):
        batch = task.prepare(rngs["evaluation"], inputs)
        return task.outputs(model, merge_params(params, frozen), batch)

    outputs = axis.vmap(predict, frozen=1, shared=(3,))(params, frozen, rngs, inputs)
    return sharding.constrain_replicated(outputs)


def run(config, workdir):
    """Finetunes a model as defined by `config` (ConfigDict or mapping), or resumes the run in `workdir`.

    Several seeds or learning rates are replicas in directories below it (training/replicas.py). Returns
    a Result with 'validation/<metric>' and 'test/<metric>'; writes the predictions. Raises ConfigError,
    FloatingPointError if an update is not finite, and preemption.Preempted on SIGTERM, Ctrl-C,
    training.max_hours or training.stop_after.
    """
    config = config_lib.resolve(FinetuneConfig, config)
    groups = replicas.expand(config, workdir)
    return replica_scores.finish(workdir, [each for group in groups for each in train(group)])


def train(group):
    """Trains all replicas of a group in one program (a single run is a group of one) -> [Finished]."""
    # ---- Config ----------------------------------------------------------------------------------
    logs.banner("Config")
    config, run_dir = group[0].config, group[0].folder
    size = len(group) if group[0].name else 0  # of the replica axis; 0: there is none
    log.info(f"{config.task.name}, init={config.init}, in {replicas.describe_group(group)}")

    # ---- Mesh ------------------------------------------------------------------------------------
    logs.banner("Mesh")
    mesh = sharding.make_mesh(config.mesh, replicas=size)
    check_batch_layout(config.training, mesh)

    # ---- Initialization --------------------------------------------------------------------------
    logs.banner("Initialization")
    pretrained = init_from.resolve_for_finetuning(config, run_dir, huggingface.as_run)
    group = [replica.resolve(pretrained.config) for replica in group]
    config = group[0].config
    for replica in group:
        check_config(replica.folder, replica.config)
    check_without_data(config.task, pretrained, run_dir, mesh)

    # ---- Task ------------------------------------------------------------------------------------
    logs.banner("Task")
    task = config.task.load(
        config, config.model, pretrained.tokenizer_file, log.info, **sharding.process_args(mesh)
    )
    tasks = replicas.tasks_of(group, task)
    replicas.check_data(group, task)
    summary = sharding.describe_task(mesh, task, config.adapter)

    # ---- Model and optimizer ---------------------------------------------------------------------
    logs.banner("Model and optimizer")
    model = models.build(task.model_config, config.adapter, config.training.layer_loop)
    rngs = [rng_streams(replica.config.seed) for replica in group]
    with sharding.use_mesh(mesh):
        abstract_params = jax.eval_shape(functools.partial(init_params, task, model), rngs[0])
    frozen_paths = find_all_frozen(config, flatten_params(abstract_params))
    step_flops = flops.flops_per_step(task, abstract_params, frozen_paths)
    converter = StepConverter.of(config, task, step_flops)
    optimizer = Optimizer.of(config, converter)
    param_rules = describe_param_rules(config.optimizer, abstract_params, frozen_paths)
    intervals = Intervals.of(config, converter, run_dir)
    learning_rates = [schedules.learning_rates(r.config.optimizer, converter) for r in group]
    continued = [
        Continuation.of(replica.folder, replica.config, converter, rates)
        for replica, rates in zip(group, learning_rates, strict=True)
    ]
    summary += [
        f"{config.model.architecture}: {flops.describe(abstract_params, frozen_paths)}",
        *sharding.describe_unsharded(mesh, abstract_params),
        *continued[0].describe(),
        huggingface.describe_export(
            task.model_config, abstract_params, config.task, config.adapter
        ),
    ]
    log.debug("\n".join((*param_rules, str(task.model_config))))
    best_metric = task.best_metric if config.evaluation.select == "best" else ""

    with replicas.ReplicaWriters(group, converter, best_metric) as writers, sharding.use_mesh(mesh):
        # ---- Train state: resume > init_from > random --------------------------------------------
        logs.banner("Train state")

        def restore(number, checkpoints):
            arguments = mesh, abstract_params, frozen_paths, optimizer
            return continued[number].restore(checkpoints, *arguments)

        def init(number, checkpoints):
            shardings = sharding.param_shardings(mesh, abstract_params)
            params = jax.device_put(init_params(task, model, rngs[number]), shardings)
            params, lines, reference = init_from.load_for_finetuning(
                pretrained, task, model, rngs[number], params, shardings, huggingface.as_run
            )
            params, frozen = split_params(params, frozen_paths)
            state = TrainState.create(params, optimizer)
            for line in (*lines, *checkpoints.save_frozen(frozen, reference)):
                log.log(logging.DEBUG if number else logging.INFO, line)
            return jax.device_put(state, sharding.state_shardings(mesh, state)), frozen

        resumed, start, axis, state, frozen = writers.restore_or_init(restore, init, size, mesh)
        lines = [continued[0].describe_resumed(start, pretrained.name)] * resumed
        log.info("\n".join((*lines, *summary)))
        manifest = {
            **task.manifest(), "best_metric": task.best_metric, "init_from": pretrained.name,
            **init_from.published(pretrained), "param_rules": param_rules, "flops_per_step": step_flops,
            "parameters": flops.count_params(abstract_params), "total_steps": converter.total_steps,
        }  # fmt: skip
        writers.write_runs(continued, start, task, manifest)

        # ---- Train step --------------------------------------------------------------------------
        logs.banner("Train step")
        rngs = axis.stack(rngs, mesh)

        def step_fn(state, inputs, learning_rate):
            return train_step(task, model, axis, state, frozen, rngs, inputs, learning_rate)

        def evaluate_params(params, split, is_final=False):
            def predict(inputs):
                inputs = axis.global_shared_batch(mesh, inputs)
                return eval_step(task, model, axis, params, frozen, rngs, inputs)

            generator_args = model, params, frozen, mesh
            return axis.evaluate(task, split, predict, writers.failed, is_final, generator_args)

        def evaluate_at(step, state):
            predictions, values = evaluate_params(eval_params(state, {}), "validation")
            stacked = axis.stack_values(values)
            writers.write(step, "validation", stacked)
            log.info(f"step {step:>7,}  validation: {format_metrics(stacked, {})}")
            writers.write_samples(step, task, "validation", predictions)
            return values

        # ---- Train loop --------------------------------------------------------------------------
        logs.banner("Train loop")
        writers.open(start if resumed else -1)  # drops the lines after this step
        state = train_loop(
            state,
            (axis.global_batch(mesh, inputs) for inputs in replicas.batches(tasks, start)),
            step_fn,
            start=start,
            resumed=resumed,
            intervals=intervals,
            learning_rates=axis.stack_values(learning_rates),
            loss_coefficients=task.loss_coefficients(),
            evaluate=evaluate_at if intervals.evaluate else None,
            save=functools.partial(writers.save, axis) if intervals.save else None,
            save_evaluated=bool(best_metric),
            metrics=writers,
            throughput=logs.Throughput(
                converter.total_steps, task.tokens_per_step * len(group), step_flops * len(group),
                flops.peak_flops(),
            ),
        )  # fmt: skip
        writers.wait()

        # ---- Final scores ------------------------------------------------------------------------
        logs.banner("Final scores")
        params, steps = eval_params(state, {}), [converter.total_steps] * len(group)
        if best_metric:
            trainable, _ = split_params(sharding.placed(mesh, abstract_params), frozen_paths)
            steps, best = writers.best_params(trainable)
            params = axis.stack(best, mesh, jax.tree.map(lambda x: x.sharding, trainable))
        splits = ["validation", "test"] if config.evaluation.test else ["validation"]
        splits = filter(task.has_split, splits)
        scored = {split: evaluate_params(params, split, is_final=True) for split in splits}
    return replica_scores.write_scores(writers, task, int(state.step.max()), steps, scored)
