"""Metrics of a whole split, computed once from all of its predictions by scikit-learn and SciPy.

The libraries are imported on first use: they take longer to import than JAX.
"""

import numpy as np


def _accuracy(labels, predictions):
    from sklearn.metrics import accuracy_score

    return accuracy_score(labels, predictions)


def _macro_f1(labels, predictions):
    """The mean F1 of the classes that occur among labels or predictions."""
    from sklearn.metrics import f1_score

    return f1_score(labels, predictions, average="macro", zero_division=0)


def _matthews(labels, predictions):
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(labels, predictions)


def _mse(labels, predictions):
    from sklearn.metrics import mean_squared_error

    return mean_squared_error(labels, predictions)


def _r2(labels, predictions):
    """1 - squared error / variance of the labels; 0 if all labels are the same."""
    from sklearn.metrics import r2_score

    return r2_score(labels, predictions) if np.ptp(labels) else 0.0


def _multi_label_f1(average):
    def score(labels, predictions):
        from sklearn.metrics import f1_score

        return f1_score(labels, predictions, average=average, zero_division=0)

    return score


def _correlation(name):
    def score(labels, predictions):
        """0 if either side is constant: nothing is ranked."""
        from scipy import stats

        if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
            return 0.0
        return getattr(stats, name)(labels, predictions).statistic

    return score


# name: function of labels and predictions, one number per example each.
CLASS_METRICS = {"accuracy": _accuracy, "macro_f1": _macro_f1, "matthews": _matthews}
VALUE_METRICS = {
    "pearson": _correlation("pearsonr"), "spearman": _correlation("spearmanr"), "mse": _mse, "r2": _r2,
}  # fmt: skip
LOWER_IS_BETTER = ("mse",)
# Of 0 and 1 for each label [n, C].
LABEL_SET_METRICS = {
    "micro_f1": _multi_label_f1("micro"),
    "macro_f1": _multi_label_f1("macro"),  # of all labels; one that never occurs counts 0
    "exact_match": _accuracy,  # all labels of an example are right
}
MULTI_LABEL_METRICS = (*LABEL_SET_METRICS, "mean_average_precision")


def score(metric: str, labels, predictions) -> float:
    """One metric of labels [n] and predictions [n]. Raises ValueError if n is 0."""
    metrics = CLASS_METRICS | VALUE_METRICS
    if metric not in metrics:
        raise ValueError(f"metric {metric!r} is unknown: expected one of {', '.join(metrics)}")
    return scores({metric: metrics[metric]}, labels, predictions)[metric]


def scores(metrics: dict, labels, predictions) -> dict[str, float]:
    """{name: value} of several metrics, {name: function}. Raises ValueError for no examples."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or not labels.size:
        raise ValueError(
            f"{', '.join(metrics)} of {labels.shape} labels and {predictions.shape} predictions: expected "
            "one prediction per label, and at least one; check the split"
        )
    return {name: float(metric(labels, predictions)) for name, metric in metrics.items()}


def classification_scores(labels, logits, positive: int = -1, found=None) -> dict[str, float]:
    """All class metrics, and the mean cross entropy in nats: labels [n], logits [n, C].

    positive: the class whose F1 is the metric f1; -1: none. found: the predicted classes [n]; None:
    those of the highest logits.
    """
    from sklearn.metrics import f1_score, log_loss

    logits = np.asarray(logits, np.float64)
    found = logits.argmax(-1) if found is None else found
    values = scores(CLASS_METRICS, labels, found)
    if positive >= 0:
        is_positive = np.asarray(labels) == positive
        values["f1"] = float(f1_score(is_positive, found == positive, zero_division=0))
    classes = np.arange(logits.shape[1])
    return values | {"loss": float(log_loss(labels, softmax(logits), labels=classes))}


def multi_label_scores(labels, logits, threshold: float) -> dict[str, float]:
    """All metrics of several labels per example, and the mean binary cross entropy in nats.

    labels [n, C] of 0 and 1, logits [n, C]; a label with a probability of at least `threshold` is predicted.
    mean_average_precision is the mean over the labels that occur; 0 if none does.
    """
    from sklearn.metrics import average_precision_score, log_loss

    labels, probabilities = np.asarray(labels), sigmoid(logits)
    values = scores(LABEL_SET_METRICS, labels, (probabilities >= threshold).astype(int))
    there = labels.any(0)
    precision = 0.0
    if there.any():
        precision = average_precision_score(labels[:, there], probabilities[:, there])
    flat = log_loss(labels.ravel(), probabilities.ravel(), labels=[0, 1])
    return values | {"mean_average_precision": float(precision), "loss": float(flat)}


def choice_scores(labels, logits) -> dict[str, float]:
    """Accuracy and mean cross entropy in nats: labels [n], logits [n, C]; of a choice that a row
    lacks, multiple_choice._ABSENT."""
    probabilities = softmax(logits)
    of_answers = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(of_answers, np.finfo(float).tiny)).mean()
    return scores({"accuracy": _accuracy}, labels, probabilities.argmax(-1)) | {"loss": float(loss)}


def sigmoid(logits) -> np.ndarray:
    """Probabilities float64 of logits, elementwise."""
    from scipy.special import expit

    return expit(np.asarray(logits, np.float64))


def softmax(logits) -> np.ndarray:
    """Probabilities float64[n, C] of logits [n, C]."""
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)
