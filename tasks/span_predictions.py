"""From the start and end logits of windows to the most probable spans of each question, as text.

Called by tasks/question_answering.py after all batches of a split; NumPy over many windows at once.
"""

import dataclasses
import unicodedata
from collections.abc import Iterator

import numpy as np

from tasks.metrics import softmax
from tasks.span_windows import SpanWindows

_CHUNK = 2048  # windows at a time


@dataclasses.dataclass(frozen=True)
class SpanPredictions:
    """The best spans of each question of a split. Those of question i are first[i] to first[i + 1], the
    best one first."""

    first: np.ndarray  # int64[number of questions + 1]
    characters: np.ndarray  # int32[m, 2] start and end in the text of the context
    scores: np.ndarray  # float32[m] start logit + end logit
    null_scores: np.ndarray  # float32[number of questions] score of no answer

    def spans(self, question: int, context: str) -> Iterator[tuple[str, int, float]]:
        """(text, start, score) of the spans of a question, best first; each text once."""
        seen = {""}
        for i in range(self.first[question], self.first[question + 1]):
            text, start = span_text(context, *self.characters[i].tolist())
            if text not in seen:
                seen.add(text)
                yield text, start, float(self.scores[i])

    def best(self, contexts) -> tuple[list[str], np.ndarray]:
        """(the best span of each question as text, '' without any; float64[n] the odds of no answer: its
        score - that of the best span)."""
        found = [next(self.spans(i, c), ("", 0, -np.inf)) for i, c in enumerate(contexts)]
        scores = np.array([score for *_, score in found])
        return [text for text, *_ in found], self.null_scores - scores


def span_text(context: str, start: int, end: int) -> tuple[str, int]:
    """(text, start) of a span without outer white space, with the combining characters that follow it."""
    while end < len(context) and unicodedata.combining(context[end]):
        end += 1
    text = context[start:end].rstrip()
    stripped = text.lstrip()
    return stripped, start + len(text) - len(stripped)


def probabilities(scores) -> list[float]:
    """The probability of each of the n best, which add up to 1."""
    return [round(float(p), 6) for p in softmax(np.array(scores)[None])[0]]


def best_spans(
    windows: SpanWindows, logits: np.ndarray, n_best: int, max_answer_len: int
) -> SpanPredictions:
    """The n best spans of each question over all of its windows.

    A span is in the context and has at most `max_answer_len` tokens; its score is the sum of its start and
    end logits. The score of no answer is the lowest of the question's windows (Devlin et al. 2019).

    logits float32[n, T, 2]: start and end.
    """
    chunks = [
        _best_in(windows, logits, np.arange(i, min(i + _CHUNK, len(windows))), n_best, max_answer_len)
        for i in range(0, len(windows), _CHUNK)
    ]  # fmt: skip
    rows, starts, ends, scores = (np.concatenate(each) for each in zip(*chunks, strict=True))
    questions = windows.questions[rows]
    first = windows.characters[windows.base[rows] + starts, 0]
    last = windows.characters[windows.base[rows] + ends, 1]
    # Windows overlap: a span that is found in several keeps its best score.
    order = np.lexsort((-scores, last, first, questions))
    keys = np.stack([questions, first, last])[:, order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
    order = order[is_new]
    order = order[np.lexsort((last[order], first[order], -scores[order], questions[order]))]
    num_questions = len(windows.has_answer)
    bounds = np.searchsorted(questions[order], np.arange(num_questions + 1))
    rank = np.arange(len(order)) - bounds[questions[order]]
    order = order[rank < n_best]
    null = logits[np.arange(len(windows)), windows.null].sum(-1)
    first_rows = np.searchsorted(windows.questions, np.arange(num_questions))
    return SpanPredictions(
        first=np.searchsorted(questions[order], np.arange(num_questions + 1)),
        characters=np.stack([first[order], last[order]], axis=1),
        scores=scores[order],
        null_scores=np.minimum.reduceat(null, first_rows),
    )


def _best_in(windows, logits, rows, n_best, max_answer_len):
    """(row, start, end, score) of the n best spans of each of these windows, four arrays [m]. Exact: a
    start that is not among the n whose best end is highest has no span among the n best."""
    width = min(logits.shape[1], int(windows.lengths[rows].max()))
    places, (low, high) = np.arange(width), windows.context[rows].T[:, :, None]
    in_context = (places >= low) & (places < high)
    start, end = np.where(in_context[None], logits[rows, :width].transpose(2, 0, 1), -np.inf)
    longest = min(max_answer_len, width)
    best = np.full_like(start, -np.inf)
    for n in range(longest):  # spans of n + 1 tokens
        np.maximum(
            best[:, : width - n], start[:, : width - n] + end[:, n:], out=best[:, : width - n]
        )
    starts = _largest(best, n_best)
    end = np.pad(end, ((0, 0), (0, longest)), constant_values=-np.inf)
    ends = starts[:, :, None] + np.arange(longest)
    number = np.arange(len(rows))[:, None]
    scores = start[number, starts][:, :, None] + end[number[:, :, None], ends]
    scores = scores.reshape(len(rows), -1)
    chosen = _largest(scores, n_best)
    scores = np.take_along_axis(scores, chosen, 1)
    starts = np.take_along_axis(starts, chosen // longest, 1)
    ends = starts + chosen % longest
    there = np.isfinite(scores)
    row = np.broadcast_to(rows[:, None], scores.shape)
    return row[there], starts[there], ends[there], scores[there]


def _largest(values, count):
    """Indices of the largest values of each row [n, count], in any order; fewer if there are fewer."""
    count = min(count, values.shape[1])
    return np.argpartition(-values, count - 1, axis=1)[:, :count]
