"""The options of tasks on classes: the metric, and a loss with label smoothing and class weights.

Only the training loss has these; the scores of a split do not. Used by the tasks that choose one of
several classes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.config import option
from tasks.base import Task
from tasks.metrics import CLASS_METRICS

# Labels that mean yes, as data sets of two classes write them.
POSITIVE = ("1", "true", "yes", "positive", "pos", "equivalent", "duplicate")


@dataclasses.dataclass(frozen=True)
class ClassMetricOptions(Task):
    """The options of the scores."""

    metric: str = option(
        "accuracy",
        "chooses the best checkpoint; f1 is of one class, positive_label",
        choices=(*CLASS_METRICS, "f1"),
    )
    positive_label: str = option(
        "", f"of two labels, the one whose F1 is scored; '': the one among {', '.join(POSITIVE)}"
    )

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
class ClassLossOptions(Task):
    """The options of the training loss."""

    label_smoothing: float = option(
        0.0, "share of each target that is spread evenly over all classes", min=0.0, max=0.99
    )
    class_weights: tuple = option(
        "none",
        "weight of a class in the training loss: none, balanced (training examples / (classes * examples "
        "of the class)), or a number per class in the order of the labels, such as (1.0, 2.5)",
        words=("none", "balanced"),
    )

    def __post_init__(self):
        weights = self.class_weights
        if isinstance(weights, str):
            return
        numbers = [w for w in weights if isinstance(w, (int, float)) and 0 <= w < math.inf]
        if len(numbers) != len(weights) or not any(weights):
            raise ValueError(
                f"class_weights={weights!r}: expected numbers of at least 0, not all of them 0, or "
                f"'none' or 'balanced'"
            )

    def weight_of_classes(self, labels, label_names) -> tuple[float, ...]:
        """The weight of each class by `class_weights`; () for equal weights.

        Args:
          labels: int[n], the class of each training example.
          label_names: the classes in order.

        Raises ValueError if there are more or fewer weights than classes.
        """
        if self.class_weights == "none":
            return ()
        if self.class_weights == "balanced":
            counts = np.bincount(labels, minlength=len(label_names))
            return tuple((len(labels) / (len(counts) * np.maximum(counts, 1))).tolist())
        return one_number_each("class_weights", self.class_weights, label_names, "classes")


def one_number_each(field: str, numbers: tuple, names, what: str) -> tuple[float, ...]:
    """The numbers of a field, one for each of the names. Raises ValueError for more or fewer."""
    if len(numbers) != len(names):
        raise ValueError(
            f"task.{field}={numbers!r} has {len(numbers)} numbers, but there are {len(names)} {what}, in "
            f"this order: {', '.join(names)[:160]}; give one number for each"
        )
    return tuple(map(float, numbers))


def class_sums(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, label_smoothing=0.0, class_weights=()
) -> tuple:
    """((sum, weight) of the loss, (sum, weight) of the accuracy): logits float32[..., C], targets int32 and
    weights float32[...]. Class weights apply only to the loss."""
    losses = cross_entropy(logits, targets, label_smoothing)
    in_loss = example_weights(targets, weights, class_weights)
    hits = (logits.argmax(-1).astype(jnp.int32) == targets).astype(jnp.float32)
    return ((losses * in_loss).sum(), in_loss.sum()), ((hits * weights).sum(), weights.sum())


def example_weights(targets: jax.Array, weights: jax.Array, class_weights: tuple) -> jax.Array:
    """float32[B]: the weight of each example in the loss, weights[b] * class_weights[targets[b]]."""
    return weights * jnp.asarray(class_weights, jnp.float32)[targets] if class_weights else weights


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float) -> jax.Array:
    """float32[B]: -sum_c q_c log p_c with q = (1 - label_smoothing) onehot(target) + label_smoothing / C
    (Szegedy et al. 2016, section 7); logits float32[B, C], targets int32[B]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if not label_smoothing:
        return losses
    uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(-1)
    return (1 - label_smoothing) * losses + label_smoothing * uniform
