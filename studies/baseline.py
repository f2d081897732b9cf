"""The classic baseline: TF-IDF with logistic regression, on the label subsets that finetuning uses.

Run once by studies/three_ways.py; its scores are in every table of a study.
"""

import collections

import numpy as np

from tasks import example_order
from training.config import ConfigError

INVERSE_REGULARIZATION = (10.0, 100.0, 1000.0)  # C of LogisticRegression, chosen on validation


def load(task):
    """{split: Examples} of a resolved section `task` of a finetuning config.

    Raises ConfigError for a task whose examples are not texts of one class each, and without a labeled
    test split.
    """
    splits = task.read()
    if not isinstance(next(iter(splits["train"].get("label") or [None])), str):
        raise ConfigError(
            f"config.task.name={task.name!r}: expected a task whose examples are texts with one class each"
        )
    if "test" not in splits or not splits["test"].label:
        raise ConfigError(
            f"config.task.source={task.source!r} has no labeled test split; expected one to compare on; "
            f"add a test file with labels"
        )
    return splits


def run(splits, label_budgets, seeds):
    """Fits and scores the baseline for every label budget and seed.

    Returns:
      {'name', 'cells': [{label_budget, seed, inverse_regularization, validation, test}], 'majority':
      share of the test split that has the most frequent training label, 'num_classes', 'num_train',
      'num_validation', 'num_test'}.
    """
    import sklearn  # slow to import

    train, test = splits["train"].label, splits["test"].label
    classes = np.unique(train, return_inverse=True)[1]
    cells = []
    for label_budget in label_budgets:
        for seed in seeds:
            subset = example_order.stratified_subset(classes, label_budget, seed)
            scores = fit(splits["train"].take(subset), splits["validation"], splits["test"])
            cells.append({"label_budget": label_budget, "seed": seed, **scores})
    [(majority, _)] = collections.Counter(train).most_common(1)
    return {
        "name": f"TF-IDF + logistic regression (scikit-learn {sklearn.__version__})",
        "cells": cells,
        "majority": test.count(majority) / len(test),
        "num_classes": len(set(train)),
        **{f"num_{split}": len(splits[split]) for split in ("train", "validation", "test")},
    }


def fit(train, validation, test):
    """{inverse_regularization, validation, test} of the model that is best on validation.

    Features are single words with sublinear term frequency (pairs of words did not help). Vocabulary
    and document frequencies come from `train` alone: without pretraining nothing else is known.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def accuracy(model, split):
        return float(model.score(texts(split), split.label))

    models = {}
    for strength in INVERSE_REGULARIZATION:
        classifier = LogisticRegression(C=strength, max_iter=1000, tol=1e-3)
        model = make_pipeline(TfidfVectorizer(sublinear_tf=True), classifier)
        models[strength] = model.fit(texts(train), train.label)
    scores = {strength: accuracy(model, validation) for strength, model in models.items()}
    best = max(scores, key=scores.get)
    return {
        "inverse_regularization": best,
        "validation": scores[best],
        "test": accuracy(models[best], test),
    }


def texts(split):
    """The texts of a split; a pair of texts is joined by a newline."""
    if split.text_pair is None:
        return split.text
    return list(map("\n".join, zip(split.text, split.text_pair, strict=True)))
