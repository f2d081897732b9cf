"""Classification of texts or pairs of texts, for all three architectures."""

import dataclasses
from typing import ClassVar

import numpy as np

from data import labeled
from tasks import predictions
from tasks.base import host_field
from tasks.class_loss import ClassLossOptions, ClassMetricOptions, class_sums, example_weights
from tasks.loaded_labeled_task import most_frequent
from tasks.metrics import classification_scores
from tasks.pooled_task import LoadedPooledTask, PooledTask, TextColumns


@dataclasses.dataclass(frozen=True)
class Classification(ClassMetricOptions, ClassLossOptions, TextColumns, PooledTask):
    """One label per text, or per pair of texts."""

    name: ClassVar[str] = "classification"
    hf_problem_type: ClassVar[str] = "single_label_classification"
    peft_task_type: ClassVar[str] = "SEQ_CLS"

    def example_columns(self):
        self.check_columns()
        return labeled.class_columns(self.text_column, self.text_pair_column, self.label_column)

    def read(self, log=lambda line: None):
        self.check_columns()
        return labeled.load(
            self.source, self.text_column, self.text_pair_column, self.label_column,
            dialect=self.dialect, missing=self.missing,
            validation_fraction=self.validation_fraction, log=log,
        )  # fmt: skip

    def loaded_fields(self, label_names, model_config, encoded, examples):
        labels = encoded["train"].labels[examples] if "train" in encoded else np.zeros(0, int)
        return self.pooled_fields(len(label_names), model_config) | {
            "label_smoothing": self.label_smoothing,
            "class_weights": self.weight_of_classes(labels, label_names),
            "positive": self.index_of_positive(label_names),
        }


@dataclasses.dataclass(frozen=True)
class LoadedClassification(LoadedPooledTask):
    """A labeled set of classes, encoded."""

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()  # of each class in the loss; () if they are equal
    positive: int = host_field(default=-1)  # class of the metric f1

    name = Classification.name

    def losses(self, model, params, batch, dropout_rng):
        logits = self.outputs(model, params, batch, dropout_rng)
        targets, weights = batch.targets[:, 0], batch.loss_weights[:, 0]
        loss, accuracy = class_sums(
            logits, targets, weights, self.label_smoothing, self.class_weights
        )
        return {self.name: loss, "accuracy": accuracy}

    def loss_denominators(self, batch):
        targets, weights = batch.targets[:, 0], batch.loss_weights[:, 0]
        return {self.name: example_weights(targets, weights, self.class_weights).sum()}

    def targets(self, split, indices):
        chosen, real = self.without_padding(indices)
        labels = np.where(real, self.encoded[split].labels[chosen], 0)[:, None]
        weights = (real[:, None] & (labels >= 0)).astype(np.float32)
        return np.maximum(labels, 0).astype(np.int32), weights

    def score(self, split, predictions):
        labels = self.encoded[split].labels
        if (labels < 0).any():
            return {}
        return classification_scores(labels, predictions, self.positive)

    def constant_output(self):
        return most_frequent(self.encoded["train"].labels, len(self.label_names))

    def prediction_rows(self, split, outputs):
        return predictions.class_rows(self.label_names, self.encoded[split].labels, outputs)


Classification.loaded_type = LoadedClassification
