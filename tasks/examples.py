"""A config's labelled examples, opened: loaded, encoded, the label budget drawn, the task made.
finetune.py trains on them and tools.inspect shows them: one way to know what a step reads.
Which example a step reads is arithmetic on its number (tasks/batches.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data import framing, labelled, vectors
from tasks import batches, classification

_STEP = 8  # tokens between the widths of batches of like length


@dataclass(frozen=True)
class Examples:
    """What a finetuning run reads."""

    names: tuple[str, ...]  # of the classes
    encoded: dict[str, classification.Encoded]  # by split
    chosen: np.ndarray  # int64[n] the training examples of the label budget
    fingerprint: str  # of the labelled set
    task: classification.Classification
    window: int  # TaskConfig.alike

    def at(self, number: int, batch_size: int, seed: int) -> np.ndarray:
        """Which training examples update `number` (0-based) reads, int64[batch_size]."""
        if self.window:
            lengths = self.encoded["train"].lengths[self.chosen]
            return self.chosen[batches.alike_at(number, batch_size, lengths, self.window, seed)]
        return self.chosen[batches.indices_at(number, batch_size, len(self.chosen), seed)]

    def width(self, indices: np.ndarray) -> int:
        """Tokens that a batch of those training examples is padded to: with batches of like length the
        least multiple of 8 that holds them, so that few programs are compiled; else task.length."""
        split = self.encoded["train"]
        if not self.window:
            return split.tokens.shape[1]
        return min(-(-int(split.lengths[indices].max()) // _STEP) * _STEP, split.tokens.shape[1])

    def share(self, batch_size: int, seed: int) -> float:
        """The mean of `width` over the steps of one window, as a share of task.length."""
        read = [self.width(self.at(n, batch_size, seed)) for n in range(self.window)]
        return float(np.mean(read)) / self.encoded["train"].tokens.shape[1] if read else 1.0


def open_examples(config, model, tokenizer, seed: int, say: Callable[[str], None]) -> Examples:
    """The Examples of a TaskConfig for a ModelConfig and a tokenizer.

    `seed` draws the label budget; `say(line)` hears of what has to be made first. Raises ValueError
    or FileNotFoundError of one line for what is wrong with the source.
    """
    splits = labelled.load(
        config.source, config.text, config.text_pair, config.label,
        validation_fraction=config.validation_fraction, log=say,
    )  # fmt: skip
    if tokenizer.whole_words:
        texts = splits["train"].text + (splits["train"].text_pair or [])
        say(f"coverage of the training examples: {vectors.coverage(tokenizer, texts)}")
    names, ids = splits.label_names, tokenizer.special_ids()
    frame = framing.frame_for(model.architecture, ids, tokenizer.frame)
    encoded = {
        split: classification.encode(examples.text, examples.text_pair, examples.label, tokenizer,
                                     frame, config.length, names, ids["pad"])
        for split, examples in splits.items()
    }  # fmt: skip
    task = classification.Classification(
        model.architecture, len(names), model.width, ids["pad"], ids["start"],
        config.head_dropout, config.pooler, model.token_types > 1, config.decoder_input,
        config.reading, config.head_bias, config.pooler_activation, config.pooler_norm,
    )  # fmt: skip
    chosen = batches.subset(encoded["train"].labels, config.examples, seed)
    return Examples(tuple(names), encoded, chosen, splits.fingerprint, task, config.alike)
