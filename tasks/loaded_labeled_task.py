"""A labeled set as batches: the order of its examples, token ids, the head over the model's states.

The base class of the loaded tasks; a file per task adds targets, loss and metrics.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data import tokenizer as tokenizers
from models.config import ModelConfig
from models.inputs import ModelInputs
from objectives.batch import Batch
from tasks import batch_shapes, example_order, predictions
from tasks.base import LoadedTask, Task
from tasks.encoding import Encoded


def host(**options):
    """A field that the traced functions do not read: it is left out of the comparison of tasks."""
    return dataclasses.field(compare=False, repr=False, **options)


@dataclasses.dataclass(frozen=True)
class LoadedLabeledTask(LoadedTask):
    """An encoded labeled dataset. `train_inputs` are a Batch of NumPy arrays, which `prepare` returns.

    Subclasses define `name`, `batch`, `losses` and, on the host, `score` and `prediction_rows`.
    """

    head: nn.Module | None  # None: the model's own LM head
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
        steps = range(self.task.group_by_length)
        read = [self.tokens_read(self._shape("train", self._indices(step))) for step in steps]
        return float(np.mean(read)) / self.tokens_read(self.full_shape) if read else 1.0

    @property
    def tokens_per_step(self) -> int:
        return round(self.batch_size * self.tokens_read(self.full_shape) * self.length_share)

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The longest that a batch is padded to: the width of its rows."""
        return (self.task.max_seq_len,)

    def lengths(self, split: str) -> np.ndarray:
        """int[n, K]: the lengths of the K sequences of each example, which `full_shape` limits."""
        return self.encoded[split].lengths[:, None]

    def tokens_read(self, shape: tuple[int, ...]) -> int:
        """Tokens that the model reads in a row of a batch of this shape."""
        return shape[0]

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that batches are padded to, ascending; `full_shape` alone without group_by_length."""
        if not self.task.group_by_length:
            return (self.full_shape,)
        chosen = batch_shapes.choose_shapes(
            self.lengths("train" if "train" in self.encoded else next(iter(self.encoded))),
            self.full_shape,
            self.batch_size,
            self.task.group_by_length,
        )
        # The last one is for evaluation alone, of examples longer than any of train.
        return chosen if chosen[-1] == self.full_shape else (*chosen, self.full_shape)

    @property
    def identities(self) -> dict:
        return {
            "data": self.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "labels": list(self.label_names),
        }

    def manifest(self):
        shapes = {"batch_shapes": [list(each) for each in self.shapes]}
        return {**self.identities, **(shapes if self.task.group_by_length else {})}

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

    def loss_weights(self):
        return {self.name: 1.0}

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
        gives a row of weight 0. A task with K lengths has K widths."""
        raise NotImplementedError

    def train_inputs(self, step):
        indices = self._indices(step)
        return self.batch("train", self._local(indices), *self._shape("train", indices))

    def iterate_together(self, tasks, start):
        for step in itertools.count(start):
            steps = [(task, task._indices(step)) for task in tasks]
            shapes = [task._shape("train", indices) for task, indices in steps]
            shape = batch_shapes.smallest_shape(self.shapes, np.max(shapes, axis=0))
            yield [task.batch("train", task._local(indices), *shape) for task, indices in steps]

    def eval_inputs(self, split):
        order = self._eval_order(split)
        for places in example_order.sequential(len(order), self.eval_batch_size):
            is_real = places != example_order.PADDING
            indices = np.where(is_real, order[places], example_order.PADDING)
            shape = self._shape(split, indices[is_real])
            yield self.eval_batch(split, self._local(indices), *shape)

    def eval_batch(self, split: str, indices, *widths) -> Batch:
        """As `batch`, for evaluation."""
        return self.batch(split, indices, *widths)

    def _eval_order(self, split):
        """int[n]: the examples of a split in the order in which they are evaluated."""
        lengths = self.lengths(split)
        if not self.task.group_by_length:
            return np.arange(len(lengths))
        return np.argsort(batch_shapes.length_keys(lengths), kind="stable")

    @property
    def num_shapes(self):
        return len(self.shapes)

    def describe_shape(self, inputs):
        return " and ".join(
            f"{name}width {side.tokens.shape[-1]}"
            for name, side in (("", inputs.inputs), ("decoder ", inputs.decoder_inputs))
            if side is not None
        )

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
            keys = batch_shapes.length_keys(self.lengths("train")[self.examples])
            places = example_order.grouped_at(
                step, self.batch_size, keys, self.task.group_by_length, self.seed
            )
        else:
            places = example_order.shuffled_at(step, self.batch_size, len(self.examples), self.seed)
        return self.examples[places]

    def _shape(self, split, indices):
        """The shape that a batch of examples int[B] is padded to, over all processes."""
        return batch_shapes.smallest_shape(self.shapes, self.lengths(split)[indices].max(0))

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
        return self.inputs_of(self.encoded[split], indices, width)

    def inputs_of(self, encoded: Encoded, indices, width=None) -> tuple[ModelInputs, np.ndarray]:
        """As `model_inputs`, of the rows int[B] of any encoded texts."""
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
        """The outputs float32[n, ...] of a split, in the order of its examples."""
        order = self._eval_order(split)
        outputs = np.concatenate(outputs)[: len(order)]
        found = np.empty_like(outputs)
        found[order] = outputs
        return found

    def prediction_rows(self, split, outputs):
        """Iterates over a dict for each example of a split, in order: what `predictions.write` writes."""
        raise NotImplementedError

    def write_predictions(self, folder, split, outputs):
        predictions.write(folder / f"predictions_{split}.tsv", self.prediction_rows(split, outputs))

    def head_options(self) -> dict[str, Any]:
        """The options of the task, `auto` resolved: a published head needs some of them."""
        return dataclasses.asdict(self.task)

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

    @property
    def name_of_target(self):
        return self.label_names.__getitem__ if self.label_names else None

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
            lines += [split.describe_unknown(name), *split.describe_truncated(name, self.task)]
        if self.task.group_by_length:
            shapes = ", ".join(" and ".join(map(str, shape)) for shape in self.shapes)
            lines.append(
                f"batches of similar length are padded to {shapes} tokens, {self.length_share:.0%} of the "
                "longest on average; each is compiled once"
            )
        return lines
