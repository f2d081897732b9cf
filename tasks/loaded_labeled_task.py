"""A labeled set as batches: the order of its examples, token ids, the head over the model's states.

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
from tasks import example_order, predictions
from tasks.base import LoadedTask, Task
from tasks.encoding import Encoded

_WIDTH_STEP = 8  # group_by_length pads a batch to a multiple of this, so few programs are compiled


def host(**options):
    """A field that the traced functions do not read: it is left out of the comparison of tasks."""
    return dataclasses.field(compare=False, repr=False, **options)


@dataclasses.dataclass(frozen=True)
class LoadedLabeledTask(LoadedTask):
    """An encoded labeled dataset. `train_inputs` are a Batch of NumPy arrays, which `prepare` returns.

    Subclasses define `name`, `batch`, `losses` and, on the host, `score` and `prediction_rows`.
    """

    head: nn.Module
    model_config: ModelConfig
    pad: int
    start: int  # first token of an encoder-decoder's decoder
    batch_size: int
    task: Task = host()
    tokenizer: tokenizers.Tokenizer = host()
    label_names: tuple[str, ...] = host()
    texts: dict = host()  # {split: data.examples.Examples}
    encoded: dict[str, Encoded] = host()  # by split
    examples: np.ndarray = host()  # int64[n] training examples in the label budget
    fingerprint: str = host()
    seed: int = host()
    eval_batch_size: int = host()
    process_index: int = host()
    process_count: int = host()

    @property
    def best_metric(self) -> str:
        return f"+{self.task.metric}"

    @property
    def epoch_size(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def length_share(self) -> float:
        widths = [self._width(self._indices(step)) for step in range(self.task.group_by_length)]
        return float(np.mean(widths)) / self.task.max_seq_len if widths else 1.0

    @property
    def tokens_per_step(self) -> int:
        return round(self.batch_size * self.task.max_seq_len * self.length_share)

    @property
    def identities(self) -> dict:
        return {
            "data": self.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "labels": list(self.label_names),
        }

    @functools.cached_property
    def abstract_batch(self) -> Batch:
        batch = self.batch("train", np.zeros(self.batch_size, np.int64))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)

    # ---- Traced ----------------------------------------------------------------------------------

    def init(self, rngs, model):
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.abstract_batch)
        params = model.init(rngs["init"], batch.inputs, batch.decoder_inputs)["params"]
        states = jnp.zeros((1, self.model_config.emb_dim), jnp.float32)
        head = self.head.init(rngs["head"], states)["params"]
        return {**params, "heads": {**params.get("heads", {}), self.name: head}}

    def prepare(self, rng, inputs):
        return inputs

    def loss_weights(self):
        return {self.name: 1.0}

    def head_inputs(self, hidden: jax.Array, batch: Batch) -> jax.Array:
        """The states [B, ..., D] that the head reads, of the last hidden states [B, T, D]."""
        raise NotImplementedError

    def outputs(self, model, params, batch, dropout_rng=None):
        """The head's float32[B, ...] of every row, including padding rows."""
        rngs = [{}, {}]
        if dropout_rng is not None:
            rngs = [{"dropout": rng} for rng in jax.random.split(dropout_rng)]
        hidden = model.apply(
            {"params": params},
            batch.inputs,
            batch.decoder_inputs,
            deterministic=dropout_rng is None,
            rngs=rngs[0],
        )
        states = self.head_inputs(hidden, batch)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return self.head.apply(
                {"params": params["heads"][self.name]},
                states,
                deterministic=dropout_rng is None,
                rngs=rngs[1],
            )

    # ---- On the host -----------------------------------------------------------------------------

    def batch(self, split: str, indices, width: int | None = None) -> Batch:
        """The examples int[B] of a split as arrays [B, ...], padded to `width` tokens; the index PADDING
        gives a row of weight 0."""
        raise NotImplementedError

    def train_inputs(self, step):
        indices = self._indices(step)
        return self.batch("train", self._local(indices), self._width(indices))

    def eval_inputs(self, split):
        for indices in example_order.sequential(len(self.encoded[split]), self.eval_batch_size):
            yield self.batch(split, self._local(indices))

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

    def _indices(self, step):
        """Indices int64[batch_size] of the training examples of a step, over all processes."""
        if self.task.group_by_length:
            lengths = self.encoded["train"].lengths[self.examples]
            places = example_order.grouped_at(
                step, self.batch_size, lengths, self.task.group_by_length, self.seed
            )
        else:
            places = example_order.shuffled_at(step, self.batch_size, len(self.examples), self.seed)
        return self.examples[places]

    def _width(self, indices):
        """The length that a batch is padded to: max_seq_len, or less with group_by_length."""
        split = self.encoded["train"]
        if not self.task.group_by_length:
            return split.tokens.shape[1]
        longest = -(-int(split.lengths[indices].max()) // _WIDTH_STEP) * _WIDTH_STEP
        return min(longest, split.tokens.shape[1])

    def _local(self, indices):
        """This process's share of a global batch."""
        share = len(indices) // self.process_count
        return indices[self.process_index * share :][:share]

    def real(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """(indices int[B] in which padding is example 0, bool[B]: whether a row is an example)."""
        real = np.asarray(indices) != example_order.PADDING
        return np.where(real, indices, 0), real

    def model_inputs(self, split, indices, width=None) -> tuple[ModelInputs, np.ndarray]:
        """(the token ids of the examples int[B], padded to `width`; int32[B] their lengths)."""
        encoded = self.encoded[split]
        chosen, real = self.real(indices)
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
            attention="causal" if decoder else "bidirectional",
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
        """The outputs float32[n, ...] of a split."""
        return np.concatenate(outputs)[: len(self.encoded[split])]

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
        return [
            {
                "number": step * self.batch_size + row,
                "source": self.task.source,
                "row": example,
                "documents": [{"document": example, "file": "train", "number": example}],
            }
            for row, example in enumerate(self._indices(step).tolist())
        ]

    def describe_labels(self) -> str:
        """The labels in a few words, for the log."""
        return f"{len(self.label_names)} labels"

    def describe(self):
        splits = ", ".join(
            f"{len(split):,} {name}" for name, split in self.encoded.items() if name != "train"
        )
        lines = [
            f"{self.describe_labels()}; {len(self.examples):,} of {len(self.encoded['train']):,} "
            f"training examples, {splits}"
        ]
        for name, split in self.encoded.items():
            lines.append(split.describe_unknown(name))
            if split.num_truncated:
                lines.append(
                    f"{split.num_truncated:,} of {len(split):,} {name} examples were truncated to "
                    f"{self.task.max_seq_len} tokens"
                )
        return lines
