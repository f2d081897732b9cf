"""From (input tokens, target tokens) of a row to the Batch of an architecture that types.
Last step of objectives with an input and a target side: prefix_lm, the denoisers.
An encoder-decoder reads one and types the other; a decoder reads both, document by document.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.sequence import sequence_of
from objectives.base import Setting, Shapes
from objectives.batch import Batch
from objectives.segments import left_of
from objectives.vocabulary import Vocabulary


def compact(
    keep: jax.Array, length: int, tokens: jax.Array, segments: jax.Array, pad: int
) -> tuple[jax.Array, jax.Array]:
    """The kept tokens and their segments moved together to the left: int32[length] each, then
    padding. Kept tokens beyond `length` are lost: callers leave room for them."""
    slot = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, jnp.int32(length))
    moved = jnp.full((length,), pad, jnp.int32).at[slot].set(tokens, mode="drop")
    numbers = jnp.zeros((length,), jnp.int32).at[slot].set(segments, mode="drop")
    return moved, numbers


class Side(NamedTuple):
    """What becomes of each token of a row on one side, inputs or targets."""

    tokens: jax.Array  # int32[L]  the token that stands for it
    keep: jax.Array  # bool[L]  1 = that token is there; 0 = it is left out
    marks: jax.Array  # int32[L]  a token put before it, -1 for none


def assembled(
    setting: Setting,
    shapes: Shapes,
    row: jax.Array,
    segments: jax.Array,
    inputs: Side,
    targets: Side,
    close: bool,
) -> Batch:
    """The Batch of a row int32[L], with its segments int32[L], whose tokens were dealt out to both
    sides: `inputs` is what is read, `targets` what is typed.

    A row that ends within a document has its inputs closed by [EOS], as every document's are.
    `close` closes each document's targets by [EOS] too, as long as there is room: the first ones
    first. What does not fit on either side is cut off from the end of the row (very short documents
    lack room for their share of noise), and the row then ends as one that ends within a document.
    """
    vocabulary, real = setting.vocabulary, segments > 0
    closes = row == vocabulary.eos
    used, told = (jnp.cumsum(_emitted(side, real), dtype=jnp.int32) for side in (inputs, targets))
    room = (used < shapes.inputs) | (
        closes & (used == shapes.inputs)
    )  # [EOS] must fit behind a cut
    kept = real & room & (told <= shapes.targets)
    index = jnp.arange(row.shape[0], dtype=jnp.int32)
    last = kept.sum(dtype=jnp.int32) - 1
    cut = kept & ~closes & (index == last)
    read = _dealt(inputs, kept, cut, segments, shapes.inputs, vocabulary)

    closing = jnp.zeros_like(kept)
    if close:  # behind a document's last target
        mine = jnp.where(targets.keep & kept, index, jnp.full_like(index, -1))
        latest = jax.ops.segment_max(mine, segments, num_segments=row.shape[0] + 1)
        closing = (mine >= 0) & (index == latest[segments])
        typing = _emitted(targets, kept).sum(dtype=jnp.int32)
        free = shapes.targets - typing
        if setting.architecture == "decoder":
            free = jnp.minimum(
                free, shapes.inputs + 1 - (read[1] > 0).sum(dtype=jnp.int32) - typing
            )
        closing &= jnp.cumsum(closing, dtype=jnp.int32) <= free
    return typed(
        setting, read, _dealt(targets, kept, closing, segments, shapes.targets, vocabulary)
    )


def _emitted(side, kept):
    """int32[L]: how many tokens stand for each on this side."""
    return ((side.marks >= 0) & kept).astype(jnp.int32) + (side.keep & kept).astype(jnp.int32)


def _dealt(side, kept, closing, segments, length, vocabulary):
    """(tokens, segments) of a side, compact; [EOS] behind each token of `closing`."""
    eos = jnp.full_like(segments, vocabulary.eos)
    return compact(
        jnp.stack([(side.marks >= 0) & kept, side.keep & kept, closing], axis=1).reshape(-1),
        length,
        jnp.stack([side.marks, side.tokens, eos], axis=1).reshape(-1),
        jnp.repeat(segments, 3),
        vocabulary.pad,
    )


def typed(
    setting: Setting,
    inputs: tuple[jax.Array, jax.Array],
    targets: tuple[jax.Array, jax.Array],
) -> Batch:
    """The Batch in which each document's targets are typed after reading its inputs.

    inputs and targets are (tokens, segments), int32[S] each and int32[N] each, as `compact` gives
    them, segments ascending; a document may lack targets, but one with targets has inputs. With
    documents 1 and 2, inputs a b | c and targets X Y | Z:

        encoder_decoder   inputs   a  b  c          decoder  s  X  s      (s: the start token)
                          segments 1  1  2          segments 1  1  2      targets  X Y Z
        decoder           inputs   a  b  X  Y  c  Z                       targets  X Y Z
                          segments 1  1  1  1  2  2                       indices  1 2 4
                          prefix   1  1  0  0  1  0   (the last of all, Z, is a target only)

    Segments are the same on both sides, so that documents are isolated in cross-attention too.
    """
    if setting.architecture == "decoder":
        return _joined(setting, inputs, targets)
    tokens, segments = targets
    first = segments != left_of(segments, -1)  # of a document
    shifted = jnp.where(first, setting.vocabulary.start, left_of(tokens, setting.vocabulary.start))
    shifted = jnp.where(segments > 0, shifted, setting.vocabulary.pad)
    return Batch(
        inputs=sequence_of(*inputs),
        decoder=sequence_of(shifted, segments, "causal"),
        targets=tokens,
        weights=(segments > 0).astype(jnp.float32),
    )


def _joined(setting, inputs, targets):
    """A decoder's Batch of one row: each document's inputs, as a prefix, and its targets."""
    read = inputs[0].shape[0]
    tokens = jnp.concatenate([inputs[0], targets[0]])
    segments = jnp.concatenate([inputs[1], targets[1]])
    typing = jnp.arange(tokens.shape[0], dtype=jnp.int32) >= read
    place = jnp.where(
        segments > 0, 2 * segments + typing.astype(jnp.int32), 2 * tokens.shape[0] + 2
    )
    order = jnp.argsort(place, stable=True)
    # Where each target landed; the position before it predicts it.
    landed = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
    indices = landed[read:].astype(jnp.int32) - 1
    tokens, segments, typing = tokens[order], segments[order], typing[order]
    told = (targets[1] > 0) & (indices >= 0) & (segments[indices] == targets[1])
    prefix = ~typing & (segments > 0)
    T = setting.length
    return Batch(
        inputs=sequence_of(tokens[:T], segments[:T], "prefix", prefix[:T]),
        decoder=None,
        targets=targets[0],
        weights=told.astype(jnp.float32),
        indices=jnp.where(told, indices, jnp.zeros_like(indices)),
    )


def sides(setting: Setting, batch: Batch) -> list[tuple[list[int], list[int]]]:
    """The inverse of `typed` for one row, on the host: (inputs, targets) of each document."""
    batch = jax.tree.map(np.asarray, batch)
    read, told = batch.inputs, batch.weights > 0
    if setting.architecture == "decoder":
        segments, given = read.segments[batch.indices], read.prefix
    else:
        segments, given = batch.decoder.segments, read.segments > 0
    return [
        (
            read.tokens[given & (read.segments == number)].tolist(),
            batch.targets[told & (segments == number)].tolist(),
        )
        for number in range(1, int(read.segments.max(initial=0)) + 1)
    ]


def spans_back(given: list[int], typing: list[int], vocabulary: Vocabulary) -> list[int]:
    """A document with its spans again where their sentinels stand."""
    found, span = {}, []
    for token in typing:
        if token in vocabulary.sentinels:
            span = found.setdefault(token, [])
        elif token != vocabulary.eos:
            span.append(token)
    return [back for token in given for back in found.get(token, [token])]


def padded(tokens: list[int], length: int, pad: int) -> np.ndarray:
    """tokens as int32[length], filled up with padding: a raw row again."""
    return np.asarray(tokens + [pad] * (length - len(tokens)), np.int32)
