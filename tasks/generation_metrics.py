"""Scores of generated texts against references: BLEU and chrF (sacrebleu), ROUGE (rouge-score), exact match.

Corpus scores in percent, as papers print them; a text may have several references.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence

# Metric -> (the names of its scores, the package that computes it and its module, '' for none).
METRICS = {
    "bleu": (("bleu",), ("sacrebleu", "sacrebleu")),
    "chrf": (("chrf",), ("sacrebleu", "sacrebleu")),
    "rouge": (("rouge1", "rouge2", "rougeL"), ("rouge-score", "rouge_score")),
    "exact_match": (("exact_match",), ("", "")),
}
# Score -> the metric that has it.
METRIC_OF = {name: metric for metric, (names, _) in METRICS.items() for name in names}


def check(metrics: Sequence[str]) -> None:
    """Raises ValueError, in one line, for an unknown metric and for one whose package is missing."""
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(
                f"task.generation_metrics has {metric!r}: expected some of {', '.join(METRICS)}"
            )
        package, module = METRICS[metric][1]
        if module and importlib.util.find_spec(module) is None:
            raise ValueError(
                f"{metric} needs the package {package}: run `pip install -e .[metrics]`, or leave it out of "
                "task.generation_metrics"
            )


def score(
    metrics: Sequence[str], texts: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, str]]:
    """({score: percent}, {metric: signature, with its options and the version of its package}).

    references: of each text, at least one.
    """
    scores, signatures = {}, {}
    for metric in metrics:
        found, signature = _FUNCTIONS[metric](texts, references)
        scores |= found
        signatures[metric] = signature
    return scores, signatures


def _sacrebleu(name, metric, texts, references):
    streams = max(map(len, references))
    # sacrebleu takes the first reference of all texts, then the second one, ...; None where there is none.
    padded = [[*each, *[None] * (streams - len(each))] for each in references]
    found = metric.corpus_score(list(texts), [list(stream) for stream in zip(*padded, strict=True)])
    return {name: found.score}, str(metric.get_signature())


def _bleu(texts, references):
    from sacrebleu.metrics import BLEU

    return _sacrebleu("bleu", BLEU(), texts, references)


def _chrf(texts, references):
    from sacrebleu.metrics import CHRF

    return _sacrebleu("chrf", CHRF(), texts, references)


def _rouge(texts, references):
    """The mean of F1 over the texts; of several references the best one, for each score (Lin 2004)."""
    from rouge_score.rouge_scorer import RougeScorer

    names = METRICS["rouge"][0]
    scorer, totals = RougeScorer(list(names), use_stemmer=True), dict.fromkeys(names, 0.0)
    for text, own in zip(texts, references, strict=True):
        found = scorer.score_multi(list(own), text)
        totals = {name: total + found[name].fmeasure for name, total in totals.items()}
    scores = {name: 100 * total / len(texts) for name, total in totals.items()}
    version = importlib.metadata.version("rouge-score")
    return scores, f"F1|refs:best|stemmer:porter|version:rouge-score {version}"


def _exact_match(texts, references):
    """White space at the ends does not count."""
    equal = [
        text.strip() in {reference.strip() for reference in own}
        for text, own in zip(texts, references, strict=True)
    ]
    return {"exact_match": 100 * sum(equal) / len(equal)}, "whole text|refs:any"


_FUNCTIONS = {"bleu": _bleu, "chrf": _chrf, "rouge": _rouge, "exact_match": _exact_match}
