"""Scores of tags: entities as conlleval counts them, by seqeval, and words, by scikit-learn.

Used by tasks/tagging.py, for a whole split at once.
"""

import importlib.util

import numpy as np

from data import tag_schemes
from tasks import metrics

ENTITY_METRICS = ("f1", "precision", "recall")
WORD_METRICS = ("accuracy", "macro_f1")


def check_installed() -> None:
    """Raises ModuleNotFoundError that names the extra, if entities cannot be scored."""
    if importlib.util.find_spec("seqeval") is None:
        raise ModuleNotFoundError(
            "scores of entities need the package seqeval: run `pip install -e .[metrics]`, or set "
            "task.scheme=none for the accuracy of words alone"
        )


def entities_of(tags: list[str]) -> list[tuple[str, int, int]]:
    """[(type, first word, last word)] of the entities of a sentence, as conlleval reads its tags."""
    from seqeval.metrics.sequence_labeling import get_entities

    return get_entities(tag_schemes.canonical(tags))


def score(gold: list[list[str]], predicted: list[list[str]], scheme: str) -> dict[str, float]:
    """{metric: value} of the tags of sentences.

    With a scheme of entities precision, recall and F1 over all of them (micro), where an entity is right
    if its first word, last word and type are; always the accuracy of words.
    """
    words, guesses = np.concatenate(gold), np.concatenate(predicted)
    values = {"accuracy": float((words == guesses).mean())}
    if scheme == "none":
        classes, numbers = np.unique(np.append(words, guesses), return_inverse=True)
        both = numbers[: len(words)], numbers[len(words) :]
        return values | {"macro_f1": metrics.score("macro_f1", *both)}
    precision, recall, f1, _ = _entity_scores(gold, predicted, "micro")
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall), **values}


def report(gold: list[list[str]], predicted: list[list[str]], scheme: str) -> list[dict]:
    """{type, precision, recall, f1, support} of each type of entity, or of each tag without a scheme."""
    if scheme == "none":
        from sklearn.metrics import precision_recall_fscore_support

        words, guesses = np.concatenate(gold), np.concatenate(predicted)
        names = np.unique(np.append(words, guesses)).tolist()
        scores = precision_recall_fscore_support(words, guesses, labels=names, zero_division=0)
    else:
        pairs = (entities_of(tags) for tags in (*gold, *predicted))
        names = sorted({name for entities in pairs for name, _, _ in entities})
        scores = _entity_scores(gold, predicted, None) if names else ([],) * 4
    return [
        {"type": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(names, *scores, strict=True)
    ]


def _entity_scores(gold, predicted, average):
    """(precision, recall, F1, number in gold), each of all entities or of each type in sorted order."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    both = ([tag_schemes.canonical(tags) for tags in side] for side in (gold, predicted))
    return precision_recall_fscore_support(*both, average=average, zero_division=0)
