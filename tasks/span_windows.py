"""Questions and contexts as windows: rows of token ids that hold the question and a part of the context.

Between data/squad.py and tasks/question_answering.py, which makes batches of the windows.
"""

import dataclasses

import numpy as np

from data.examples import Examples
from data.special_tokens import SpecialTokenTemplate
from tasks.encoding import Encoded


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanWindows(Encoded):
    """The windows of a split, in the order of its questions. Positions are places in a row."""

    questions: np.ndarray  # int32[n] the question of each window, ascending
    context: np.ndarray  # int32[n, 2] position of the window's first token, and its end
    null: np.ndarray  # int32[n] position that means: no answer in this window
    spans: np.ndarray  # int32[n, 2] positions of the answer's first and last token, or `null` twice
    characters: np.ndarray  # int32[N, 2] start and end of each token in the text of its context
    # int64[n]: `characters[base + position]` has the characters of a position in the context
    base: np.ndarray
    has_answer: np.ndarray  # bool[number of questions]
    num_unreachable: int  # questions whose answer is in no window

    @property
    def num_examples(self):
        return len(self.has_answer)

    @property
    def strata(self):
        return self.has_answer.astype(np.int32)

    def rows_of(self, examples):
        return np.flatnonzero(np.isin(self.questions, examples))

    def examples_of(self, rows):
        return self.questions[rows]

    def describe_truncated(self, name, task):
        """Lines about windows, truncated questions and answers that no window holds."""
        lines = [
            f"{name}: {len(self):,} windows of {task.max_seq_len} tokens"
            + f"; {(~self.has_answer).sum():,} questions have no answer" * task.no_answer
        ]
        if self.num_truncated:
            lines.append(
                f"{self.num_truncated:,} {name} questions were truncated to {task.max_query_len} tokens "
                "(task.max_query_len)"
            )
        if self.num_unreachable:
            lines.append(
                f"warning: {self.num_unreachable:,} {name} questions have an answer that is in no window "
                "whole, or no token: they are trained as questions without an answer"
            )
        return lines


def encode_windows(
    examples: Examples, tokenizer, template: SpecialTokenTemplate, *, length: int, max_query_len: int,
    stride: int, null_is_last: bool, pad: int,
) -> SpanWindows:  # fmt: skip
    """The windows of the questions of a split, with the special tokens of a pair of texts.

    A context longer than a window is covered by several that overlap. The target is the first answer of a
    question.

    Args:
      examples: with 'question', 'context' and, unless unlabeled, 'answers': [(text, start)] of each.
      length: tokens of a row.
      max_query_len: a question keeps so many tokens; others are counted in `num_truncated`.
      stride: tokens that two windows of a context share.
      null_is_last: whether the last token means "no answer", not the first.

    Raises ValueError if a window may be too short for new tokens beside a question and the overlap.
    """
    added = template.num_tokens + len(template.separator)
    shortest = length - added - max_query_len
    if stride >= shortest:
        raise ValueError(
            f"task.max_seq_len={length} leaves {max(0, shortest)} tokens of the context beside {added} "
            f"special ones and max_query_len={max_query_len} of the question, and windows share "
            f"stride={stride}: raise task.max_seq_len, or lower task.max_query_len or task.stride"
        )
    questions = tokenizer.encode_batch(examples.get("question"))
    contexts = {text: number for number, text in enumerate(dict.fromkeys(examples.get("context")))}
    encoded = tokenizer.encode_with_offsets(list(contexts))
    sizes = [len(ids) for ids, _ in encoded]
    first_of = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    labels = examples.get("answers") or [[]] * len(questions)
    rows, num_unreachable = [], 0
    columns = []  # (example, start, end, null, first, last, base)
    for example, (question, text) in enumerate(
        zip(questions, examples.get("context"), strict=True)
    ):
        ids, characters = encoded[contexts[text]]
        question = question[:max_query_len]
        head = np.concatenate([template.prefix, question, template.separator]).astype(np.int32)
        answer = _tokens_of(labels[example][0], characters) if labels[example] else None
        reached = not labels[example]
        for start, end in window_spans(len(ids), length - added - len(question), stride):
            row = np.concatenate([head, ids[start:end], template.suffix]).astype(np.int32)
            shift = len(head) - start
            null = 0
            # The last context token may be an answer: then the one before the context.
            if null_is_last:
                null = len(row) - 1 if template.suffix else len(head) - 1
            span = (null, null)
            if answer and start <= answer[0] and answer[1] < end:
                span, reached = (answer[0] + shift, answer[1] + shift), True
            rows.append(row)
            base = first_of[contexts[text]] - shift
            columns.append((example, len(head), end + shift, null, *span, base))
        num_unreachable += not reached
    example, start, end, null, first, last, base = np.array(columns, np.int64).T
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.full((len(rows), length), max(pad, 0), np.int32)
    places = np.arange(length)
    tokens[places < lengths[:, None]] = np.concatenate(rows)
    in_second = (places >= start[:, None]) & (places < lengths[:, None])
    texts = [*questions, *(ids for ids, _ in encoded)]
    unknown = tokenizer.special_ids()["unk"]
    context, spans = np.stack([start, end], 1), np.stack([first, last], 1)
    return SpanWindows(
        tokens=tokens,
        lengths=lengths,
        token_type_ids=in_second.astype(np.int32),
        labels=np.full(len(rows), -1, np.int32),
        num_truncated=sum(len(question) > max_query_len for question in questions),
        num_unknown=sum(int((ids == unknown).sum()) for ids in texts),
        num_tokens=sum(map(len, texts)),
        questions=example.astype(np.int32),
        context=context.astype(np.int32),
        null=null.astype(np.int32),
        spans=spans.astype(np.int32),
        characters=np.concatenate([characters for _, characters in encoded]),
        base=base,
        has_answer=np.array([bool(those) for those in labels]),
        num_unreachable=num_unreachable,
    )


def window_spans(num_tokens: int, size: int, stride: int) -> list[tuple[int, int]]:
    """(start, end) of windows of at most `size` tokens that cover all tokens: two neighbors share `stride`
    tokens. There is at least one window, and none is inside another."""
    step = size - stride
    count = 1 + max(0, -(-(num_tokens - size) // step))
    return [(i * step, min(i * step + size, num_tokens)) for i in range(count)]


def _tokens_of(answer: tuple[str, int], characters: np.ndarray) -> tuple[int, int] | None:
    """(first, last) of the tokens that share characters [n, 2] with an answer (text, start); None if no
    token does."""
    text, start = answer
    first = int(np.searchsorted(characters[:, 1], start, side="right"))
    last = int(np.searchsorted(characters[:, 0], start + len(text), side="left")) - 1
    return (first, last) if first <= last else None
