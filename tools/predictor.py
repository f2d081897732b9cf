"""A finetuned run, or a published model with a task head, that predicts for new examples.

Used by tools/predict.py; any task that finetune.py trains.
"""

import dataclasses
import functools
import logging

import jax

import models
from data.examples import Column, Examples
from data.labeled import LabeledSplits
from tasks import FINETUNE_TASKS, batch_shapes, evaluate
from tools.loaded_run import resolve_run
from training import checkpoint, run_directory, sharding
from training import config as config_lib
from training.compilation import announced_jit
from training.config import ConfigError
from training.param_rules import unflatten_params
from training.schema import FinetuneConfig

log = logging.getLogger("triptych")
SPLIT = "test"  # the name of the split of new examples
MAX_SEQ_LEN = 512  # of a published model that can read more
# Sections of the config that may differ from the run's: they change no parameter.
SECTIONS = ("task.", "evaluation.batch_size", "mesh.")


@announced_jit("the model", static_argnums=(0, 1))
def predict_step(task, model, params, inputs):
    """The outputs [B, ...] of a batch, as in the evaluation of finetune.py."""
    batch = task.prepare(None, inputs)
    return sharding.constrain_replicated(task.outputs(model, params, batch))


class Predictor:
    """The parameters of a run that its evaluation used, and its task.

    Attributes:
      name: the run and its step.
      config: FinetuneConfig of the run, with what the command line changes.
      num_truncated: examples that were longer than `max_seq_len` so far.
    """

    def __init__(self, run: str, step: int | None = None, assignments=()):
        """Opens a run, by default at the step that finetune.py scored, otherwise at the newest.

        Args:
          run: run directory of finetune.py[@step], or Hugging Face directory with a task head.
          step: the step, None for the default.
          assignments: [('task.text_column', 'sentence'), ...], changes of the config.

        Raises ConfigError for a directory that is no such run, and another section than `SECTIONS`.
        """
        self.run, self.step, self.name = resolve_run(run, step)
        self.num_truncated = 0
        record = run_directory.read_config(self.run)
        self.model_config = run_directory.read_model_config(self.run)
        manifest = run_directory.read_manifest(self.run)
        given = self._given(run, record["config"], manifest.get("huggingface", {}))
        for key, _ in assignments:
            if not key.startswith(SECTIONS) or key == "task.name":
                raise ConfigError(
                    f"--config.{key} is not a choice of predictions; expected config.task.* but its name, "
                    "config.evaluation.batch_size or config.mesh.*"
                )
        self.config = config_lib.resolve(FinetuneConfig, config_lib.override(given, assignments))
        self.config.task.check_model(self.model_config)
        self.label_names = tuple(manifest.get("labels", ()))
        self._shapes = tuple(map(tuple, manifest.get("batch_shapes", ())))
        self._batch_size = 0

    def _given(self, run, config, origin):
        """The config of the run, or one for a published head."""
        if "task" in config:
            return {**config, "mesh": {}}  # devices here are others
        name = origin.get("head", "")
        if name not in FINETUNE_TASKS:
            raise ConfigError(
                f"{run!r} has no head of a task: it was pretrained; finetune it first (python finetune.py "
                f"--config=configs/finetune/NAME.py --config.init_from={run}), and name that run"
            )
        length = min(self.model_config.max_length or MAX_SEQ_LEN, MAX_SEQ_LEN)
        task = {"name": name, "max_seq_len": length, **origin["head_needs"]}
        return {"init_from": str(self.run), "task": task}

    @property
    def columns(self) -> dict[str, Column]:
        """{role: Column} of an example, labels included."""
        return self.config.task.example_columns()

    @property
    def input_columns(self) -> dict[str, Column]:
        """Those without the labels."""
        return {role: column for role, column in self.columns.items() if not column.is_label}

    def describe(self) -> str:
        """One line for the log."""
        labels = f", {len(self.label_names)} labels" if self.label_names else ""
        return f"{self.name}: {type(self.config.task).name}{labels}"

    @functools.cached_property
    def _mesh(self):
        return sharding.make_mesh(self.config.mesh)

    @functools.cached_property
    def _params(self):
        """The parameters, averaged ones where the run has them."""
        found = unflatten_params(checkpoint.params_metadata(self.run, self.step))
        target = sharding.placed(self._mesh, found)
        return checkpoint.read_params(self.run / "checkpoints", self.step, target)

    def predict(self, examples: Examples, report=lambda done: None, as_in_run: bool = False):
        """(the loaded task of at least one example, its predictions, {metric: value} or {}).

        Args:
          report: receives the number of rows of each batch that is done.
          as_in_run: the batches are as in finetune.py's evaluation, and the predictions on the same
            devices are the same to the last bit; otherwise examples of similar length are together, in at
            most four shapes.
        """
        task, model = self._assemble(examples, as_in_run)
        waiting = []  # the device computes a batch while the host prepares the next one

        def step(inputs):
            inputs = sharding.global_array(self._mesh, inputs)
            waiting.append(predict_step(task, model, self._params, inputs))
            if len(waiting) > 1:
                jax.block_until_ready(waiting.pop(0))
                report(task.eval_batch_size)
            return waiting[-1]

        count = task.num_to_generate(SPLIT, is_final=True)

        def generate():
            return task.generate(SPLIT, model, self._params, self._mesh, True, count)

        with sharding.use_mesh(self._mesh):
            return task, *evaluate(task, SPLIT, step, generate if count else None)

    def _assemble(self, examples, as_in_run):
        options, batch_size = self.config.task.for_predictions(), self.config.evaluation.batch_size
        if not as_in_run:
            if not self._batch_size:  # a few texts need no batch of 64, and one program does
                self._batch_size = min(batch_size, 1 << (len(examples) - 1).bit_length())
            batch_size = self._batch_size
            if not options.packing:  # evaluation sorts by length with either option
                options = dataclasses.replace(options, length_group_steps=1)
        splits = options.complete_examples({SPLIT: examples}, log.info)
        loaded = options.assemble(
            LabeledSplits(splits, "", self.label_names),
            dataclasses.replace(
                self.config,
                evaluation=dataclasses.replace(self.config.evaluation, batch_size=batch_size),
            ),
            self.model_config,
            str(self.run / "tokenizer.json"),
            log.info,
            batch_divisor=sharding.num_batch_shards(self._mesh),
        )
        self.num_truncated += loaded.encoded[SPLIT].num_truncated
        shapes = self._shapes if as_in_run else batch_shapes.halved_shapes(loaded.full_shape)
        loaded = dataclasses.replace(loaded, fixed_shapes=shapes)
        return loaded, models.build(loaded.model_config, self.config.adapter)
