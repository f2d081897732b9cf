"""Classification of texts or pairs of texts, for all three architectures."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from data import labeled
from models.config import option
from tasks import predictions
from tasks.class_loss import ClassLossOptions, cross_entropy, example_weights
from tasks.loaded_labeled_task import host
from tasks.metrics import CLASS_METRICS, classification_scores
from tasks.pooled_task import LoadedPooledTask, PooledTask, TextColumns

# Labels that mean yes, as data sets of two classes write them.
POSITIVE = ("1", "true", "yes", "positive", "pos", "equivalent", "duplicate")


@dataclasses.dataclass(frozen=True)
class Classification(ClassLossOptions, TextColumns, PooledTask):
    """One label per text, or per pair of texts."""

    name: ClassVar[str] = "classification"
    hf_problem_type: ClassVar[str] = "single_label_classification"

    metric: str = option(
        "accuracy",
        "chooses the best checkpoint; f1 is that of one class, positive_label",
        choices=(*CLASS_METRICS, "f1"),
    )
    positive_label: str = option(
        "", f"of two labels, the one whose F1 is scored; '': the one among {', '.join(POSITIVE)}"
    )

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

    def index_of_positive(self, label_names) -> int:
        """The index of the label whose F1 is scored, -1 for none. Raises ValueError for a label that train
        does not have, and for metric=f1 without one."""
        if self.positive_label in label_names:
            return label_names.index(self.positive_label)
        found = [n for n, label in enumerate(label_names) if label.casefold() in POSITIVE]
        if not self.positive_label and len(label_names) == 2 and len(found) == 1:
            return found[0]
        if self.positive_label or self.metric == "f1":
            raise ValueError(
                f"task.positive_label={self.positive_label!r} is none of the labels: set it to the one "
                f"whose F1 is scored, of {', '.join(map(repr, label_names))[:160]}"
            )
        return -1


@dataclasses.dataclass(frozen=True)
class LoadedClassification(LoadedPooledTask):
    """A labeled set of classes, encoded."""

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()  # of each class in the loss; () if they are equal
    positive: int = host(default=-1)  # class of the metric f1

    name = Classification.name

    def losses(self, model, params, batch, dropout_rng):
        logits = self.outputs(model, params, batch, dropout_rng)
        targets, weights = batch.targets[:, 0], batch.loss_weights[:, 0]
        losses = cross_entropy(logits, targets, self.label_smoothing)
        in_loss = example_weights(targets, weights, self.class_weights)
        hits = (logits.argmax(-1).astype(jnp.int32) == targets).astype(jnp.float32)
        return {
            self.name: ((losses * in_loss).sum(), in_loss.sum()),
            "accuracy": ((hits * weights).sum(), weights.sum()),
        }

    def loss_denominators(self, batch):
        targets, weights = batch.targets[:, 0], batch.loss_weights[:, 0]
        return {self.name: example_weights(targets, weights, self.class_weights).sum()}

    def targets(self, split, indices):
        chosen, real = self.real(indices)
        labels = np.where(real, self.encoded[split].labels[chosen], 0)[:, None]
        weights = (real[:, None] & (labels >= 0)).astype(np.float32)
        return np.maximum(labels, 0).astype(np.int32), weights

    def score(self, split, predictions):
        labels = self.encoded[split].labels
        if (labels < 0).any():
            return {}
        return classification_scores(labels, predictions, self.positive)

    def constant_scores(self, split):
        """Of the most frequent label in train."""
        labels, train = self.encoded[split].labels, self.encoded["train"].labels
        if not (labels >= 0).all():
            return {}
        most = np.full_like(labels, np.bincount(train).argmax())
        scores = classification_scores(labels, np.eye(len(self.label_names))[most], self.positive)
        return {self.task.metric: scores[self.task.metric]}

    def prediction_rows(self, split, outputs):
        return predictions.class_rows(self.label_names, self.encoded[split].labels, outputs)


Classification.loaded_type = LoadedClassification
