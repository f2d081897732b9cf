"""Objective: the protocol of pretraining, and what every language-modelling objective shares.
The step vmaps `corrupt` over raw rows, then minimises `losses`; entry files read `shapes`.
An objective is a frozen dataclass of its hyperparameters: it hashes, and it holds no array.
"""

import functools
from collections.abc import Hashable, Iterable
from dataclasses import astuple, dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import knob
from objectives.batch import Batch
from objectives.loss import chunked_cross_entropy
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")  # of a Transformer
EMBEDDINGS = "embeddings"  # a table alone

# Why objectives of a Transformer make no sense for a table alone.
NO_STATES = "vectors of single words have no hidden states; skip_gram trains them"


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
    # Tokens that a raw row shares with the one before it. An encoder's row needs one: [CLS] stands
    # in its place. Elsewhere 1 where the last token is a target and not read, else 0.
    overlap: int

    @classmethod
    def largest(cls, each: Iterable["Shapes"]) -> "Shapes":
        """Shapes with room for a row of any of them."""
        raw, inputs, targets, overlap = zip(*map(astuple, each), strict=True)
        return cls(max(raw), max(inputs), max(targets), min(overlap))


@dataclass(frozen=True)
class Objective:
    """A way of learning from plain text. Subclasses give `name`, `architectures`, `unfit`, `shapes`,
    `targets_expected` and `corrupt`; `inverse`, or why there is none; and what of the rest they do
    otherwise. One whose loss is not the cross entropy of its targets gives `losses`, and with it
    `coefficients`, `weights` and `answers`, which speak of the same losses; and if it has a head of
    its own, `initialise` and `networks`.

    A raw row is a slice of the framed stream: whole documents and the ends of two, each closed by
    its closing token, with padding after the end of the corpus. Everything that `corrupt` does
    stays within a document, and so does everything that the model may see.
    """

    name: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    unfit: ClassVar[dict[str, str]] = {}  # architecture -> why this objective makes no sense there
    token_types: ClassVar[int] = 0  # that its sequences tell apart (BERT: 2, for pairs of texts)
    irreversible: ClassVar[str] = ""  # why inputs and targets do not give the row back
    likelihood: ClassVar[bool] = False  # the loss is that of the text itself: bits per byte

    z_loss: float = knob(
        0.0,
        "times log(Z)^2, added to the loss of each target while training",
        min=0.0,
        kw_only=True,
    )

    def shapes(self, setting: Setting) -> Shapes:
        """The lengths of a row. Raises ValueError where `setting.length` allows none."""
        raise NotImplementedError

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        """row int32[raw] -> Batch of that one row (no batch axis), drawn by `key`."""
        raise NotImplementedError

    @property
    def program(self) -> Hashable:
        """What `corrupt` is compiled from. Objectives that differ only in what `corrupt_one_of`
        reads from a table have an equal one, and a mixture runs it once for all of them."""
        return self

    def corrupt_one_of(
        self, members: tuple, which: jax.Array, setting: Setting, key: jax.Array, row: jax.Array
    ) -> Batch:
        """members[which int32[]].corrupt, of members of this `program`. The row int32[raw] has room
        for any of them, and the Batch the largest of their shapes."""
        return self.corrupt(setting, key, row)

    def corrupt_batch(self, setting: Setting, keys: jax.Array, rows: jax.Array) -> Batch:
        """keys [B], rows int32[B,raw] -> Batch [B,...]: each row by itself, unless the objective
        draws something for the whole batch (by its first key, so that it is the same anywhere)."""
        return jax.vmap(functools.partial(self.corrupt, setting))(keys, rows)

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        """The raw row int32[raw] out of one row's Batch, on the host: nothing was lost.
        Raises NotImplementedError with the reason where the objective is `irreversible`."""
        why = self.irreversible or "it has no inverse; write one, or say why not in `irreversible`"
        raise NotImplementedError(f"{self.name} does not restore its row: {why}")

    def targets_expected(self, setting: Setting) -> float:
        """How many targets a row full of one long document has, on average: for the console, the
        manifest, and a test that counts them."""
        raise NotImplementedError

    def describe(self, setting: Setting) -> str:
        """One line for the console: what is read and how much of it is predicted."""
        shapes, expected = self.shapes(setting), self.targets_expected(setting)
        return (
            f"{self.name}: {shapes.raw} raw tokens a row, {shapes.inputs} read, "
            f"{expected:.4g} predicted ({expected / shapes.raw:.1%}) in {shapes.targets} slots"
        )

    def initialise(self, model, key: jax.Array, batch: Batch) -> dict:
        """Fresh parameters: those of the network with its language head. Of `batch` only shapes
        matter. An objective with networks or heads of its own adds them, as `generator/...` and
        `heads/NAME/...`, which finetuning lets go."""
        inputs = batch.inputs, batch.decoder
        return model.init(key, *inputs, method="initialise")["params"]

    def networks(self, config, params, batch: Batch) -> tuple:
        """What runs on a row, for counting its work: for each network (ModelConfig, its parameters,
        {head: positions that the head reads}); of params and of batch [...,N] shapes suffice."""
        return ((config, params, {"lm": batch.targets.shape[-1]}),)

    def coefficients(self) -> dict[str, float]:
        """{loss: its factor} of those that are minimised, summed as means; what else `losses`
        returns is a metric."""
        return {"lm": 1.0}

    def measured(self) -> "Objective":
        """The objective as held-out text is measured by: the loss without what regularises it."""
        return replace(self, z_loss=0.0)

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """{loss: float32[]}: the denominator of each minimised loss, from the batch alone. The step
        takes them of the whole batch, so that microbatches add up to it (law 4)."""
        return {"lm": batch.weights.sum()}

    def answers(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """What each minimised loss asks for: {name: (class int32[...], weight float32[...])}.

        The entropy of these classes is what a model gets that knows no more than how often each
        occurs (training/entropy.py). Most are in the batch; where the model's own guesses are part of the
        question, they come from `params`, as in `losses`."""
        return {"lm": (batch.targets, batch.weights)}

    def losses(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """{name: (sum, weight)}, float32[] each; key drives dropout, None is deterministic."""
        return self.scores(model, params, hidden_states(model, params, batch, key), batch)

    def scores(self, model, params, hidden: jax.Array, batch: Batch) -> dict:
        """{name: (sum, weight)} of the targets, out of the hidden states [B,N,D] that predict
        them."""
        features = model.apply({"params": params}, hidden, method="readout")
        table, bias = model.apply({"params": params}, method="unembedding")
        total, weight, correct = chunked_cross_entropy(
            features,
            table,
            bias,
            batch.targets,
            batch.weights,
            model.config.vocab_size,
            self.z_loss,
        )
        return {"lm": (total, weight), "accuracy": (correct, weight)}


def hidden_states(model, params, batch: Batch, key: jax.Array | None) -> jax.Array:
    """Hidden states [B,N,D] at the predicted positions, so that a head runs on those alone."""
    return predicting(all_states(model, params, batch, key), batch)


def all_states(model, params, batch: Batch, key: jax.Array | None) -> jax.Array:
    """Hidden states [B,T,D] of the sequence that is predicted, the decoder's if there is one."""
    return model.apply(
        {"params": params},
        batch.inputs,
        batch.decoder,
        deterministic=key is None,
        rngs={} if key is None else {"dropout": key},
    )


def predicting(hidden: jax.Array, batch: Batch) -> jax.Array:
    """Of the states [B,T,D] those [B,N,D] that predict a target."""
    if batch.indices is None:
        return hidden
    return jnp.take_along_axis(hidden, batch.indices[:, :, None], axis=1, mode="clip")
