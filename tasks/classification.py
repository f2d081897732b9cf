"""Classification of a text or of a pair, by any of the three architectures.
finetune.py: `encode` a split once, `batch` by indices, `losses` in the step, `predictions` after.
The head reads the state of [CLS], of the last token, or the mean of an encoder-decoder's.
"""

from collections.abc import Sequence as Names
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from data.framing import Frame, frame_example
from models.layers import ACTIVATIONS
from models.sequence import Sequence
from objectives.batch import Batch
from tasks.batches import PADDING


@dataclass(frozen=True)
class Encoded:
    """A split as arrays, in the order of its examples."""

    tokens: np.ndarray  # int32[n, length] framed, then padding
    lengths: np.ndarray  # int32[n] without the padding
    types: np.ndarray  # int32[n, length] 1 = second text of a pair (BERT's token types)
    labels: np.ndarray  # int32[n] number of the label's name; -1 = the split has no labels
    cut: int  # examples that were too long

    def __len__(self) -> int:
        return len(self.lengths)


def encode(
    texts: list[str],
    pairs: list[str] | None,
    labels: list[str] | None,
    tokenizer,
    frame: Frame,
    length: int,
    label_names: Names[str],
    pad: int,
) -> Encoded:
    """The examples of a split, framed as the architecture's documents are in pretraining.

    tokenizer: anything with `encode_batch(list[str])` -> pieces of each. Raises ValueError for a
    label that is not among `label_names`, and where the frame does not fit `length`.
    """
    first = tokenizer.encode_batch(list(texts))
    second = tokenizer.encode_batch(list(pairs)) if pairs else [None] * len(first)
    tokens = np.full((len(first), length), pad, np.int32)
    types = np.zeros_like(tokens)
    lengths = np.zeros(len(first), np.int32)
    cut = 0
    whole_frame = len(frame.opening) + len(frame.closing)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        framed = frame_example(a, b, frame, length)
        lengths[i] = len(framed)
        tokens[i, : len(framed)] = framed
        uncut = whole_frame + len(a) + (0 if b is None else len(b) + len(frame.separator))
        cut += uncut > len(framed)
        if b is not None:  # the first text cannot hold the separator: a tokenizer gives no specials
            start = len(frame.opening)
            separator = start + int(np.argmax(framed[start:] == frame.separator[0]))
            types[i, separator + len(frame.separator) : len(framed)] = 1
    return Encoded(tokens, lengths, types, _numbers(labels, len(first), label_names), cut)


def _numbers(labels, count, label_names):
    if not labels:
        return np.full(count, -1, np.int32)
    numbers = {name: number for number, name in enumerate(label_names)}
    unknown = sorted(set(labels) - set(numbers))
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} is unknown: expected one of those in the training split, "
            f"{', '.join(label_names)}; correct the label or add examples of it to train"
        )
    return np.array([numbers[label] for label in labels], np.int32)


class ClassificationHead(nn.Module):
    """states [B,D] -> logits float32[B,C]: dropout, [dense, activation, dropout,] dense.

    With the pooler it is BERT's (Devlin et al. 2019; dropout before the pooler is not theirs and
    is left out then), without a bias that of published decoders; `norm` has a LayerNorm behind the
    pooler's activation, both without biases (ModernBERT; Warner et al. 2024).
    """

    classes: int
    dropout: float = 0.1
    pooler: bool = False
    bias: bool = True
    activation: str = "tanh"  # of the pooler
    norm: bool = False  # behind it
    init_std: float = 0.02

    @nn.compact
    def __call__(self, states: jax.Array, deterministic: bool = True) -> jax.Array:
        normal = nn.initializers.normal(self.init_std)
        states = states.astype(jnp.float32)
        if self.pooler:
            width = states.shape[-1]
            activation = jnp.tanh if self.activation == "tanh" else ACTIVATIONS[self.activation]
            pooler = nn.Dense(width, not self.norm, kernel_init=normal, name="pooler")
            states = activation(pooler(states))
            if self.norm:
                states = nn.LayerNorm(1e-5, use_bias=False, name="pooler_norm")(states)
        states = nn.Dropout(self.dropout, name="dropout")(states, deterministic=deterministic)
        output = nn.Dense(self.classes, self.bias, kernel_init=normal, name="output")
        return output(states)


@dataclass(frozen=True)
class Classification:
    """The task as the training step sees it; the protocol is that of an objective.

    The head's parameters are at params['heads']['classification'].
    """

    name: ClassVar[str] = "classification"

    architecture: str
    classes: int
    width: int  # of the hidden states
    pad: int
    start: int  # of an encoder-decoder's decoder
    dropout: float = 0.1
    pooler: bool = False
    token_types: bool = False  # the network tells them apart
    decoder_input: str = "text"  # of an encoder-decoder: text or start, see _decoder
    reading: str = "usual"  # state, mean, or what is usual for the architecture
    bias: bool = True  # in the classifier
    pooler_activation: str = "tanh"
    pooler_norm: bool = False

    @property
    def reads_mean(self) -> bool:
        """An encoder-decoder has no state that stands for a text: where it has learned to repeat
        what it reads, the last one knows that the text ends here (cf. Ni et al. 2022, section 3)."""
        return self.reading == "mean" or (
            self.reading == "usual" and self.architecture == "encoder_decoder"
        )

    def head(self) -> ClassificationHead:
        return ClassificationHead(
            self.classes, self.dropout, self.pooler, self.bias, self.pooler_activation,
            self.pooler_norm,
        )  # fmt: skip

    def head_parameters(self, key: jax.Array) -> dict:
        """Fresh parameters of the head, float32."""
        return self.head().init(key, jnp.zeros((1, self.width), jnp.float32))["params"]

    def initialise(self, model, key: jax.Array, batch: Batch) -> dict:
        """Fresh parameters of the network alone: its language head is not part of the task."""
        return model.init(key, batch.inputs, batch.decoder)["params"]

    def networks(self, config, params, batch: Batch) -> tuple:
        """What runs on a row: as an objective's."""
        return ((config, params, {self.name: 1}),)

    def batch(self, encoded: Encoded, indices: np.ndarray, width: int | None = None) -> Batch:
        """The examples int[B] as a Batch of NumPy arrays; PADDING gives a row of weight 0.

        width: tokens of a row, where none of the examples has more; None: those of `encoded`."""
        real = np.asarray(indices) != PADDING
        chosen = np.where(real, indices, 0)
        lengths = np.where(real, encoded.lengths[chosen], 0).astype(np.int32)
        tokens, types = encoded.tokens[chosen][:, :width], encoded.types[chosen][:, :width]
        place = np.arange(tokens.shape[1], dtype=np.int32)
        segments = (place < lengths[:, None]).astype(np.int32)
        inputs = Sequence(
            tokens=np.where(segments > 0, tokens, self.pad).astype(np.int32),
            segments=segments,
            positions=segments * place,
            types=types * segments if self.token_types else None,
            visibility="causal" if self.architecture == "decoder" else "all",
        )
        decoder, read = None, np.zeros_like(lengths)
        if self.architecture == "decoder":
            read = np.maximum(lengths - 1, 0)
        elif self.architecture == "encoder_decoder":
            if self.decoder_input == "text":
                read = np.maximum(lengths - 1, 0)
            decoder = self._decoder(inputs)
        labels = np.where(real, encoded.labels[chosen], 0)[:, None]
        return Batch(
            inputs=inputs,
            decoder=decoder,
            targets=np.maximum(labels, 0).astype(np.int32),
            weights=(real[:, None] & (labels >= 0)).astype(np.float32),
            indices=read[:, None].astype(np.int32),
        )

    def _decoder(self, inputs: Sequence) -> Sequence:
        """What the decoder reads before the state that is classified: the text again, shifted as
        in pretraining, so that state is the one behind which [EOS] is expected (BART; Lewis et al.
        2020, section 3.1); or the start token alone."""
        T = inputs.tokens.shape[1] if self.decoder_input == "text" else 1
        segments = inputs.segments[:, :T]
        tokens = np.roll(inputs.tokens[:, :T], 1, axis=1)
        tokens[:, 0] = self.start
        return Sequence(
            tokens=np.where(segments > 0, tokens, self.pad).astype(np.int32),
            segments=segments,
            positions=inputs.positions[:, :T],
            visibility="causal",
        )

    def coefficients(self) -> dict[str, float]:
        return {"classification": 1.0}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"classification": batch.weights.sum()}

    def losses(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """{name: (sum, weight)}: cross entropy over the classes, and hits."""
        logits = self.predictions(model, params, batch, key)
        targets, weights = batch.targets[:, 0], batch.weights[:, 0]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        hits = (logits.argmax(-1).astype(jnp.int32) == targets).astype(jnp.float32)
        weight = weights.sum()
        return {
            "classification": ((losses * weights).sum(), weight),
            "accuracy": ((hits * weights).sum(), weight),
        }

    def predictions(self, model, params, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """Logits float32[B, C] of every row, padding rows too; key drives dropout, None: none."""
        rngs = [{}, {}]
        if key is not None:
            rngs = [{"dropout": each} for each in jax.random.split(key)]
        hidden = model.apply(
            {"params": params},
            batch.inputs,
            batch.decoder,
            deterministic=key is None,
            rngs=rngs[0],
        )
        if self.reads_mean:
            read = (batch.inputs if batch.decoder is None else batch.decoder).segments > 0
            weights = read.astype(jnp.float32)[:, :, None]
            states = (hidden.astype(jnp.float32) * weights).sum(1) / jnp.maximum(
                weights.sum(1), 1.0
            )
        else:
            index = batch.indices[:, :, None]
            states = jnp.take_along_axis(hidden, index, axis=1, mode="clip")[:, 0]
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return self.head().apply(
                {"params": params["heads"]["classification"]},
                states,
                deterministic=key is None,
                rngs=rngs[1],
            )
