"""What a classic text classifier makes of the same labels: TF-IDF with logistic regression.

Run by studies/three_ways.py on the label subsets of the study; printed beside our figures.
"""

import collections

import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

STRENGTHS = (10.0, 100.0, 1000.0)  # inverse regularisation, chosen on validation


def run(train, validation, test, subset, budgets, seeds):
    """Scores the baseline on the subset of every (budget, seed).

    Args:
      train, validation, test: (texts, labels), each a pair of equally long lists.
      subset: function (labels, budget, seed) -> indices into train; the one finetuning uses.
      budgets, seeds: as in StudyConfig.

    Returns:
      {'cells': [{budget, seed, strength, validation, test}], 'majority': share of the test split
      that has the most frequent label of the training split, 'classes', 'train', 'validation', 'test':
      numbers of classes and of examples}.
    """
    texts, labels = train
    cells = []
    for budget in budgets:
        for seed in seeds:
            chosen = subset(labels, budget, seed)
            best = fit([texts[i] for i in chosen], [labels[i] for i in chosen], validation)
            score = best["model"].score(*test)
            cells.append(
                {
                    "budget": budget,
                    "seed": seed,
                    "strength": best["strength"],
                    "validation": best["validation"],
                    "test": float(score),
                }
            )
    frequent = collections.Counter(labels).most_common(1)[0][0]
    return {
        "name": f"TF-IDF + logistic regression (scikit-learn {sklearn.__version__})",
        "cells": cells,
        "majority": sum(label == frequent for label in test[1]) / len(test[1]),
        "classes": len(set(labels)),
        "train": len(labels),
        "validation": len(validation[1]),
        "test": len(test[1]),
    }


def fit(texts, labels, validation):
    """The best of STRENGTHS by validation accuracy: {'model', 'strength', 'validation'}.

    Single words (pairs of words did not help), sublinear term frequency; vocabulary and document
    frequencies come from the labelled subset alone, as nothing else is known without pretraining.
    """
    candidates = []
    for strength in STRENGTHS:
        model = make_pipeline(
            TfidfVectorizer(sublinear_tf=True),
            LogisticRegression(C=strength, max_iter=1000, tol=1e-3),
        ).fit(texts, labels)
        accuracy = float(model.score(*validation))
        candidates.append({"model": model, "strength": strength, "validation": accuracy})
    return max(candidates, key=lambda candidate: candidate["validation"])
