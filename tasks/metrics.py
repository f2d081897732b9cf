"""Metrics of a whole split, by the field's own packages, from gathered predictions.
finetune.py calls `evaluate` on what `Classification.predictions` gave, padding taken out.
A corpus metric is not a mean of batches: it is computed once, from every prediction.
"""

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics


def _macro_f1(labels, predictions):
    """Mean of the F1 of each class that occurs among labels or predictions."""
    return sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0)


def _correlation(function):
    def score(labels, predictions):
        """0 where either side does not vary: nothing is ranked."""
        if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
            return 0.0
        return function(labels, predictions).statistic

    return score


# name: (function of labels and predictions, both one number an example; what they are)
METRICS = {
    "accuracy": (sklearn_metrics.accuracy_score, "classes"),
    "macro_f1": (_macro_f1, "classes"),
    "matthews": (sklearn_metrics.matthews_corrcoef, "classes"),
    "pearson": (_correlation(stats.pearsonr), "values"),
    "spearman": (_correlation(stats.spearmanr), "values"),
}


def score(metric: str, labels, predictions) -> float:
    """One metric of labels [n] and predictions [n], larger is better. ValueError where n is 0."""
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is unknown: expected one of {', '.join(METRICS)}")
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(
            f"{metric} of {labels.shape} labels and {predictions.shape} predictions: expected one "
            "prediction for each label, and at least one; check the split"
        )
    return float(METRICS[metric][0](labels, predictions))


def evaluate(labels, logits) -> dict[str, float]:
    """Every metric of classes, and the mean cross entropy in nats: labels [n], logits [n, C]."""
    logits = np.asarray(logits, np.float64)
    predictions = logits.argmax(-1)
    named = {
        name: score(name, labels, predictions)
        for name, (_, kind) in METRICS.items()
        if kind == "classes"
    }
    named['loss'] = float(sklearn_metrics.log_loss(
        labels, probabilities(logits), labels=np.arange(logits.shape[1])
    ))  # fmt: skip
    return named


def probabilities(logits) -> np.ndarray:
    """softmax of logits [n, C], float64."""
    logits = np.asarray(logits, np.float64)
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)
