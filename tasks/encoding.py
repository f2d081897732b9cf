"""A labeled split as arrays of token ids, with the special tokens of an architecture.

Between data/labeled.py and the batches of a task.
"""

import dataclasses

import numpy as np

from data.examples import Examples
from data.special_tokens import SpecialTokenTemplate, encode_example, encode_pair
from data.tokenizer import NOTABLE_SHARE, describe_unknown


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A split as arrays, in the order of its examples."""

    tokens: np.ndarray  # int32[n, length] with special tokens, then padding
    lengths: np.ndarray  # int32[n] without the padding
    token_type_ids: np.ndarray  # int32[n, length] 1: second text of a pair
    labels: np.ndarray  # int32[n] index of the label's name; -1: the split has no labels
    num_truncated: int
    num_unknown: int = 0  # tokens of the texts that are the unknown token
    num_tokens: int = 0  # tokens of the texts

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_examples(self) -> int:
        """Examples; each has at least one row."""
        return len(self)

    def rows_of(self, examples: np.ndarray) -> np.ndarray:
        """The rows int64[m] of the examples int64[n], in their order."""
        return examples

    def examples_of(self, rows: np.ndarray) -> np.ndarray:
        """The example int64[n] of each of the rows int64[n]."""
        return rows

    @property
    def strata(self) -> np.ndarray:
        """int[n]: the class of each example, whose shares a label budget keeps; one class for labels of
        another kind."""
        is_class = self.labels.ndim == 1 and self.labels.dtype.kind == "i"
        return self.labels if is_class else np.zeros(len(self), np.int32)

    def describe_unknown(self, name: str) -> list[str]:
        """Lines for the log about a notable share of unknown tokens."""
        return describe_unknown(name, self.num_unknown, self.num_tokens, NOTABLE_SHARE)

    def describe_truncated(self, name: str, task) -> list[str]:
        """Lines for the log about the texts that `task` truncates; [] if there are none."""
        if not self.num_truncated:
            return []
        return [
            f"{self.num_truncated:,} of {len(self):,} {name} examples were truncated to "
            f"{task.max_seq_len} tokens"
        ]


def encode(
    examples: Examples, tokenizer, template: SpecialTokenTemplate, length: int, label_names,
    pad: int,
) -> Encoded:  # fmt: skip
    """The examples of a split as token ids, with the special tokens of the architecture.

    Raises ValueError for a label that is not among `label_names`, and if the special tokens alone are
    longer than `length`.
    """
    first = tokenizer.encode_batch(list(examples.text))
    pairs = examples.text_pair
    second = tokenizer.encode_batch(list(pairs)) if pairs else [None] * len(first)
    # A tokenizer without a padding token has pad -1: any token will do, since padding is never read.
    tokens = np.full((len(first), length), max(pad, 0), np.int32)
    token_type_ids = np.zeros_like(tokens)
    lengths = np.zeros(len(first), np.int32)
    num_truncated = 0
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if b is None:
            ids = encode_example(a, None, template, length)
        else:
            ids, start = encode_pair(a, b, template, length)
            token_type_ids[i, start : len(ids)] = 1
        lengths[i] = len(ids)
        tokens[i, : len(ids)] = ids
        pair_length = 0 if b is None else len(b) + len(template.separator)
        num_truncated += template.num_tokens + len(a) + pair_length > len(ids)
    labels = label_ids(examples.label, len(first), label_names)
    texts = [ids for ids in (*first, *second) if ids is not None]
    unknown = tokenizer.special_ids()["unk"]
    num_unknown = sum(int((ids == unknown).sum()) for ids in texts)
    return Encoded(
        tokens, lengths, token_type_ids, labels, num_truncated, num_unknown, sum(map(len, texts))
    )


def label_ids(labels, count: int, label_names) -> np.ndarray:
    """int32[count]: the index of each label's name, -1 everywhere without labels.

    Raises ValueError for a label that is not among `label_names`."""
    if not labels:
        return np.full(count, -1, np.int32)
    ids = {name: number for number, name in enumerate(label_names)}
    unknown = sorted(set(labels) - set(ids))
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} is not in the training split, which has {', '.join(label_names)}: "
            "correct the label, or add examples of it to train"
        )
    return np.array([ids[label] for label in labels], np.int32)
