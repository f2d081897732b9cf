"""A labeled split as arrays of token ids, with the special tokens of an architecture.

Between data/labeled.py and the batches of a task.
"""

import dataclasses

import numpy as np

from data.labeled import LabeledSplit
from data.special_tokens import SpecialTokenTemplate, encode_example


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A split as arrays, in the order of its examples."""

    tokens: np.ndarray  # int32[n, length] with special tokens, then padding
    lengths: np.ndarray  # int32[n] without the padding
    token_type_ids: np.ndarray  # int32[n, length] 1: second text of a pair
    labels: np.ndarray  # int32[n] index of the label's name; -1: the split has no labels
    num_truncated: int

    def __len__(self) -> int:
        return len(self.lengths)


def encode(
    examples: LabeledSplit, tokenizer, template: SpecialTokenTemplate, length: int, label_names,
    pad: int,
) -> Encoded:  # fmt: skip
    """The examples of a split as token ids, with the special tokens of the architecture.

    Raises ValueError for a label that is not among `label_names`, and if the special tokens alone are
    longer than `length`.
    """
    first = tokenizer.encode_batch(list(examples.text))
    pairs = examples.text_pair
    second = tokenizer.encode_batch(list(pairs)) if pairs else [None] * len(first)
    tokens = np.full((len(first), length), pad, np.int32)
    token_type_ids = np.zeros_like(tokens)
    lengths = np.zeros(len(first), np.int32)
    num_truncated = 0
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        ids = encode_example(a, b, template, length)
        lengths[i] = len(ids)
        tokens[i, : len(ids)] = ids
        pair_length = 0 if b is None else len(b) + len(template.separator)
        num_truncated += template.num_tokens + len(a) + pair_length > len(ids)
        if b is not None:  # a text never contains the separator: text is never a special token
            start = len(template.prefix)
            separator = start + int(np.argmax(ids[start:] == template.separator[0]))
            token_type_ids[i, separator + len(template.separator) : len(ids)] = 1
    labels = _label_ids(examples.label, len(first), label_names)
    return Encoded(tokens, lengths, token_type_ids, labels, num_truncated)


def _label_ids(labels, count, label_names):
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
