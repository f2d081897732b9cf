"""Objective: the protocol of pretraining objectives, (rng, raw row of tokens) -> Batch.
The train step vmaps `corrupt` over raw rows; objectives/lm_loss.py has the loss of the Batch.
An objective is a frozen dataclass of hyperparameters: hashable, without arrays.
"""

import functools
from collections.abc import Hashable, Iterable
from dataclasses import astuple, dataclass, replace
from typing import ClassVar

import jax
import numpy as np

from models.config import option
from objectives.batch import Batch
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")  # Transformers
EMBEDDINGS = "embeddings"  # word vectors without a Transformer

# architecture -> special tokens that its rows and inputs contain. Padding needs none: its segment is 0.
_REQUIRED = {
    "encoder": ("cls", "sep"),
    "decoder": ("eos",),
    "encoder_decoder": ("eos", "start"),
    EMBEDDINGS: ("eos",),
}


@dataclass(frozen=True)
class ObjectiveSpec:
    """The architecture, vocabulary and sequence length that an objective works with; static."""

    architecture: str  # one of ARCHITECTURES, or EMBEDDINGS
    vocabulary: Vocabulary
    seq_len: int  # T, tokens per sequence that the model reads
    unigram: Unigram | None = None  # token frequencies, for objectives that sample by frequency

    def __post_init__(self):
        if self.architecture not in _REQUIRED:
            raise ValueError(
                f"architecture {self.architecture!r} is unknown: "
                f"expected one of {', '.join(_REQUIRED)}"
            )
        self.require(*_REQUIRED[self.architecture])

    def require(self, *special_tokens: str) -> None:
        """Raises ValueError unless the tokenizer has each of these special tokens."""
        missing = [name for name in special_tokens if getattr(self.vocabulary, name) < 0]
        if missing:
            raise ValueError(
                f"the tokenizer has no token for {', '.join(missing)}: train a tokenizer with "
                "this project, or choose an architecture or objective that does not need it"
            )


@dataclass(frozen=True)
class SequenceLengths:
    """The static lengths of one row."""

    raw: int  # tokens of the raw row that `corrupt` takes
    inputs: int  # T of Batch.inputs
    targets: int  # N of Batch.targets, and U of Batch.decoder_inputs
    # Tokens that consecutive raw rows share. 1 for an encoder, because [CLS] replaces the first token
    # of a row; 1 if the last token of a row is a target but not an input, or if the first one cannot be
    # a target; else 0.
    overlap: int

    @classmethod
    def max_of(cls, lengths: Iterable["SequenceLengths"]) -> "SequenceLengths":
        """The maximum of each length, and the minimum of the overlaps, so that no token is an input twice."""
        raw, inputs, targets, overlap = zip(*map(astuple, lengths), strict=True)
        return cls(max(raw), max(inputs), max(targets), min(overlap))


@dataclass(frozen=True)
class Objective:
    """A pretraining objective. Subclasses define `name`, `unsupported`, `lengths`, `corrupt`,
    `expected_num_targets`, and `reconstruct` or `not_invertible_because`. An objective with its own
    loss also subclasses objectives.lm_loss.TrainingLoss.

    A raw row is a slice of the token stream. Each of its documents ends with a closing token ([SEP] or
    [EOS]); the first and the last document may be cut; padding follows the end of the corpus.
    Corruption and attention never cross a document boundary, except that a pair of next_sentence may
    join two documents.
    """

    name: ClassVar[str]
    unsupported: ClassVar[dict[str, str]] = {}  # architecture -> why the objective excludes it
    num_token_types: ClassVar[int] = 0  # token types of the inputs (BERT's sentence pairs: 2)
    not_invertible_because: ClassVar[str] = ""  # why `reconstruct` is impossible
    is_likelihood: ClassVar[bool] = (
        False  # whether the loss is the text's negative log likelihood: bits per byte
    )

    z_loss: float = option(
        0.0, "weight of log(Z)^2 in the training loss of each target", min=0.0, kw_only=True
    )

    @property
    def architectures(self) -> tuple[str, ...]:
        """The supported architectures."""
        return tuple(a for a in ARCHITECTURES if a not in self.unsupported)

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        """The lengths of a row. Raises ValueError if `spec` does not allow the objective."""
        raise NotImplementedError

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        """row int32[raw] -> its Batch, without a batch axis. All random draws depend on `rng`."""
        raise NotImplementedError

    @property
    def branch_key(self) -> Hashable:
        """Objectives with equal keys differ only in numbers that `corrupt_component` looks up in a table, so
        a mixture compiles and runs their corruption once."""
        return self

    def corrupt_component(self, components: tuple, index, spec, rng, row: jax.Array) -> Batch:
        """components[index].corrupt(spec, rng, row), index int32[]. All components have the same
        `branch_key`. `row` and the Batch have the maximum of their lengths."""
        return self.corrupt(spec, rng, row)

    def corrupt_batch(self, spec: ObjectiveSpec, rngs: jax.Array, rows: jax.Array) -> Batch:
        """rngs [B], rows int32[B,raw] -> Batch [B,...]. Rows are independent, unless an objective
        overrides this to draw something once per batch (from the first rng, on every host)."""
        return jax.vmap(functools.partial(self.corrupt, spec))(rngs, rows)

    def evaluation_batches(self, spec: ObjectiveSpec, rngs: jax.Array, rows: jax.Array) -> dict:
        """{part: Batch [B,...]} of an evaluation; part is '' for an objective without parts."""
        return {"": self.corrupt_batch(spec, rngs, rows)}

    def evaluation_parts(self) -> dict[str, tuple[float, "Objective"]]:
        """{part of `evaluation_batches`: (its coefficient in the validation loss, its objective)}."""
        return {"": (1.0, self)}

    def reconstruct(self, spec: ObjectiveSpec, batch: Batch) -> np.ndarray:
        """The inverse of `corrupt` for one row, on the host: -> raw row int32[raw]. Tests use it to
        show that no text is lost. Raises NotImplementedError if the objective is not invertible."""
        why = self.not_invertible_because or "define `reconstruct` or `not_invertible_because`"
        raise NotImplementedError(f"{self.name} cannot reconstruct its row: {why}")

    def expected_num_targets(self, spec: ObjectiveSpec) -> float:
        """Mean number of targets in a row that one long document fills: for the log, the manifest,
        and a test that counts them."""
        raise NotImplementedError

    def describe(self, spec: ObjectiveSpec) -> str:
        """One log line: the number of tokens read and predicted."""
        lengths, expected = self.lengths(spec), self.expected_num_targets(spec)
        return (
            f"{self.name}: {lengths.raw} raw tokens per row, {lengths.inputs} input tokens, "
            f"{expected:.4g} predicted ({expected / lengths.raw:.1%}) in {lengths.targets} slots"
        )

    def for_evaluation(self) -> "Objective":
        """The objective for evaluation: the same one without z-loss."""
        return replace(self, z_loss=0.0)
