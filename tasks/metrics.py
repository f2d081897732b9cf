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
VALUE_METRICS = {"pearson": _correlation("pearsonr"), "spearman": _correlation("spearmanr")}


def score(metric: str, labels, predictions) -> float:
    """One metric of labels [n] and predictions [n]; larger is better. Raises ValueError if n is 0."""
    metrics = CLASS_METRICS | VALUE_METRICS
    if metric not in metrics:
        raise ValueError(f"metric {metric!r} is unknown: expected one of {', '.join(metrics)}")
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(
            f"{metric} of {labels.shape} labels and {predictions.shape} predictions: expected one "
            "prediction per label, and at least one; check the split"
        )
    return float(metrics[metric](labels, predictions))


def classification_scores(labels, logits) -> dict[str, float]:
    """All class metrics, and the mean cross entropy in nats: labels [n], logits [n, C]."""
    from sklearn.metrics import log_loss

    logits = np.asarray(logits, np.float64)
    values = {name: score(name, labels, logits.argmax(-1)) for name in CLASS_METRICS}
    classes = np.arange(logits.shape[1])
    return values | {"loss": float(log_loss(labels, softmax(logits), labels=classes))}


def softmax(logits) -> np.ndarray:
    """Probabilities float64[n, C] of logits [n, C]."""
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)
