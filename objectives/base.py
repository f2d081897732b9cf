"""Objective: the protocol of pretraining, and what every language-modelling objective shares.
The step vmaps `corrupt` over raw rows, then minimises `losses`; entry files read `shapes`.
An objective is a frozen dataclass of its hyperparameters: it hashes, and it holds no array.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from objectives.batch import Batch
from objectives.loss import chunked_cross_entropy
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")  # of a Transformer
EMBEDDINGS = "embeddings"  # a table alone

# Why objectives of a Transformer make no sense for a table alone.
NO_STATES = "vectors of single words have no hidden states; skip_gram trains them"


def knob(default, help, **metadata):
    """A hyperparameter: its default, a line of help, and choices=, min= or max= for the checker."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class Setting:
    """What an objective works on: all static."""

    architecture: str  # one of ARCHITECTURES, or EMBEDDINGS
    vocabulary: Vocabulary
    length: int  # T, tokens that the model reads in one row
    unigram: Unigram | None = None  # how often pieces occur, for objectives that draw by it

    def __post_init__(self):
        needed = {
            "encoder": ("pad", "cls", "sep"),
            "decoder": ("pad", "eos"),
            "encoder_decoder": ("pad", "eos", "start"),
            EMBEDDINGS: ("pad", "eos"),
        }
        if self.architecture not in needed:
            raise ValueError(
                f"architecture {self.architecture!r} is unknown: "
                f"expected one of {', '.join(needed)}"
            )
        self.require(*needed[self.architecture])

    def require(self, *roles: str) -> None:
        """Raises ValueError unless the tokenizer has a token in each of these roles."""
        missing = [role for role in roles if getattr(self.vocabulary, role) < 0]
        if missing:
            raise ValueError(
                f"the tokenizer has no token for {', '.join(missing)}: "
                "use one that was trained here, or an objective that does without"
            )


@dataclass(frozen=True)
class Shapes:
    """The static lengths of one row."""

    raw: int  # tokens of the framed stream that `corrupt` takes
    inputs: int  # T of Batch.inputs
    targets: int  # N of Batch.targets (and U of Batch.decoder)
    overlap: int  # tokens that a raw row shares with the one before it


class Objective:
    """A way of learning from plain text. Subclasses give `name`, `architectures`, `shapes` and
    `corrupt`, and what of the rest they do otherwise.

    A raw row is a slice of the framed stream: whole documents and the ends of two, each closed by
    its closing token, with padding after the end of the corpus. Everything that `corrupt` does
    stays within a document, and so does everything that the model may see.
    """

    name: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    unfit: ClassVar[dict[str, str]] = {}  # architecture -> why this objective makes no sense there
    likelihood: ClassVar[bool] = False  # the loss is that of the text itself: bits per byte

    def shapes(self, setting: Setting) -> Shapes:
        """The lengths of a row. Raises ValueError where `setting.length` allows none."""
        raise NotImplementedError

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        """row int32[raw] -> Batch of that one row (no batch axis), drawn by `key`."""
        raise NotImplementedError

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        """The raw row int32[raw] out of one row's Batch, on the host: nothing was lost."""
        raise NotImplementedError(f"{self.name} does not claim to restore its row")

    def targets_expected(self, setting: Setting) -> float:
        """How many targets a row full of one long document has, on average."""
        raise NotImplementedError

    def describe(self, setting: Setting) -> str:
        """One line for the console: what is read and how much of it is predicted."""
        shapes, expected = self.shapes(setting), self.targets_expected(setting)
        return (
            f"{self.name}: {shapes.raw} raw tokens a row, {shapes.inputs} read, "
            f"{expected:.4g} predicted ({expected / shapes.raw:.1%}) in {shapes.targets} slots"
        )

    def coefficients(self) -> dict[str, float]:
        """The losses that are minimised; what else `losses` returns is a metric."""
        return {"lm": 1.0}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The denominator of each minimised loss, from the batch alone. The step takes them of the
        whole batch, so that microbatches add up to it (law 4)."""
        return {"lm": batch.weights.sum()}

    def losses(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """{name: (sum, weight)}; key drives dropout, None is deterministic."""
        hidden = hidden_states(model, params, batch, key)
        features = model.apply({"params": params}, hidden, method="readout")
        table, bias = model.apply({"params": params}, method="unembedding")
        total, weight, correct = chunked_cross_entropy(
            features, table, bias, batch.targets, batch.weights, model.config.vocab_size
        )
        return {"lm": (total, weight), "accuracy": (correct, weight)}


def hidden_states(model, params, batch: Batch, key: jax.Array | None) -> jax.Array:
    """Hidden states [B,N,D] at the predicted positions, so that a head runs on those alone."""
    hidden = model.apply(
        {"params": params},
        batch.inputs,
        batch.decoder,
        deterministic=key is None,
        rngs={} if key is None else {"dropout": key},
    )
    if batch.indices is None:
        return hidden
    return jnp.take_along_axis(hidden, batch.indices[:, :, None], axis=1, mode="clip")
