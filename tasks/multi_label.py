"""Several labels per text, or per pair of texts, for all three architectures."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import optax

from data import labeled, labels, targets
from data.examples import Column, Examples, read
from models.config import option
from tasks import predictions
from tasks.base import host_field
from tasks.class_loss import one_number_each
from tasks.metrics import MULTI_LABEL_METRICS, multi_label_scores
from tasks.pooled_task import LoadedPooledTask, PooledTask, TextColumns


@dataclasses.dataclass(frozen=True)
class MultiLabel(TextColumns, PooledTask):
    """Any number of labels per text, or per pair of texts, each predicted independently."""

    name: ClassVar[str] = "multi_label"
    hf_problem_type: ClassVar[str] = "multi_label_classification"

    metric: str = option("micro_f1", "chooses the best checkpoint", choices=MULTI_LABEL_METRICS)
    label_separator: str = option(
        "", "between the labels of a text, such as ','; '': a list of labels, or one label"
    )
    label_columns: tuple = option(
        (), "a column of 0 and 1 for each label, whose name it is, in place of label_column"
    )
    threshold: float = option(
        0.5, "a label with at least this probability is predicted", min=0.0, max=1.0
    )
    positive_weights: tuple = option(
        "none",
        "weight of the examples that have a label in the training loss: none, balanced (examples without "
        "it / examples with it), or a number per label in order, such as (1.0, 2.5)",
        words=("none", "balanced"),
    )

    def __post_init__(self):
        weights = self.positive_weights
        if not isinstance(weights, str) and not all(
            isinstance(w, (int, float)) and 0 < w < math.inf for w in weights
        ):
            raise ValueError(
                f"positive_weights={weights!r}: expected numbers over 0, or 'none' or 'balanced'"
            )
        names = self.label_columns
        if len({*names}) < len(names) or not all(n and isinstance(n, str) for n in names):
            raise ValueError(f"label_columns={names!r}: expected different names of columns")

    def example_columns(self):
        self.check_columns()
        columns = labeled.text_columns(self.text_column, self.text_pair_column)
        if self.label_columns:
            columns |= {
                f"label {name}": Column(name, "label_columns", targets.as_flag, is_label=True)
                for name in self.label_columns
            }
        else:
            columns["labels"] = Column(
                self.label_column,
                "label_column",
                targets.as_labels(self.label_separator),
                is_label=True,
            )
        return columns

    def read(self, log=lambda line: None):
        splits = read(self.source, self.example_columns(), self.dialect, self.missing, log=log)
        splits = self.complete_examples(splits, log)
        train = splits["train"]
        place = labeled.files_of(train)
        for line in targets.check_label_lists(train.get("labels"), place, self.label_columns):
            log(f"warning: {line}")
        known = {label for each in train.get("labels") for label in each}
        names = self.label_columns or tuple(sorted(known))
        for examples in splits.values():
            for each, place in zip(examples.get("labels") or [], examples.places, strict=False):
                for label in each:
                    if label not in names:
                        raise labels.unknown_error(str(place), label, names)
        return labeled.complete(self.source, splits, names, self.validation_fraction, log)

    def complete_examples(self, splits, log):
        """With the column `labels`, a list."""
        return {split: self._with_label_lists(examples) for split, examples in splits.items()}

    def _with_label_lists(self, examples: Examples) -> Examples:
        flags = [examples.get(f"label {name}") for name in self.label_columns]
        if not flags or None in flags:
            return examples
        found = [
            [name for name, has in zip(self.label_columns, row, strict=True) if has]
            for row in zip(*flags, strict=True)
        ]
        return dataclasses.replace(examples, columns=examples.columns | {"labels": found})

    def encode(self, examples, tokenizer, template, label_names, architecture):
        encoded = super().encode(examples, tokenizer, template, label_names, architecture)
        found = examples.get("labels")
        ids = np.full((len(encoded), len(label_names)), -1 if found is None else 0, np.int32)
        for row, each in enumerate(found or []):
            ids[row, [label_names.index(label) for label in each]] = 1
        return dataclasses.replace(encoded, labels=ids)

    def loaded_fields(self, label_names, model_config, encoded, examples):
        weights = ()
        if "train" in encoded:
            weights = self.weights_of_labels(encoded["train"].labels[examples], label_names)
        fields = {"positive_weights": weights, "threshold": self.threshold}
        return self.pooled_fields(len(label_names), model_config) | fields

    def weights_of_labels(self, ids, label_names) -> tuple[float, ...]:
        """The weight of each label's positive examples, () for equal weights; ids int[n, C] of 0 and 1.

        Raises ValueError for another number of weights than labels.
        """
        if self.positive_weights == "none":
            return ()
        if self.positive_weights == "balanced":
            having = ids.sum(0)
            return tuple(
                np.where(having, (len(ids) - having) / np.maximum(having, 1), 1.0).tolist()
            )
        return one_number_each("positive_weights", self.positive_weights, label_names, "labels")


@dataclasses.dataclass(frozen=True)
class LoadedMultiLabel(LoadedPooledTask):
    """A labeled set of several labels per text, encoded."""

    positive_weights: tuple[float, ...] = ()  # of each label in the loss; () if they are 1
    threshold: float = host_field(default=0.5)

    name = MultiLabel.name

    def losses(self, model, params, batch, dropout_rng):
        """Binary cross entropy of an example: the mean over its labels (PyTorch's BCEWithLogitsLoss)."""
        logits = self.outputs(model, params, batch, dropout_rng)
        has, weights = batch.targets.astype(jnp.float32), batch.loss_weights[:, 0]
        losses = optax.sigmoid_binary_cross_entropy(logits, has)
        if self.positive_weights:
            losses *= 1 + has * (jnp.asarray(self.positive_weights, jnp.float32) - 1)[None]
        return {self.name: ((losses.mean(-1) * weights).sum(), weights.sum())}

    def loss_denominators(self, batch):
        return {self.name: batch.loss_weights[:, 0].sum()}

    def targets(self, split, indices):
        chosen, real = self.without_padding(indices)
        ids = self.encoded[split].labels[chosen]
        known = real[:, None] & (ids >= 0)
        return np.where(known, ids, 0).astype(np.int32), known.astype(np.float32)

    def score(self, split, predictions):
        ids = self.encoded[split].labels
        return multi_label_scores(ids, predictions, self.threshold) if (ids >= 0).all() else {}

    def prediction_rows(self, split, outputs):
        ids = self.encoded[split].labels
        return predictions.label_list_rows(self.label_names, ids, outputs, self.threshold)

    def describe_labels(self):
        mean = self.encoded["train"].labels.sum(1).mean()
        return f"{len(self.label_names)} labels, {mean:.2f} per example"


MultiLabel.loaded_type = LoadedMultiLabel
