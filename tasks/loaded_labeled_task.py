"""A labeled set as arrays of token ids, and the head over the model's states.

The base class of the loaded tasks; a file per task adds targets, loss and metrics.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data import tokenizer as tokenizers
from models.config import ModelConfig
from models.inputs import ModelInputs
from objectives.batch import Batch
from objectives.packing import apply_packed
from tasks import example_order, predictions
from tasks.base import Task, host_field
from tasks.encoding import Encoded
from tasks.labeled_batches import LabeledBatches


def most_frequent(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """float64[C]: 1 for the most frequent of the classes int[n], 0 for the others."""
    return np.eye(num_classes)[np.bincount(labels).argmax()]


@dataclasses.dataclass(frozen=True)
class LoadedLabeledTask(LabeledBatches):
    """An encoded labeled dataset. `train_inputs` are a Batch of NumPy arrays, which `prepare` returns.

    Subclasses define `name`, `batch`, `losses` and, on the host, `score` and `prediction_rows`.
    """

    head: nn.Module | None  # None: the model's own LM head
    model_config: ModelConfig
    pad: int
    start: int  # first token of an encoder-decoder's decoder
    batch_size: int
    task: Task = host_field()
    tokenizer: tokenizers.Tokenizer = host_field()
    label_names: tuple[str, ...] = host_field()
    texts: dict = host_field()  # {split: data.examples.Examples}
    encoded: dict[str, Encoded] = host_field()  # by split
    examples: np.ndarray = host_field()  # int64[n] training examples in the label budget
    fingerprint: str = host_field()
    seed: int = host_field()
    eval_batch_size: int = host_field()
    grad_accum_steps: int = host_field()
    batch_divisor: int = host_field()  # device shards of a batch: rows are a multiple of it
    process_index: int = host_field()
    process_count: int = host_field()
    # of batches; (): chosen by the lengths of the examples
    fixed_shapes: tuple = host_field(default=())

    @property
    def best_metric(self) -> str:
        return f"+{self.task.metric}"

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """int64[m]: the training rows of `examples`."""
        return self.encoded["train"].rows_of(self.examples)

    @property
    def epoch_size(self) -> int:
        """Rows of the label budget. Where examples have several rows, it is the mean over all subsets, so
        that runs of several seeds have the same number of steps."""
        train = self.encoded["train"]
        return round(len(train) * len(self.examples) / train.num_examples)

    @property
    def identities(self) -> dict:
        return {
            "data": self.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "labels": list(self.label_names),
        }

    def manifest(self):
        shapes = {"batch_shapes": [list(each) for each in self.shapes]}
        return {**self.identities, **(shapes if self._is_sorted else {})}

    @functools.cached_property
    def abstract_batch(self) -> Batch:
        batch = self.batch("train", np.zeros(self.batch_size, np.int64))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)

    # ---- Traced ----------------------------------------------------------------------------------

    def init(self, rngs, model):
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.abstract_batch)
        batch = self.model_batch(batch)
        params = model.init(rngs["init"], batch.inputs, batch.decoder_inputs)["params"]
        states = jnp.zeros((1, self.model_config.emb_dim), jnp.float32)
        head = self.head.init(rngs["head"], states)["params"]
        return {**params, "heads": {**params.get("heads", {}), self.name: head}}

    def prepare(self, rng, inputs):
        return inputs

    def loss_coefficients(self):
        return {self.name: 1.0}

    def hidden_states(self, apply, batch: Batch, deterministic: bool) -> jax.Array:
        """The last hidden states [B, T, D]; apply(inputs, ...) calls the model."""
        return apply_packed(functools.partial(apply, deterministic=deterministic), batch)

    def head_inputs(self, hidden: jax.Array, batch: Batch) -> jax.Array:
        """The states [B, ..., D] that the head reads, of the last hidden states [B, T, D]."""
        raise NotImplementedError

    def model_batch(self, batch: Batch) -> Batch:
        """The batch with inputs [B, T], as the model reads them."""
        return batch

    def outputs(self, model, params, batch, dropout_rng=None):
        """The head's float32[B, ...] of every row, including padding rows."""
        batch = self.model_batch(batch)
        rngs = [{}, {}]
        if dropout_rng is not None:
            rngs = [{"dropout": rng} for rng in jax.random.split(dropout_rng)]
        deterministic = dropout_rng is None
        apply = functools.partial(model.apply, {"params": params}, rngs=rngs[0])
        hidden = self.hidden_states(apply, batch, deterministic)
        states = self.head_inputs(hidden, batch)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return self.head.apply(
                {"params": params["heads"][self.name]},
                states,
                deterministic=deterministic,
                rngs=rngs[1],
            )

    # ---- On the host -----------------------------------------------------------------------------

    def batch(self, split: str, indices, width: int | None = None) -> Batch:
        """The examples int[B] of a split as arrays [B, ...], padded to `width` tokens; the index PADDING
        gives a row of weight 0. A task with K lengths has K widths."""
        raise NotImplementedError

    def with_seed(self, seed):
        if seed == self.seed:
            return self
        examples = example_order.stratified_subset(
            self.encoded["train"].strata, self.task.num_train_examples, seed
        )
        fields = self.task.loaded_fields(
            self.label_names, self.model_config, self.encoded, examples
        )
        return dataclasses.replace(self, seed=seed, examples=examples, **fields)

    def has_split(self, split):
        return split in self.encoded

    def without_padding(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """(indices int[B] in which padding is example 0, bool[B]: whether a row is an example)."""
        real = np.asarray(indices) != example_order.PADDING
        return np.where(real, indices, 0), real

    def model_inputs(self, split, indices, width=None) -> tuple[ModelInputs, np.ndarray]:
        """(the token ids of the examples int[B], padded to `width`; int32[B] their lengths)."""
        return self.inputs_of(self.encoded[split], indices, width)

    def inputs_of(self, encoded: Encoded, indices, width=None) -> tuple[ModelInputs, np.ndarray]:
        """As `model_inputs`, of the rows int[B] of any encoded texts."""
        chosen, real = self.without_padding(indices)
        lengths = np.where(real, encoded.lengths[chosen], 0).astype(np.int32)
        tokens = encoded.tokens[chosen][:, :width]
        places = np.arange(tokens.shape[1], dtype=np.int32)
        segment_ids = (places < lengths[:, None]).astype(np.int32)
        token_type_ids = None
        if self.model_config.num_token_types > 1:
            token_type_ids = encoded.token_type_ids[chosen][:, :width] * segment_ids
        decoder = self.model_config.architecture == "decoder"
        inputs = ModelInputs(
            tokens=np.where(segment_ids > 0, tokens, self.pad).astype(np.int32),
            segment_ids=segment_ids,
            positions=segment_ids * places,
            token_type_ids=token_type_ids,
            attention=self.task.attention if decoder else "bidirectional",
        )
        return inputs, lengths

    def decoder_inputs(self, inputs: ModelInputs, length: int | None = None) -> ModelInputs | None:
        """The input of an encoder-decoder's decoder, None for another model: the text again, shifted
        right as in pretraining, so that the last state is the one that predicts [EOS] (BART; Lewis et
        al. 2020, section 3.1); its first `length` tokens."""
        if self.model_config.architecture != "encoder_decoder":
            return None
        segment_ids = inputs.segment_ids[:, :length]
        tokens = np.roll(inputs.tokens[:, :length], 1, axis=1)
        tokens[:, 0] = self.start
        return ModelInputs(
            tokens=np.where(segment_ids > 0, tokens, self.pad).astype(np.int32),
            segment_ids=segment_ids,
            positions=inputs.positions[:, :length],
            attention="causal",
        )

    def collect(self, split, outputs):
        """The outputs of the rows of a split: arrays [n, ...]."""
        count = len(self.encoded[split])
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *outputs)

    def constant_output(self):
        """The output [...] of one row that is the best for all, by the labels of train; None: unknown."""
        return

    def constant_scores(self, split):
        output = self.constant_output()
        if output is None:
            return {}
        scores = self.score(
            split, np.repeat(np.asarray(output)[None], len(self.encoded[split]), axis=0)
        )
        return {name: value for name, value in scores.items() if name == self.task.metric}

    def prediction_rows(self, split, outputs):
        """Iterates over a dict for each example of a split, in order: what `predictions.write` writes."""
        raise NotImplementedError

    def full_rows(self, split, outputs, with_file: bool | None = None) -> Iterator[dict]:
        """`prediction_rows` with where each example is from (its file by default if there are several) and
        its texts, after what they have."""
        rows = self.prediction_rows(split, outputs)
        columns = self.task.example_columns() | self.task.text_columns()
        inputs = [role for role, column in columns.items() if not column.is_label]
        for row, found in zip(rows, self.texts[split].describe(inputs, with_file), strict=True):
            yield row | {name: value for name, value in found.items() if name not in row}

    def write_predictions(self, folder, split, outputs):
        predictions.write(folder / f"predictions_{split}.tsv", self.full_rows(split, outputs))

    def flops_specs(self, params):
        return ((self.model_config, params, {self.name: 1}),)

    def provenance(self, step):
        examples = self.encoded["train"].examples_of(self._indices(step))
        return [
            {
                "number": step * self.batch_size + row,
                "source": self.task.source,
                "row": example,
                "documents": [{"document": example, "file": "train", "number": example}],
            }
            for row, example in enumerate(examples.tolist())
        ]

    @property
    def name_of_target(self):
        return self.label_names.__getitem__ if self.label_names else None

    def describe_labels(self) -> str:
        """The labels in a few words, for the log."""
        return f"{len(self.label_names)} labels"

    def describe(self):
        splits = ", ".join(
            f"{split.num_examples:,} {name}"
            for name, split in self.encoded.items()
            if name != "train"
        )
        lines = [
            f"{self.describe_labels()}; {len(self.examples):,} of "
            f"{self.encoded['train'].num_examples:,} training examples, {splits}"
        ]
        truncated = []
        for name, split in self.encoded.items():
            lines += split.describe_unknown(name)
            truncated += split.describe_truncated(name, self.task)
        warnings = [line for line in truncated if line.startswith("warning")]
        notes = "; ".join(line for line in truncated if line not in warnings)
        return [*lines, *[notes] * bool(notes), *warnings, *self.describe_batches()]
