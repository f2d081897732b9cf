"""Finetuned runs of one task, for studies of their parameters: where each started and where it ended.

`find` checks the runs before anything heavy; `load_task` and `load_params` read data and parameters.
"""

import dataclasses
import logging
import os
from typing import Any

import jax
import numpy as np

import models
from data.examples import Examples
from data.labeled import LabeledSplits
from huggingface import as_run
from models.config import ModelConfig
from tasks import example_order
from training import checkpoint, init_from, paths, run_directory, sharding
from training import config as config_lib
from training.config import ConfigError
from training.param_rules import find_all_frozen, flatten_params, unflatten_params
from training.schema import FinetuneConfig
from training.train_step import init_params, rng_streams

log = logging.getLogger("triptych.studies")

# Split -> the split that holds a sample of it.
SAMPLES = {"train": "train_sample", "validation": "validation_sample"}
# Fields that two runs may differ in: they change no function of the parameters. Data are compared by content.
MAY_DIFFER = ("dropout_rate", "attention_dropout_rate", "embedding_dropout_rate", "head_dropout_rate",
              "attention_kernel", "dtype", "source", "num_train_examples", "length_group_steps", "packing",
              "metric")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FinetunedRun:
    """A run of finetune.py.

    Attributes:
      name: short name, unique in the study.
      folder: its directory.
      step: the checkpoint at its end: the one that was scored, or the newest.
      config: its FinetuneConfig, with the mesh of this machine.
      model_config: its ModelConfig.
      manifest: its manifest.json.
      steps: its checkpoints.
    """

    name: str
    folder: Any
    step: int
    config: FinetuneConfig
    model_config: ModelConfig
    manifest: dict
    steps: list[int]

    @property
    def start(self) -> str:
        """Where its parameters before the first update come from."""
        if 0 in self.steps:
            return "checkpoint 0"
        return f"rebuilt: init={self.config.init} from {self.source}"

    @property
    def source(self) -> str:
        """RUN@STEP that it was initialized from; of a Hugging Face directory whose import is gone, that."""
        stored = self.manifest["init_from"]
        there = (paths.of(checkpoint.split_step(stored)[0]) / "checkpoints").is_dir()
        return stored if there else self.config.init_from


def find(given: list[str]) -> list[FinetunedRun]:
    """The runs RUN[@STEP]. Raises ConfigError for less than two, for a run named twice, for one that is no
    finetuning run or has an adapter, and for runs of different models, tasks or data."""
    if len(given) < 2:
        raise ConfigError(f"--runs={' '.join(given)} names one run; name two or more")
    runs = [_open(run, name) for run, name in zip(given, _names(given), strict=True)]
    first, seen = runs[0], {}
    for run, text in zip(runs, given, strict=True):
        place = (str(paths.absolute(run.folder)), run.step)
        if place in seen:
            raise ConfigError(
                f"--runs names {seen[place]} and {text}, which are one; leave one out"
            )
        seen[place] = text
        _check_alike(first, run)
    return runs


def _names(given):
    """The paths without the directory that they share."""
    if len({os.path.isabs(each) for each in given}) > 1:  # they share none
        return given
    shared = os.path.commonpath([os.path.dirname(os.path.normpath(each)) for each in given])
    return [os.path.relpath(each, shared) if shared else each for each in given]


def _open(text, name):
    path, at = checkpoint.split_step(text)
    folder = paths.of(path)
    record, manifest = run_directory.read_config(folder), run_directory.read_manifest(folder)
    step = at or run_directory.scored_step(folder)
    folder, step = checkpoint.resolve_checkpoint(folder, step)
    if record.get("kind") != "finetune" or not manifest:
        raise ConfigError(
            f"{text} is no run of finetune.py with its manifest.json; expected runs such as one with "
            "--config.init=random and one with --config.init=pretrained"
        )
    config = config_lib.resolve(FinetuneConfig, {**record["config"], "mesh": {}})
    if config.adapter.name not in ("none", "bitfit"):
        raise ConfigError(
            f"{text} has the adapter {config.adapter.name!r}: a line between two adapters is no line between "
            "the parameters of models; expected runs that train those (adapter.name=none or bitfit, or "
            "config.freeze)"
        )
    model_config, steps = run_directory.read_model_config(folder), checkpoint.steps_of(folder)
    run = FinetunedRun(name, folder, step, config, model_config, manifest, steps)
    if 0 not in steps:
        _pretrained_model(run)
    return run


def _check_alike(first, run):
    """Raises ConfigError unless two runs have the same model, task and data."""
    of_data = [
        {name: each.manifest.get(name) for name in ("data", "tokenizer", "labels")}
        for each in (first, run)
    ]
    for what, one, other in (
        ("model", dataclasses.asdict(first.model_config), dataclasses.asdict(run.model_config)),
        ("manifest", *of_data),
        ("task", config_lib.to_dict(first.config)["task"], config_lib.to_dict(run.config)["task"]),
    ):
        for key, was, now in config_lib.difference({what: one}, {what: other}):
            if key.rpartition(".")[2] not in MAY_DIFFER:
                raise ConfigError(
                    f"{first.name} and {run.name} cannot be compared: {key} is {str(was)[:60]!r} and "
                    f"{str(now)[:60]!r}; name runs of the same model, task and data"
                )


def load_task(runs, num_examples: int, batch_size: int, seed: int):
    """(the task of the first run with the splits of SAMPLES, a line about each).

    The train sample is drawn from the examples in the label budget of any of the runs.

    Args:
      num_examples: of each sample; 0: all.
      batch_size: examples of a batch; 0: the batch size of the run's evaluation.
      seed: of the samples.
    """
    first = runs[0]
    config, mesh = first.config, sharding.make_mesh(first.config.mesh)
    if batch_size:
        evaluation = dataclasses.replace(config.evaluation, batch_size=batch_size)
        config = dataclasses.replace(config, evaluation=evaluation)
    splits = config.task.read(log.info)

    def assemble(splits):
        return config.task.assemble(
            splits, config, first.model_config, str(first.folder / "tokenizer.json"), log.info,
            **sharding.process_args(mesh),
        )  # fmt: skip

    task, lines = assemble(splits), []
    for run in runs:
        run_directory.check_unchanged(run.folder, **task.identities)
    budgets = [
        example_order.stratified_subset(
            task.encoded["train"].strata, run.config.task.num_train_examples, run.config.seed.data
        )
        for run in runs
    ]
    indices = {"train": np.unique(np.concatenate(budgets))}
    if "validation" in splits:
        indices["validation"] = np.arange(len(splits["validation"]))
    samples, random = {}, np.random.default_rng(seed)
    for split, known in indices.items():
        count = min(num_examples or len(known), len(known))
        chosen = np.sort(random.permutation(known)[:count])
        samples[SAMPLES[split]] = _subset(splits[split], chosen)
        lines.append(f"{count:,} of {len(known):,} {split} examples")
    if any(len(each) < len(indices["train"]) for each in budgets):
        lines[0] += " (those that any of the runs was trained on)"
    small = assemble(LabeledSplits(samples, splits.fingerprint, splits.label_names))
    task = dataclasses.replace(
        task, encoded=task.encoded | small.encoded, texts=task.texts | small.texts
    )
    return task, lines


def _subset(examples, indices):
    columns = {
        role: None if values is None else [values[i] for i in indices.tolist()]
        for role, values in examples.columns.items()
    }
    places = [examples.places[i] for i in indices.tolist()] if examples.places else []
    return Examples(columns, places)


def load_params(run: FinetunedRun, step: int, mesh):
    """All parameters of a run at one of its checkpoints, as its evaluation used them: NumPy arrays."""
    shapes = unflatten_params(checkpoint.params_metadata(run.folder, step))
    found = checkpoint.read_params(run.folder / "checkpoints", step, sharding.placed(mesh, shapes))
    return jax.device_get(found)


def load_start(run: FinetunedRun, task, mesh):
    """The parameters before the first update: checkpoint 0, or as finetune.py initializes them. Raises
    ConfigError if the source is gone or does not fit any more."""
    if 0 in run.steps:
        return load_params(run, 0, mesh)
    pretrained, config = _pretrained_model(run), run.config
    model, rngs = models.build(run.model_config, config.adapter), rng_streams(config.seed)
    with sharding.use_mesh(mesh):
        params = init_params(task, model, rngs)
        shardings = sharding.param_shardings(mesh, params)
        params = jax.device_put(params, shardings)
        params, lines, _ = init_from.load_for_finetuning(
            pretrained, task, model, rngs, params, shardings, as_run
        )
    for line in lines:
        log.debug(line)
    return jax.device_get(params)


def _pretrained_model(run):
    """The PretrainedModel of a run, as at its first start."""
    config = dataclasses.replace(run.config, init_from=run.source)
    folder, _ = checkpoint.resolve_checkpoint(as_run(run.source))
    if run_directory.read_model_config(folder).architecture != "embeddings":
        config = dataclasses.replace(config, model=ModelConfig())  # the source brings its own
    return init_from.resolve_for_finetuning(config, run.folder / "no_run", as_run)


def trained_paths(run: FinetunedRun, params) -> frozenset[str]:
    """The paths of the parameters that a run trains."""
    flat = flatten_params(params)
    return frozenset(flat) - find_all_frozen(run.config, flat)
