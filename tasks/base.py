"""The Task protocol, through which train.py and finetune.py train a model.

`Task` holds the options, `Task.load` opens the data and returns a `LoadedTask`, which the run uses.
"""

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

import models
from data import tokenizer as tokenizers
from models.config import ModelConfig, option
from objectives.batch import Batch

# architecture -> pooling of the hidden states if a task's option `pooling` is 'auto'.
AUTO_POOLING = {"encoder": "cls", "decoder": "last", "encoder_decoder": "mean"}


def resolve_pooling(pooling: str, architecture: str) -> str:
    """The pooling for an architecture, `auto` resolved. Raises ValueError if it does not fit."""
    if pooling == "auto":
        return AUTO_POOLING[architecture]
    if pooling != "mean" and (pooling == "cls") != (architecture == "encoder"):
        raise ValueError(
            f"task.pooling={pooling!r} does not fit architecture {architecture!r}: "
            f"expected auto, mean or {'cls' if pooling == 'last' else 'last'}"
        )
    return pooling


def check_memory(option: str, length: int, batch_size: int, model_config: ModelConfig) -> None:
    """Raises ValueError, before anything is allocated, for a batch that cannot fit here.

    A lower bound: the tokens of a batch, and for one row its hidden states float32[T,D], or with dense
    attention the scores float32[T,T] of one head.

    Args:
      option: the name of the field with the length, for the message.
      length: T, tokens of a row.
      batch_size: rows of all processes.
    """
    limit, tokens = memory(), 4 * length * -(-batch_size // jax.process_count())
    width, what, remedy = model_config.emb_dim, "hidden states", ""
    if model_config.attention_kernel == "dense" and length > width:
        width, what, remedy = length, "attention scores", ", or model.attention_kernel=auto"
    if model_config.architecture != "embeddings" and 4 * length * width > limit:
        most = math.isqrt(limit // 4) if remedy else limit // (4 * width)
        raise ValueError(
            f"{option}={length:,}: the {what} of one row need {4 * length * width / 2**30:,.0f} GiB, but the "
            f"device has {limit / 2**30:,.0f}; set it to less than {most:,}{remedy}"
        )
    if tokens > limit:
        raise ValueError(
            f"training.batch_size={batch_size:,} with {option}={length:,}: the tokens of a batch need "
            f"{tokens / 2**30:,.0f} GiB, but the device has {limit / 2**30:,.0f}; lower one of them"
        )


def memory() -> int:
    """Bytes of memory of a device; of this machine if the device does not say (a CPU)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def host_field(**options):
    """A field that the traced functions do not read: it is left out of the comparison of tasks."""
    return dataclasses.field(compare=False, repr=False, **options)


@dataclass(frozen=True)
class Task:
    """The options of a task: a frozen dataclass per type of task, which defines the section `task`."""

    name: ClassVar[str]  # also the name of its head in the parameter tree
    # The outputs of its head, where they are not the labels of the data.
    output_names: ClassVar[tuple[str, ...]] = ()
    # PEFT's task_type for this head, if the base model has none.
    peft_task_type: ClassVar[str] = "-"
    # Whether the exported config.json lists label names (for sequence classifiers it always does).
    has_label_names: ClassVar[bool] = False

    special_tokens: tuple = option(
        (), "strings in the texts that become single tokens, such as ('[E1]', '[/E1]')"
    )

    def frozen_patterns(self, architecture: str) -> tuple[str, ...]:
        """Regexes of the parameters that this task never trains; they may match none."""
        return ()

    def open_tokenizer(self, file: str, model_config: ModelConfig):
        """(the tokenizer with the task's `special_tokens`, the ModelConfig with rows for them)."""
        tokenizer = tokenizers.load(file).with_tokens(self.special_tokens)
        size = max(model_config.vocab_size, tokenizer.size)
        return tokenizer, dataclasses.replace(model_config, vocab_size=size)

    def load(
        self, config, model_config, tokenizer_file: str, log, *, process_index: int = 0,
        process_count: int = 1, batch_divisor: int = 1,
    ) -> "LoadedTask":  # fmt: skip
        """Opens the data on the host.

        Args:
          config: the resolved config of the run.
          model_config: ModelConfig. Pretraining fills in its zeros from the tokenizer and the objective.
          tokenizer_file: tokenizer.json of `init_from`; '' to train or choose one from the config.
          log: function that receives one line about each file that is written or found.
          process_index, process_count: select this process's rows.
          batch_divisor: number of device shards; evaluation batches are a multiple of it.
        """
        raise NotImplementedError

    def load_without_data(self, config, model_config, tokenizer_file: str) -> "LoadedTask | None":
        """Checks the options before any data is read, as far as possible. Arguments as in `load`.

        Returns the task that `load` would, without data and with a small vocabulary in place of one that
        is not trained yet; None if the task's shapes depend on its data. Raises ValueError for options
        that do not fit each other.
        """
        raise NotImplementedError


class LoadedTask:
    """A task with its data.

    Two loaded tasks are equal if their `prepare`, `losses` and `outputs` are the same functions, even if
    their data differ: `jax.jit` takes the task as a static argument, so runs that differ only in seeds,
    learning rate, data or number of steps share their compiled programs. Subclasses are frozen
    dataclasses whose host-side fields are excluded from the comparison.

    Attributes:
      model_config: ModelConfig with every zero filled in.
      tokenizer: data.tokenizer.Tokenizer.
      num_shapes: how many shapes batches may have, each of which is compiled.
      batch_size: examples per step, over all processes.
      epoch_size: training examples in an epoch.
      tokens_per_step: tokens in a step, for durations and throughput. Pretraining counts encoder and
        decoder inputs, classification each text once.
      length_share: mean sequence length of training batches / maximum sequence length.
      fingerprint: digest of the data.
      identities: {name: value}; resuming is an error if one has changed.
      abstract_batch: Batch of ShapeDtypeStructs.
      best_metric: validation metric of the best checkpoint: '+name' is maximized, '-name' minimized.
    """

    length_share = 1.0
    num_shapes = 1

    @property
    def row_lengths(self) -> set[int]:
        """The lengths of rows that the config chooses."""
        return {self.abstract_batch.inputs.tokens.shape[-1]}

    # Traced by jit: pure JAX.

    def init(self, rngs: dict[str, jax.Array], model) -> dict:
        """Parameters of the model and its heads; rngs: 'init' and 'head'."""
        raise NotImplementedError

    def prepare(self, rng: jax.Array, inputs: Any) -> Batch:
        """The Batch [B, ...] of `train_inputs` or `eval_inputs`. Pretraining corrupts here."""
        raise NotImplementedError

    def losses(self, model, params: dict, batch: Batch, dropout_rng: jax.Array | None) -> dict:
        """{name: (sum, weight)} of losses and metrics, float32[] each. dropout_rng=None: no dropout."""
        raise NotImplementedError

    def loss_coefficients(self) -> dict[str, float]:
        """{name: coefficient} of the minimized losses; other names in `losses` are metrics."""
        raise NotImplementedError

    def loss_denominators(self, batch: Batch) -> dict[str, jax.Array]:
        """{name: float32[]}: the denominator of each minimized loss, computed from the whole batch, so
        that microbatches add up."""
        raise NotImplementedError

    def outputs(self, model, params: dict, batch: Batch) -> Any:
        """The result of an evaluation batch, without dropout: {name: (sum, weight)}, or predictions
        [B, ...]. `collect` combines the results of all batches."""
        raise NotImplementedError

    # On the host.

    def train_inputs(self, step: int) -> Any:
        """NumPy arrays: this process's rows of the batch for the update from `step` to `step + 1`. A
        pure function of the fingerprint, seed.data, the step and the global batch size."""
        raise NotImplementedError

    def iterate(self, start: int):
        """Iterates over `train_inputs` from step `start` on."""
        while True:
            yield self.train_inputs(start)
            start += 1

    def iterate_together(self, tasks: list, start: int):
        """Iterates over [the `train_inputs` of each of these tasks], in equal shapes, from step `start` on.
        The tasks differ in their seed (`with_seed`); this one is one of them."""
        return map(list, zip(*(task.iterate(start) for task in tasks), strict=True))

    def describe_shape(self, inputs: Any) -> str:
        """The shape of `train_inputs` or `eval_inputs` in a few words, where there are several."""
        return ""

    def eval_inputs(self, split: str):
        """Iterates over the evaluation batches of a split, as NumPy arrays of this process's rows."""
        raise NotImplementedError

    def has_split(self, split: str) -> bool:
        """Whether the data has this split."""
        raise NotImplementedError

    def in_order(self, split: str, outputs: list) -> list:
        """The `outputs` of the batches of `eval_inputs`, fetched to the host, in the order of the examples
        of the split."""
        return outputs

    def collect(self, split: str, outputs: list) -> Any:
        """The predictions of a split from the `outputs` of its batches, fetched to the host."""
        raise NotImplementedError

    def score(self, split: str, predictions: Any) -> dict[str, float]:
        """{metric: value} of the predictions; {} for a split without labels."""
        raise NotImplementedError

    def num_to_generate(self, split: str, is_final: bool) -> int:
        """For how many texts of a split the model generates one, in an evaluation during training or in the
        final one; the default is none."""
        return 0

    def generate(self, split: str, model, params: dict, mesh, is_final: bool, count: int) -> Any:
        """What the model generates for `count` texts of a split, and its scores. Where there are several
        processes, `params` and `mesh` are of this one alone."""
        raise NotImplementedError

    def with_generated(self, predictions: Any, generated: Any) -> Any:
        """The predictions of a split, with what `generate` returned."""
        raise NotImplementedError

    def samples(self, split: str, predictions: Any) -> list[tuple[str, str, str]]:
        """(source, generated text, reference) of the texts that were generated, for the log."""
        return []

    def score_notes(self, predictions: Any) -> dict[str, str]:
        """{metric: how it was computed}, for scores that papers compute in several ways."""
        return {}

    def with_seed(self, seed: int) -> "LoadedTask":
        """The task with another data seed: another order of the examples, another label subset."""
        raise NotImplementedError

    def constant_scores(self, split: str) -> dict[str, float]:
        """{metric: score} of the best prediction that is the same for all examples; {} for unknown."""
        return {}

    def write_predictions(self, folder, split: str, predictions: Any) -> None:
        """Writes the predictions of a split into the run directory; the default writes nothing."""

    def flops_specs(self, params: dict) -> tuple:
        """((ModelConfig, params, {head: number of positions it reads}), ...): one entry for each model
        that a row runs through, for counting FLOPs. `params` may be abstract."""
        raise NotImplementedError

    def provenance(self, step: int) -> list[dict]:
        """The origin of each row of a step: number in the run, source, row index, documents."""
        raise NotImplementedError

    def manifest(self) -> dict:
        """{key: value} about the data, for the run's manifest.json."""
        return self.identities

    # Function of a target, an entry of Batch.targets, that returns its text; None if targets are tokens.
    name_of_target = None

    def describe(self) -> list[str]:
        """Lines about the data and the task for the start of the log."""
        raise NotImplementedError

    def describe_attention(self, adapter=None) -> str:
        """A line about the kernels of attention. Raises ValueError for one that cannot run."""
        inputs, decoder_inputs = self.abstract_batch.inputs, self.abstract_batch.decoder_inputs
        adapter = adapter or models.Adapter()
        return models.describe_attention(
            self.model_config, inputs, decoder_inputs,
            num_added=adapter.num_added_positions, num_leading=adapter.num_leading_keys,
        )  # fmt: skip


def evaluate(task: LoadedTask, split: str, predict, generate=None) -> tuple[Any, dict[str, float]]:
    """(predictions, {metric: value}) of a split; predict(inputs) returns `LoadedTask.outputs`, generate()
    what `LoadedTask.generate` does (None: nothing is generated)."""
    outputs = [predict(inputs) for inputs in task.eval_inputs(split)]
    predictions = task.collect(split, task.in_order(split, jax.device_get(outputs)))
    if generate is not None:
        predictions = task.with_generated(predictions, generate())
    return predictions, task.score(split, predictions)
