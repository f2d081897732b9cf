"""A run, or a published model, loaded for inference: its model, parameters and tokenizer.

Used by the tools that generate, fill in and score.
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

import models
from data import tokenizer as tokenizers
from data.tokenizer import Tokenizer
from huggingface import as_run
from models.config import ModelConfig
from objectives import OBJECTIVES, Objective
from objectives.vocabulary import Vocabulary
from training import checkpoint, init_from, run_directory, sharding
from training import config as config_lib
from training.param_rules import unflatten_params
from training.schema import MeshConfig


def resolve_run(run: str, step: int | None = None) -> tuple[Any, int, str]:
    """(run directory, step, name for messages) of 'RUN', 'RUN@STEP' or a Hugging Face directory.

    Without a step, it is the one that finetune.py scored, or the newest. Raises ConfigError if there is no
    such run or step."""
    path = as_run(run)
    directory, named = checkpoint.split_step(run)
    if step is None and not named:
        step = run_directory.scored_step(path)
    found, step = checkpoint.resolve_checkpoint(path, "" if step is None else step)
    return found, step, f"{directory} at step {step}"


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """What inference needs of a run."""

    name: str  # for messages: 'runs/dec at step 2000'
    directory: Any  # epath.Path of the run; generation_config.json and chat templates lie there too
    record: dict  # config.json of the run: {'kind', 'config', 'model', ...}
    model: nn.Module  # with the adapter of the run
    params: Any  # averaged ones where the run has them
    mesh: jax.sharding.Mesh
    tokenizer: Tokenizer
    vocabulary: Vocabulary

    @property
    def config(self) -> ModelConfig:
        return self.model.config


def objective_of(config: dict) -> Objective | None:
    """The objective in the config that a run has stored; None for a run that names none."""
    given = dict(config.get("objective") or {})
    if not given:
        return None
    return config_lib.resolve(OBJECTIVES[given.pop("name")], given, "config.objective")


def load_run(run: str, mesh: MeshConfig | None = None) -> LoadedRun:
    """Loads the run that `resolve_run` finds, with its parameters over the devices of `mesh` (default: all
    devices, parameters replicated). Raises ConfigError as `resolve_run` does."""
    directory, step, name = resolve_run(run)
    mesh = sharding.make_mesh(MeshConfig() if mesh is None else mesh)
    shapes = unflatten_params(checkpoint.params_metadata(directory, step))
    params = checkpoint.read_params(directory / "checkpoints", step, sharding.placed(mesh, shapes))
    tokenizer = tokenizers.load(directory / "tokenizer.json")
    return LoadedRun(
        name=name,
        directory=directory,
        record=run_directory.read_config(directory),
        model=models.build(
            run_directory.read_model_config(directory), init_from.read_adapter(directory)
        ),
        params=params,
        mesh=mesh,
        tokenizer=tokenizer,
        vocabulary=Vocabulary(**tokenizer.special_ids()),
    )
