"""From the input tokens and target tokens of a row to the Batch of a decoder or encoder-decoder.
Last step of the objectives with separate inputs and targets: prefix_lm and the denoisers.
An encoder-decoder encodes the inputs and generates the targets; a decoder reads both in one sequence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.inputs import make_inputs
from objectives.base import ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.document_ids import left_of
from objectives.vocabulary import Vocabulary


def compact(
    keep: jax.Array, length: int, tokens: jax.Array, segment_ids: jax.Array, pad: int
) -> tuple[jax.Array, jax.Array]:
    """(tokens, segment ids), int32[length] each: the entries where `keep` is 1, without gaps, then
    padding. keep bool[L], tokens and segment_ids int32[L]. Callers make sure that `length` suffices;
    further tokens would be lost."""
    slot = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, jnp.int32(length))
    moved = jnp.full((length,), pad, jnp.int32).at[slot].set(tokens, mode="drop")
    numbers = jnp.zeros((length,), jnp.int32).at[slot].set(segment_ids, mode="drop")
    return moved, numbers


class Side(NamedTuple):
    """One side of a seq2seq example, the inputs or the targets, as an edited raw row."""

    tokens: jax.Array  # int32[L]  the row, in which tokens may be replaced
    keep: jax.Array  # bool[L]  1 = the token is kept, 0 = removed
    inserted: jax.Array  # int32[L]  a token to insert before this position, -1 for none


def build_batch(
    spec: ObjectiveSpec,
    lengths: SequenceLengths,
    row: jax.Array,
    segment_ids: jax.Array,
    inputs: Side,
    targets: Side,
    add_eos: bool,
) -> Batch:
    """The Batch of a row int32[L] with segment_ids int32[L], from its inputs and targets.

    If the row ends within a document, an [EOS] is added to the inputs of that document. `add_eos`
    also appends an [EOS] to the targets of each document, in order, until no target slot is free.
    If inputs or targets are too long (very short documents get more than their share of noise),
    the row is cut.
    """
    vocabulary, real = spec.vocabulary, segment_ids > 0
    closes = row == vocabulary.eos
    num_inputs, num_targets = (
        jnp.cumsum(_num_tokens(side, real), dtype=jnp.int32) for side in (inputs, targets)
    )
    fits = num_inputs < lengths.inputs  # leaves a slot for the [EOS] after a cut
    fits |= closes & (num_inputs == lengths.inputs)
    kept = real & fits & (num_targets <= lengths.targets)
    index = jnp.arange(row.shape[0], dtype=jnp.int32)
    cut = kept & ~closes & (index == kept.sum(dtype=jnp.int32) - 1)
    encoded = _flatten(inputs, kept, cut, segment_ids, lengths.inputs, vocabulary)

    closing = jnp.zeros_like(kept)
    if add_eos:  # after a document's last target
        target_index = jnp.where(targets.keep & kept, index, jnp.full_like(index, -1))
        last = jax.ops.segment_max(target_index, segment_ids, num_segments=row.shape[0] + 1)
        closing = (target_index >= 0) & (index == last[segment_ids])
        used = _num_tokens(targets, kept).sum(dtype=jnp.int32)
        free = lengths.targets - used
        if spec.architecture == "decoder":
            read = (encoded[1] > 0).sum(dtype=jnp.int32)
            free = jnp.minimum(free, lengths.inputs + 1 - read - used)
        closing &= jnp.cumsum(closing, dtype=jnp.int32) <= free
    generated = _flatten(targets, kept, closing, segment_ids, lengths.targets, vocabulary)
    return seq2seq_batch(spec, encoded, generated)


def _num_tokens(side, kept):
    """int32[L]: the number of tokens of this side that each position of the row contributes."""
    return ((side.inserted >= 0) & kept).astype(jnp.int32) + (side.keep & kept).astype(jnp.int32)


def _flatten(side, kept, closing, segment_ids, length, vocabulary):
    """(tokens, segment ids) of a side as in `compact`, with [EOS] after each position in `closing`."""
    eos = jnp.full_like(segment_ids, vocabulary.eos)
    return compact(
        jnp.stack([(side.inserted >= 0) & kept, side.keep & kept, closing], axis=1).reshape(-1),
        length,
        jnp.stack([side.inserted, side.tokens, eos], axis=1).reshape(-1),
        jnp.repeat(segment_ids, 3),
        vocabulary.pad,
    )


def seq2seq_batch(
    spec: ObjectiveSpec,
    inputs: tuple[jax.Array, jax.Array],
    targets: tuple[jax.Array, jax.Array],
) -> Batch:
    """The Batch in which the model generates the targets of each document after reading its inputs.

    inputs and targets are (tokens, segment ids), int32[S] each and int32[N] each, as returned by
    `compact`, with ascending segment ids. Every document with targets has inputs. With documents 1 and 2,
    inputs a b | c and targets X Y | Z (s: the start token):

        encoder_decoder   inputs       a  b  c           decoder_inputs    s  X  s
                          segment_ids  1  1  2           segment_ids       1  1  2
                                                         targets           X  Y  Z
        decoder           inputs       a  b  X  Y  c     targets           X  Y  Z
                          segment_ids  1  1  1  1  2     target_positions  1  2  4
                          prefix       1  1  0  0  1     (the last token, Z, is only a target)

    Documents have the same numbers in inputs and targets, so cross-attention stays within a document.
    """
    if spec.architecture == "decoder":
        return _concatenate(spec, inputs, targets)
    tokens, segment_ids = targets
    first = segment_ids != left_of(segment_ids, -1)  # of a document
    shifted = jnp.where(first, spec.vocabulary.start, left_of(tokens, spec.vocabulary.start))
    shifted = jnp.where(segment_ids > 0, shifted, spec.vocabulary.pad)
    return Batch(
        inputs=make_inputs(*inputs),
        decoder_inputs=make_inputs(shifted, segment_ids, "causal"),
        targets=tokens,
        loss_weights=(segment_ids > 0).astype(jnp.float32),
    )


def _concatenate(spec, inputs, targets):
    """The Batch of a decoder: the inputs of each document, as a prefix, then its targets."""
    num_inputs = inputs[0].shape[0]
    tokens = jnp.concatenate([inputs[0], targets[0]])
    segment_ids = jnp.concatenate([inputs[1], targets[1]])
    is_target = jnp.arange(tokens.shape[0], dtype=jnp.int32) >= num_inputs
    sort_key = 2 * segment_ids + is_target.astype(jnp.int32)
    sort_key = jnp.where(segment_ids > 0, sort_key, 2 * tokens.shape[0] + 2)
    order = jnp.argsort(sort_key, stable=True)
    # A target is predicted by the position before its new index.
    moved_to = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
    positions = moved_to[num_inputs:].astype(jnp.int32) - 1
    tokens, segment_ids, is_target = tokens[order], segment_ids[order], is_target[order]
    predicted = (targets[1] > 0) & (positions >= 0) & (segment_ids[positions] == targets[1])
    T = spec.seq_len
    predicted &= positions < T  # targets may exceed T in rows of many one-token documents
    prefix = ~is_target & (segment_ids > 0)
    return Batch(
        inputs=make_inputs(tokens[:T], segment_ids[:T], "prefix", prefix[:T]),
        targets=targets[0],
        loss_weights=predicted.astype(jnp.float32),
        target_positions=jnp.where(predicted, positions, jnp.zeros_like(positions)),
    )


def document_pairs(spec: ObjectiveSpec, batch: Batch) -> list[tuple[list[int], list[int]]]:
    """The inverse of `seq2seq_batch`, on the host: the (inputs, targets) of each document in a row."""
    batch = jax.tree.map(np.asarray, batch)
    inputs, is_target = batch.inputs, batch.loss_weights > 0
    if spec.architecture == "decoder":
        target_ids, is_input = inputs.segment_ids[batch.target_positions], inputs.prefix
    else:
        target_ids, is_input = batch.decoder_inputs.segment_ids, inputs.segment_ids > 0
    return [
        (
            inputs.tokens[is_input & (inputs.segment_ids == number)].tolist(),
            batch.targets[is_target & (target_ids == number)].tolist(),
        )
        for number in range(1, int(inputs.segment_ids.max(initial=0)) + 1)
    ]


def restore_spans(inputs: list[int], targets: list[int], vocabulary: Vocabulary) -> list[int]:
    """The inputs of a document, with each sentinel replaced by the span after it in the targets."""
    spans, span = {}, []
    for token in targets:
        if token in vocabulary.sentinels:
            span = spans.setdefault(token, [])
        elif token != vocabulary.eos:
            span.append(token)
    return [restored for token in inputs for restored in spans.get(token, [token])]


def pad_row(tokens: list[int], length: int, pad: int) -> np.ndarray:
    """int32[length]: `tokens` with padding, as in a raw row."""
    return np.asarray(tokens + [pad] * (length - len(tokens)), np.int32)
