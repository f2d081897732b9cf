"""Pretrains a model: text -> rows of tokens -> batch -> model -> losses -> updates -> checkpoints.

    python train.py --config=configs/encoder.py --workdir=runs/enc [--config.key=value ...]

`run(config, workdir)` does the same without flags, globals or exits.
"""

from training import cli


def main(argv):
    """Runs the command line; `cli` imports this file again and calls `run`. Defined before the imports of
    JAX, so that --help does not load it."""
    cli.run_entry_point(argv, __doc__, "training.schema:PretrainConfig", "train:run")


if __name__ == "__main__":
    cli.main(main, resumes=True)

import logging

import jax

import huggingface
import models
from tasks import TASKS, evaluate
from tasks.sums import format_metrics
from training import config as config_lib
from training import flops, hosts, init_from, logs, run_directory, schedules, sharding
from training.checkpoint import Checkpoints
from training.compilation import announced_jit
from training.continuation import Continuation, check_config
from training.durations import StepConverter
from training.loop import Intervals, train_loop
from training.metric_writer import MetricWriter
from training.optimizers import Optimizer, describe_param_rules
from training.param_rules import find_all_frozen, flatten_params, split_params
from training.preflight import check_without_data
from training.run_directory import Result
from training.schema import PretrainConfig
from training.state import TrainState, eval_params, init_output_bias
from training.train_step import accumulate_gradients, check_batch_layout, init_params, rng_streams
from training.unigram_baseline import count_targets, num_sample_batches, sum_counts, unigram_entropy

log = logging.getLogger("triptych")


@announced_jit("the train step", static_argnums=(0, 1), donate_argnums=2)
def train_step(task, model, state, frozen, rngs, inputs, learning_rate):
    """(state after one more update, {name: (sum, weight)} of the batch). `frozen`: parameters that are not
    trained. `prepare` folds each example's global id into the corruption rng."""
    batch = task.prepare(rngs["corruption"], inputs)
    dropout_rng = jax.random.fold_in(rngs["dropout"], state.step)
    grads, sums = accumulate_gradients(task, model, state, frozen, batch, dropout_rng)
    return state.apply_gradients(grads, sums, task.loss_coefficients(), learning_rate)


@announced_jit("the evaluation step", static_argnums=(0, 1))
def eval_step(task, model, params, rngs, inputs):
    """{name: (sum, weight)} of an evaluation batch; its corruption is the same at every step."""
    batches = task.prepare_evaluation(rngs["evaluation"], inputs)
    return sharding.constrain_replicated(task.outputs(model, params, batches))


@announced_jit("the count of targets", static_argnums=(0, 1))
def count_step(task, model, params, rngs, inputs):
    """{loss: (weight of each class float32[vocab_size], denominator float32[])} of the targets of a batch."""
    batch = task.prepare(rngs["corruption"], inputs)
    counts = count_targets(task.loss, model, params, batch, None, task.spec.vocabulary.size)
    return sharding.constrain_replicated(counts)


def run(config, workdir):
    """Pretrains a model as defined by `config` (ConfigDict or mapping), or resumes the run in `workdir`.

    Returns a Result with 'validation/<metric>'. Raises ConfigError, FloatingPointError if an update is
    not finite, and preemption.Preempted on SIGTERM, Ctrl-C, training.max_hours or training.stop_after.
    """
    # ---- Config ----------------------------------------------------------------------------------
    logs.banner("Config")
    config = config_lib.resolve(PretrainConfig, config)
    hosts.check_config(config)
    run_dir = run_directory.open_run(workdir, "pretrain")
    log.info(f"{config.model.architecture}, {config.objective.name}, in {run_dir}")

    # ---- Mesh ------------------------------------------------------------------------------------
    logs.banner("Mesh")
    mesh = sharding.make_mesh(config.mesh)
    check_batch_layout(config.training, mesh)

    # ---- Initialization --------------------------------------------------------------------------
    logs.banner("Initialization")
    pretrained = init_from.resolve_for_pretraining(config, run_dir, huggingface.as_run)
    config = pretrained.config
    check_config(run_dir, config)
    check_without_data(TASKS["pretraining"](), pretrained, run_dir, mesh)

    # ---- Task ------------------------------------------------------------------------------------
    logs.banner("Task")
    task = TASKS["pretraining"]().load(
        config, config.model, pretrained.tokenizer_file, log.info, **sharding.process_args(mesh),
        check_tokenizer=pretrained.check_tokenizer,
    )  # fmt: skip
    hosts.check_data(config, task, [run_dir])
    run_directory.check_unchanged(run_dir, **task.identities)
    summary = sharding.describe_task(mesh, task)

    # ---- Model and optimizer ---------------------------------------------------------------------
    logs.banner("Model and optimizer")
    model = models.build(task.model_config, loop=config.training.layer_loop)
    rngs = rng_streams(config.seed)
    with sharding.use_mesh(mesh):
        abstract_params = jax.eval_shape(lambda: init_params(task, model, rngs))
    frozen_paths = find_all_frozen(config, flatten_params(abstract_params))
    step_flops = flops.flops_per_step(task, abstract_params, frozen_paths)
    converter = StepConverter.of(config, task, step_flops)
    optimizer = Optimizer.of(config, converter)
    param_rules = describe_param_rules(config.optimizer, abstract_params, frozen_paths)
    intervals = Intervals.of(config, converter, run_dir)
    learning_rates = schedules.learning_rates(config.optimizer, converter)
    continued = Continuation.of(run_dir, config, converter, learning_rates)
    coefficients = task.loss_coefficients()
    summary += [
        flops.describe(abstract_params, frozen_paths),
        *sharding.describe_unsharded(mesh, abstract_params),
        *continued.describe(),
        huggingface.describe_export(task.model_config, abstract_params),
    ]
    log.debug("\n".join((*param_rules, str(task.model_config))))

    with (
        MetricWriter(run_dir, config.logging.tensorboard, config.logging.wandb) as metrics,
        Checkpoints(
            run_dir / "checkpoints",
            config.checkpoint,
            converter.steps(config.checkpoint.keep_period, "checkpoint.keep_period"),
            best=task.best_metric,
        ) as checkpoints,
        sharding.use_mesh(mesh),
    ):
        # ---- Train state: resume > init_from > random --------------------------------------------
        logs.banner("Train state")
        arguments = mesh, abstract_params, frozen_paths, optimizer
        state, frozen = continued.restore(checkpoints, *arguments)
        resumed, entropy = state is not None, {}
        if resumed:
            log.info(
                "\n".join([continued.describe_resumed(int(state.step), pretrained.name), *summary])
            )
        else:
            shardings = sharding.param_shardings(mesh, abstract_params)
            params = jax.device_put(init_params(task, model, rngs), shardings)
            lines, reference = ["fresh: all parameters (no init_from)"], None
            if pretrained.run is not None:
                params, lines, reference = init_from.load_for_pretraining(
                    pretrained, task, params, shardings
                )
            log.info("\n".join((*lines, *summary)))
            num_batches = num_sample_batches(task.tokens_per_step, converter.total_steps)
            counts = sum_counts(
                count_step(
                    task, model, params, rngs, sharding.global_array(mesh, task.train_inputs(n))
                )
                for n in range(num_batches)
            )
            entropy = unigram_entropy(counts, coefficients)
            log.info(f"unigram entropy of the targets ({num_batches:,} batches): "
                     f"{format_metrics(entropy, coefficients)} nats; a model with this loss has "
                     f"learned only their frequencies")  # fmt: skip
            if pretrained.run is None and config.model.lm_head_bias_init == "unigram":
                params = init_output_bias(params, counts)
            params, frozen = split_params(params, frozen_paths)
            state = TrainState.create(params, optimizer)
            state = jax.device_put(state, sharding.state_shardings(mesh, state))
            for line in checkpoints.save_frozen(frozen, reference):
                log.info(line)
        start, resolved = int(state.step), config_lib.to_dict(config)
        run_directory.write_run(run_dir, resolved, "pretrain", task, continued.record(start), {
            **task.manifest(), "init_from": pretrained.name, **init_from.published(pretrained),
            "uses_pretrained_tokenizer": bool(pretrained.tokenizer_file),
            "parameters": flops.count_params(abstract_params), "param_rules": param_rules,
            "target_entropy": entropy,
            "tokens_per_step": task.tokens_per_step, "total_steps": converter.total_steps,
            "flops_per_step": step_flops,
        })  # fmt: skip

        # ---- Train step --------------------------------------------------------------------------
        logs.banner("Train step")

        def step_fn(state, inputs, learning_rate):
            return train_step(task, model, state, frozen, rngs, inputs, learning_rate)

        def evaluate_at(step, state):
            def predict(inputs):
                inputs = sharding.global_array(mesh, inputs)
                return eval_step(task, model, eval_params(state, frozen), rngs, inputs)

            _, values = evaluate(task, "validation", predict)
            metrics.write(step, "validation", values)
            log.info(f"step {step:>7,}  validation: {format_metrics(values, coefficients)}")
            return values

        # ---- Train loop --------------------------------------------------------------------------
        logs.banner("Train loop")
        metrics.open(start if resumed else -1)  # drops the lines of metrics.jsonl after this step
        state = train_loop(
            state,
            (sharding.global_array(mesh, inputs) for inputs in task.iterate(start)),
            step_fn,
            start=start,
            resumed=resumed,
            intervals=intervals,
            learning_rates=learning_rates,
            loss_coefficients=coefficients,
            evaluate=evaluate_at if task.has_split("validation") else None,
            save=checkpoints.save if intervals.save else None,
            metrics=metrics,
            throughput=logs.Throughput(
                converter.total_steps, task.tokens_per_step, step_flops, flops.peak_flops()
            ),
        )
        checkpoints.wait()

    # ---- Final scores ----------------------------------------------------------------------------
    logs.banner("Final scores")
    scores = logs.last_metrics(run_dir, "validation")
    log.info(f"{format_metrics(scores, coefficients)} after {converter.total_steps:,} steps")
    log.info(f"finetune with --config.init_from={run_dir}")
    scores = {f"validation/{name}": value for name, value in scores.items()}
    return Result(int(state.step), scores, str(run_dir))
