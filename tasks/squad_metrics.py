"""EM and F1 of answers as SQuAD's scripts compute them: evaluate-v1.1.py (Rajpurkar et al. 2016) and
evaluate-v2.0.py (Rajpurkar et al. 2018). Scores are fractions of 1; the scripts print percent.
"""

import collections
import re
import string

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 if both normalize to the same text, otherwise 0.0."""
    return float(normalize(prediction) == normalize(answer))


def f1(prediction: str, answer: str, no_answer: bool = False) -> float:
    """F1 of the words of both. If one has no words: 0 in version 1.1; in 2.0 (`no_answer`) 1 if neither
    has any."""
    predicted, words = normalize(prediction).split(), normalize(answer).split()
    if no_answer and not (predicted and words):
        return float(predicted == words)
    common = sum((collections.Counter(predicted) & collections.Counter(words)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(words)
    return 2 * precision * recall / (precision + recall)


def of_questions(predictions, answers, no_answer: bool) -> tuple[np.ndarray, np.ndarray]:
    """(EM float64[n], F1 float64[n]) of each prediction: the best over the answers of its question.

    With `no_answer`, answers that normalize to nothing do not count, and a question without any other has
    the answer ''."""
    exact, overlap = np.zeros(len(predictions)), np.zeros(len(predictions))
    for i, (prediction, those) in enumerate(zip(predictions, answers, strict=True)):
        if no_answer:
            those = [answer for answer in those if normalize(answer)] or [""]
        exact[i] = max(exact_match(prediction, answer) for answer in those)
        overlap[i] = max(f1(prediction, answer, no_answer) for answer in those)
    return exact, overlap


def scores(predictions, answers) -> dict[str, float]:
    """{'exact_match', 'f1'} of version 1.1: texts [n], and for each question its answers, at least one."""
    exact, overlap = of_questions(predictions, answers, no_answer=False)
    return {"exact_match": float(exact.mean()), "f1": float(overlap.mean())}


def scores_with_no_answer(predictions, answers, null_odds, threshold: float) -> dict[str, float]:
    """The scores of version 2.0.

    Args:
      predictions: the most probable span of each question, as text [n].
      answers: [n] lists of texts, [] for a question without an answer.
      null_odds: float[n], larger for questions that have no answer.
      threshold: the prediction is '' where the odds are larger.

    Returns 'exact_match', 'f1', the same for questions with and without an answer (HasAns_*, NoAns_*), and
    the best scores of any threshold, with it (best_exact, best_exact_thresh, best_f1, best_f1_thresh).
    """
    has_answer = np.array([bool(those) for those in answers])
    raw = dict(zip(("exact", "f1"), of_questions(predictions, answers, True), strict=True))
    found = {}
    for name, values in raw.items():
        kept = np.where(np.asarray(null_odds) > threshold, ~has_answer, values)
        found["exact_match" if name == "exact" else name] = float(kept.mean())
        for group, members in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if members.any():
                found[f"{group}_{name}"] = float(kept[members].mean())
        best, best_threshold = _best_threshold(predictions, values, null_odds, has_answer)
        found |= {f"best_{name}": best, f"best_{name}_thresh": best_threshold}
    return found


def _best_threshold(predictions, values, null_odds, has_answer) -> tuple[float, float]:
    """(the best mean of the values [n] over all thresholds, the threshold).

    Starts with no question answered and answers them in the order of the odds. If answering none is best,
    SQuAD's script returns the threshold 0.0, which is right only if all odds are above 0; this returns a
    value below the lowest odds."""
    order = np.argsort(np.asarray(null_odds), kind="stable")
    wrong = np.array([-1.0 if prediction else 0.0 for prediction in predictions])
    gains = np.where(has_answer, values, wrong)[order]
    totals = (~has_answer).sum() + np.concatenate([[0.0], np.cumsum(gains)])
    best = int(totals.argmax())  # the first of equals
    threshold = float(null_odds[order[best - 1]]) if best else min(0.0, float(min(null_odds)) - 1)
    return float(totals[best] / len(values)), threshold
