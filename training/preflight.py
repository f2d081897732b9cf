"""Checks of a config that need no data: they come before text is tokenized or labels are read.

The same checks run again with the data, where they belong; here they save the wait. Used by the entry
files.
"""

import dataclasses
import functools
import importlib.util

import jax

import models
from models import Adapter
from training import flops, run_directory, schedules, sharding
from training.checkpoint import params_metadata
from training.config import ConfigError
from training.durations import StepConverter
from training.init_from import plan_pretraining
from training.optimizers import describe_param_rules
from training.param_rules import find_all_frozen, flatten_params, unflatten_params
from training.train_step import init_params, rng_streams

DURATIONS = ("training.duration", "evaluation.every", "checkpoint.every", "checkpoint.keep_period",
             "logging.every", "optimizer.warmup", "optimizer.cooldown",
             "optimizer.gradual_unfreezing")  # fmt: skip


def check_without_data(task, pretrained, run_dir, mesh):
    """Raises ConfigError or ValueError for a config that fails whatever the data is.

    Args:
      task: tasks.Task, the options of the task.
      pretrained: init_from.PretrainedModel, with the config of the run.
      run_dir: the run directory; parameters of a run in it are not checked again.
      mesh: jax.sharding.Mesh.
    """
    config = pretrained.config
    if config.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f"config.logging.wandb={config.logging.wandb!r} needs the package wandb, which is not installed: "
            f"pip install -e '.[wandb]'"
        )
    if pretrained.run is not None and getattr(config, "adapter", None) not in (None, Adapter()):
        config.adapter.adapted_modules(
            unflatten_params(params_metadata(pretrained.run, pretrained.step))
        )
    loaded = task.load_without_data(config, config.model, pretrained.tokenizer_file)
    sharding.check_lengths(mesh, loaded.row_lengths if loaded else {task.max_seq_len})
    check_durations(config, loaded.tokens_per_step if loaded else 0)
    if loaded is None or run_directory.resumes(run_dir):
        return
    if pretrained.run is not None:
        # A tokenizer that is not trained yet will have the source's vocabulary, or not fit.
        size = run_directory.read_model_config(pretrained.run).vocab_size
        model_config = dataclasses.replace(loaded.model_config, vocab_size=size)
        loaded = dataclasses.replace(loaded, model_config=model_config)
    initialize = functools.partial(init_params, loaded, models.build(loaded.model_config))
    with sharding.use_mesh(mesh):
        params = jax.eval_shape(initialize, rng_streams(config.seed))
    if pretrained.run is not None:
        if pretrained.tokenizer_file or config.tokenizer.path:
            pretrained.check_tokenizer(loaded.tokenizer)
        plan_pretraining(pretrained, loaded.model_config, flatten_params(params))
    sharding.describe_unsharded(mesh, params)
    frozen = find_all_frozen(config, flatten_params(params))
    describe_param_rules(config.optimizer, params, frozen)
    # the vocabulary, and so a step, may be larger in the run
    if "FLOP" in config.training.duration:
        step_flops = flops.flops_per_step(loaded, params, frozen)
        check_durations(config, loaded.tokens_per_step, step_flops)


def check_durations(config, tokens_per_step=0, flops_per_step=0.0):
    """Raises ConfigError for a duration that is none, or whose unit does not apply; for a run of 0 steps;
    and for a warmup as long as the run. tokens_per_step, flops_per_step: 0 if they are not known yet."""
    values = {}
    for name in DURATIONS:
        section, field = name.split(".")
        values[name] = getattr(getattr(config, section), field)
    # Where a size is unknown, only the unit is checked: an epoch has one step here, a size a large number.
    batch_size = config.training.batch_size
    sizes = StepConverter(batch_size, tokens_per_step or 1e30, batch_size, flops_per_step or 1e30)
    run = sizes.of_length(config.training.duration)
    steps = {name: run.steps(value, name) for name, value in values.items() if name != DURATIONS[0]}
    known = {"epoch": 0, "token": tokens_per_step, "FLOP": flops_per_step}
    unknown = [unit for unit, size in known.items() if not size]
    length = values["training.duration"] + values["optimizer.warmup"]
    if not any(unit in length for unit in unknown):
        schedules.warmup_steps(config.optimizer, run)
    length = config.training.duration
    if any(unit in length for unit in unknown):  # the number of steps is not known yet
        run = dataclasses.replace(run, total_steps=0)
    run.step_range(config.profile, "profile")
    select_best = getattr(config.evaluation, "select", "") == "best"
    if select_best and not (steps["evaluation.every"] and steps["checkpoint.every"]):
        raise ConfigError(
            "config.evaluation.select='best' needs evaluation.every and checkpoint.every; set them, or "
            "select='last'"
        )
