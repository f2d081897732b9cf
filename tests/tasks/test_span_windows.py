"""Windows of a context, and that answers are found in the tokens of any tokenizer."""

import numpy as np
import pytest

from data import tokenizer as tokenizers
from data.examples import Examples
from data.special_tokens import SpecialTokenTemplate
from tasks.span_predictions import best_spans, span_text
from tasks.span_windows import encode_windows, window_spans

PAD, CLS, SEP = 0, 2, 3


def test_windows_cover_every_token_and_none_is_inside_another():
    for num_tokens in range(40):
        for size in (1, 3, 8):
            for stride in range(size):
                spans = window_spans(num_tokens, size, stride)
                starts, ends = zip(*spans, strict=True)
                covered = {i for a, b in spans for i in range(a, b)}
                assert (
                    covered == set(range(num_tokens)) and starts[0] == 0 and ends[-1] == num_tokens
                )
                assert all(b - a <= size for a, b in spans)
                assert all(np.diff(starts) == size - stride) and all(np.diff(ends) > 0)
    assert window_spans(10, 6, 2) == [(0, 6), (4, 10)]
    assert window_spans(11, 6, 2) == [(0, 6), (4, 10), (8, 11)]


def test_a_span_has_no_outer_space_and_the_combining_characters_after_it():
    assert span_text("a  bc d", 1, 6) == ("bc", 3)
    assert span_text("e\u0301te\u0301 x", 0, 4) == ("e\u0301te\u0301", 0)
    assert span_text("x \u00a0 y", 1, 4)[0] == ""


TEXTS = [
    "Ünïcödé Paris, e\u0301te\u0301 in\u00a0London (1999). 日本語 テスト \U0001f600 the end-to-end ﬁne"
] * 3


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "word"])
def test_answers_are_found_by_the_offsets_of_any_tokenizer(kind, lowercase):
    """The tokens of an answer cover it, and those inside a word no more than the word."""
    tokenizer = tokenizers.train(
        TEXTS, type=kind, vocab_size=700, lowercase=lowercase, min_frequency=1
    )
    context = (
        "An e\u0301te\u0301 in Paris,\u00a0the \U0001f600 (日本語) end. " * 3
        + "x" * 150
        + " Ünïcödé"
    )
    answers = ["Paris", "e\u0301te\u0301", "\U0001f600", "日本語", "Ünïcödé", "Paris,\u00a0the"]
    examples = Examples({
        "question": ["who?"] * len(answers), "context": [context] * len(answers),
        "answers": [[(answer, context.rindex(answer))] for answer in answers],
    })  # fmt: skip
    template = SpecialTokenTemplate((CLS,), (SEP,), (SEP,))
    windows = encode_windows(
        examples, tokenizer, template, length=400, max_query_len=20, stride=16, null_is_last=False,
        pad=PAD,
    )  # fmt: skip
    logits = np.zeros((len(windows), 400, 2), np.float32)
    logits[np.arange(len(windows))[:, None], windows.spans, [0, 1]] = 5.0
    assert windows.num_unreachable == 0 and (windows.spans > 0).all()
    best, _ = best_spans(windows, logits, 1, 400).best([context] * len(answers))
    for answer, text in zip(answers, best, strict=True):
        assert answer in text and (text == answer or kind != "wordpiece")
        assert len(text) <= len(answer) + 2
