"""`python -m tools.inspect --run=RUN --step=100`: the batch of a step as text, without training.

Loads the task of the run and prepares its batch as the train step does; render_batch.py draws the rows.
"""

import sys

from training import cli
from training.config import ConfigError

FLAGS = (
    ("--run", {"metavar": "DIR", "help": "a run directory of train.py or finetune.py"}),
    ("--step", {"type": int, "required": True, "metavar": "N", "help": "0: the first update"}),
    ("--rows", {"type": int, "metavar": "N", "help": "the first N rows (default: 4; json: all)"}),
    ("--row", {"type": int, "metavar": "K", "help": "row K alone"}),
    ("--raw", {"action": "store_true", "help": "also the row before corruption"}),
    ("--documents", {"action": "store_true", "help": "list the documents of each row instead"}),
    ("--format", {"choices": ("text", "json"), "default": "text", "help": "json: everything"}),
)
EXAMPLES = """\
python -m tools.inspect --run=runs/enc --step=100 --rows=32 --documents
python -m tools.inspect --config=configs/encoder_decoder.py --config.training.seq_len=64 --step=0
python -m tools.inspect --run=runs/enc --step=100 --format=json | jq '.rows[0].batch.targets'

Step N is what the update from N to N + 1 reads: line N + 1 of metrics.jsonl is its loss."""


def main(argv):
    """Prints the batch that the command line names."""
    given, config = cli.parse_args(argv, __doc__, FLAGS, config="optional", examples=EXAMPLES)
    cli.check_run_or_config(given, config)
    from tools import inspect

    inspect.show(given, config)


if __name__ == "__main__":
    cli.main(main, console=sys.stderr)

import dataclasses
import functools
import json
import os

import jax
import numpy as np
from rich.console import Console

import models
from huggingface import as_run
from models import Adapter
from objectives.document_ids import document_ids
from tasks import TASKS
from tools import render_batch
from training import config as config_lib
from training import flops, init_from, paths, print_config, run_directory
from training.durations import StepConverter
from training.param_rules import find_all_frozen, flatten_params
from training.schema import FinetuneConfig, PretrainConfig
from training.train_step import init_params, rng_streams


@dataclasses.dataclass(frozen=True)
class BatchView:
    """The batch of one step and where it comes from."""

    config: object  # resolved
    task: object  # LoadedTask
    step: int
    total_steps: int
    batch: object  # Batch with NumPy arrays
    raw: np.ndarray | None  # int32[B, L] rows before corruption
    provenance: list[dict]  # of each row

    def row(self, number):
        """One row of the Batch."""
        return jax.tree.map(lambda x: x[number], self.batch)


def load(config, step, run_dir=None) -> BatchView:
    """The BatchView of a step of a resolved config, or of its run in `run_dir`.

    Raises ConfigError if the run has no such step, or its data changed since it started."""
    pretraining = isinstance(config, PretrainConfig)
    pretrained = init_from.resolve(config, run_dir or paths.of(os.devnull), as_run)
    config, tokenizer_file = pretrained.config, pretrained.tokenizer_file
    if run_dir is not None:
        tokenizer_file = str(run_dir / "tokenizer.json")
    options = TASKS["pretraining"]() if pretraining else config.task
    log = functools.partial(print, file=sys.stderr)  # standard output may be JSON
    task = options.load(config, config.model, tokenizer_file, log)
    if run_dir is not None:
        run_directory.check_unchanged(run_dir, data=task.fingerprint)
    total = total_steps(config, task)
    if not 0 <= step < total:
        raise ConfigError(
            f"--step={step} is not a step of this run: it has {total:,} steps, 0 to {total - 1}"
        )
    inputs = task.train_inputs(step)
    batch = jax.jit(task.prepare)(rng_streams(config.seed)["corruption"], inputs)
    batch, raw = jax.tree.map(np.asarray, batch), inputs[1] if pretraining else None
    return BatchView(config, task, step, total, batch, raw, task.provenance(step))


def total_steps(config, task):
    """The length of a run."""
    model = models.build(task.model_config, getattr(config, "adapter", Adapter()))
    params = jax.eval_shape(functools.partial(init_params, task, model), rng_streams(config.seed))
    frozen_paths = find_all_frozen(config, flatten_params(params))
    step_flops = flops.flops_per_step(task, params, frozen_paths)
    return StepConverter.of(config, task, step_flops).total_steps


def show(given, config):
    """Prints what the flags ask for, of a config or of the run that they name."""
    run_dir = None
    if config is None:
        run_dir = paths.of(given.run)
        config = run_directory.read_config(run_dir)["config"]
        if "training" not in config:
            raise ConfigError(f"{given.run!r} was imported: expected a run that was trained")
    resolved = config_lib.resolve(FinetuneConfig if "task" in config else PretrainConfig, config)
    if given.print_config:
        # The stored config of a run is complete.
        print_config.show(given.print_config if run_dir is None else "given", resolved, config)
        return
    cli.enable_compilation_cache()
    jax.devices()  # fails before text is prepared
    view = load(resolved, given.step, run_dir)
    rows = choose_rows(given, len(view.provenance))
    if given.format == "json":
        print_json(view, rows)
    else:
        print_text(view, rows, given.raw, given.documents)


def choose_rows(given, size):
    """The rows that the flags ask for, of a batch of `size`. Raises ConfigError for others."""
    if given.row is not None:
        if not 0 <= given.row < size:
            raise ConfigError(f"--row={given.row}: the batch has {size} rows, 0 to {size - 1}")
        return [given.row]
    if given.rows is not None and given.rows < 1:
        raise ConfigError(f"--rows={given.rows}: expected at least 1")
    return range(min(given.rows or (size if given.format == "json" else 4), size))


def counts(batch) -> dict:
    """Positions of all sequences, the share of padding, target slots, targets and their weight."""
    sides = [side for side in (batch.inputs, batch.decoder_inputs) if side is not None]
    is_padding = np.concatenate([side.segment_ids == 0 for side in sides], axis=-1)
    return {
        "positions": is_padding.size,
        "padding": float(is_padding.mean()),
        "target_slots": batch.loss_weights.size,
        "targets": int(np.count_nonzero(batch.loss_weights)),
        "loss_weight": float(batch.loss_weights.sum()),
    }


def print_json(view, rows):
    """Prints everything about the chosen rows."""
    record = {
        "step": view.step, "total_steps": view.total_steps, "description": view.task.describe(),
        **counts(view.batch), "labels": getattr(view.task, "label_names", ()),
        "config": config_lib.to_dict(view.config),
        "rows": [
            {"row": row, "place": view.provenance[row], "batch": view.row(row),
             "raw": None if view.raw is None else view.raw[row]}
            for row in rows
        ],
    }  # fmt: skip
    print(json.dumps(record, default=lambda x: x.tolist() if hasattr(x, "tolist") else vars(x)))


def print_text(view, rows, raw, documents):
    """Prints a summary and the chosen rows, or the documents of the rows."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    task, token_text = view.task, render_batch.TokenText(view.task.tokenizer)
    print(f"step {view.step:,} of {view.total_steps:,}: {len(view.provenance)} rows")
    print(*task.describe(), sep="\n")
    print("{positions:,} positions, {padding:.1%} padding; {targets:,} targets in {target_slots:,} "
          "slots, loss weight {loss_weight:,.6g}".format(**counts(view.batch)))  # fmt: skip
    if not documents:
        print(render_batch.LEGEND)
    for row in rows:
        place, lines = view.provenance[row], []
        print("\nrow {}, example {number:,}: row {row:,} of {source}".format(row, **place))
        if documents:
            for each in place["documents"]:
                print("  document {document:,}: number {number:,} of {file}".format(**each))
            continue
        if raw and view.raw is not None:
            tokens, spec = view.raw[row], task.spec
            ids = np.asarray(document_ids(tokens, spec.vocabulary, spec.architecture))
            inputs = render_batch.ModelInputs(tokens, ids, None)
            lines += render_batch.render_inputs("raw", inputs, {}, token_text)
        lines += render_batch.render_row(view.row(row), token_text, task.name_of_target)
        console.print(render_batch.table(lines))
