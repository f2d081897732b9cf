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
from data import framing, labelled
from data import tokenizer as tokenizers
from models.config import ModelConfig
from tasks import batches, metrics as scores, predictions
from tasks.config import TaskConfig
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
from training.transfer import RestoreConfig

log = logging.getLogger("triptych")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long and how much at once."""

    duration: str = dataclasses.field(default="3 epochs", metadata={"help": "length of the run"})
    batch_size: int = dataclasses.field(
        default=16, metadata={"min": 1, "help": "examples per update"}
    )
    microbatches: int = dataclasses.field(default=1, metadata={"min": 1, "help": "accumulation"})
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
    test: bool = dataclasses.field(
        default=True, metadata={"help": "score and write the test split"}
    )


@dataclasses.dataclass(frozen=True)
class InheritedConfig:
    """What may differ from the pretrained network; anything else would not fit its parameters."""

    dropout: float = dataclasses.field(
        default=-1.0, metadata={"min": -1.0, "max": 0.99, "help": "-1: inherit"}
    )
    attention_dropout: float = dataclasses.field(
        default=-1.0, metadata={"min": -1.0, "max": 0.99, "help": "-1: inherit"}
    )
    dtype: str = dataclasses.field(
        default="", metadata={"choices": ("", "float32", "bfloat16"), "help": "'': inherit"}
    )

    def apply(self, pretrained):
        """(ModelConfig, lines that say of each hyperparameter where it comes from)."""
        changes = {
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "dtype": self.dtype,
        }
        changes = {name: value for name, value in changes.items() if value not in ("", -1.0)}
        model = dataclasses.replace(pretrained, **changes)
        return model, [
            f"  {field.name:<22} {getattr(model, field.name)!s:<16} "
            + (
                f"overridden (was {getattr(pretrained, field.name)})"
                if field.name in changes
                else "inherited"
            )
            for field in dataclasses.fields(model)
        ]


@dataclasses.dataclass(frozen=True)
class Config:
    """Every leaf of a finetuning config."""

    task: TaskConfig
    model: InheritedConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    restore: RestoreConfig
    logging: LoggingConfig
    mesh: MeshConfig
    seed: Seeds
    init_from: str = dataclasses.field(
        default="", metadata={"help": "pretrained run directory[@step]"}
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
        if self.evaluation.select == "best" and "never" in (
            self.evaluation.every,
            self.checkpoint.every,
        ):
            raise ValueError(
                "evaluation.select='best' needs evaluation.every and checkpoint.every; "
                "set select='last', or cadences"
            )


def run(config, workdir):
    """Finetunes as `config` (ConfigDict or mapping) says, in `workdir`; resumes what is there.

    Returns a Result with 'validation/<metric>' and 'test/<metric>'; writes predictions of the test
    split. Raises ConfigError, and preemption.Preempted after a save on SIGTERM.
    """
    # ---- configuration ---------------------------------------------------------------------------
    logs.banner("configuration")
    config = configs.resolve(Config, config)
    if config.training.deterministic:
        cli.deterministic()
    source_run, source_step = locate(config.init_from)
    folder = run_directory.open_run(workdir, configs.to_dict(config), "finetune")
    record = run_directory.read_config(source_run)
    model_config, lines = config.model.apply(ModelConfig(**record["model"]))
    log.info(f"{model_config.architecture} of {source_run} at step {source_step}, "
             f"transfer={config.transfer}, into {folder}")  # fmt: skip
    for line in lines:
        log.info(line)

    # ---- devices ---------------------------------------------------------------------------------
    logs.banner("devices")
    mesh = meshes.make(config.mesh)
    batch_size = config.training.batch_size
    step.check_batch(batch_size, config.training.microbatches, mesh)

    # ---- labelled examples -----------------------------------------------------------------------
    logs.banner("labelled examples")
    tokenizer = tokenizers.load(source_run / "tokenizer.json")
    if meshes.main_process():
        tokenizer.save(folder / "tokenizer.json")
    splits = load_splits(config.task)
