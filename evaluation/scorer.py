"""`Scorer.score`: the natural log-probability of each token of continuations, in batches of few shapes.

Between text and the model: tokens as lm-eval divides them, windows of what the model can read, rows of a
way (ways.py), which are packed without padding; one compiled program per width.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from evaluation.ways import Row, Way
from generation.batches import bucket
from models.inputs import make_inputs
from objectives.batch import Batch
from objectives.lm_loss import lm_token_losses, target_hidden_states

# Positions per batch and shard of it: on a CPU, what its cache holds.
BATCH_TOKENS = {"cpu": 2048, "other": 32_768}
_WIDTH = 64  # positions of a packed row; 4, 16, ... times as many for longer texts
_STEP = 8  # targets of a packed row are a multiple of this
_SLACK = 1.15  # targets of a packed row, relative to the mean of a sample
_SAMPLE = 20_000  # texts in that
_OPEN = 64  # packed rows that are looked through for a place


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The tokens int32[n] of context and continuation; the continuation's start at `first`."""

    tokens: np.ndarray
    first: int
    text: str = dataclasses.field(repr=False)  # of both
    boundary: int  # characters of the context


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """The scores of a continuation of n tokens.

    Attributes:
      log_probs: float64[n], natural logarithms; NaN for a token that nothing predicts (the first one of
        a text, for a decoder without a start token).
      is_greedy: bool[n], whether the token is the most probable one.
      start: characters of the continuation before the first token that is predicted.
      num_cut: tokens of the context that the model could not read.
    """

    log_probs: np.ndarray
    is_greedy: np.ndarray
    start: int = 0
    num_cut: int = 0

    @property
    def total(self) -> float:
        """The log-probability of the continuation, without tokens that nothing predicts."""
        return float(np.nansum(self.log_probs))

    @property
    def num_scored(self) -> int:
        return int((~np.isnan(self.log_probs)).sum())


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score_rows(model, attention, params, rows):
    """(log-probabilities float32[B, N], whether each target is the argmax) of the rows of a batch."""
    tokens, segments, prefix, decoder_tokens, decoder_segments, positions, targets = rows
    decoder_inputs = is_prefix = None
    if decoder_tokens.shape[1]:
        decoder_inputs = make_inputs(decoder_tokens, decoder_segments, "causal")
        attention = "bidirectional"
    elif attention == "prefix":
        is_prefix = prefix > 0
    inputs = make_inputs(tokens, segments, attention, is_prefix)
    batch = Batch(
        inputs=inputs,
        decoder_inputs=decoder_inputs,
        targets=targets,
        loss_weights=jnp.ones(targets.shape, jnp.float32),
        target_positions=positions,
    )
    hidden = target_hidden_states(model, params, batch, None)
    losses, hits = lm_token_losses(model, params, hidden, targets)
    return -losses, hits


class Scorer:
    """Scores texts with one model, in one way.

    Attributes:
      num_cut: requests whose context was cut at its start so far.
      num_unpredicted: tokens that nothing predicted so far.
    """

    def __init__(
        self,
        model,
        params,
        tokenizer,
        way: Way,
        *,
        max_len: int = 0,
        stride: int = 0,
        batch_tokens: int = 0,
        place: Callable = lambda batch: batch,
        batch_divisor: int = 1,
        packing: bool = True,
    ):
        """max_len: positions that the model reads; 0: all that it can. stride: tokens that each window
        after the first one scores, where a continuation needs several; 0: half a window. batch_tokens:
        positions per batch and shard of it; 0: BATCH_TOKENS. place: puts a
        batch of arrays on the devices, whose first axis is a multiple of `batch_divisor`. packing: whether
        the model reads several rows as the segments of one.

        Raises ValueError if the model has no LM head, or reads too few positions."""
        self.model, self.params, self.tokenizer, self.way = model, params, tokenizer, way
        longest = model.config.max_length
        if max_len > longest and model.config.positions == "learned":
            raise ValueError(
                f"--max_seq_len={max_len}: the model has {longest} positions; give at most that"
            )
        self.max_len = max_len or longest
        self.limits = way.limits(self.max_len)
        size = min(self.limits.both, self.limits.scored)
        if size < 1:
            raise ValueError(
                f"the model reads {self.max_len} positions, too few for a token of text: raise --max_seq_len"
            )
        self._context = int(way.needs_context)  # unscored tokens at the start of a later window
        size = max(1, size - (self._context and not self.limits.unread))
        if stride > size:
            raise ValueError(
                f"--stride={stride}: a window scores at most {size} tokens; give at most that"
            )
        self.stride = stride or max(1, size // 2)
        self.num_cut = self.num_unpredicted = 0
        self._place, self._divisor = place, batch_divisor
        self._batch_tokens = batch_tokens or BATCH_TOKENS.get(
            jax.default_backend(), BATCH_TOKENS["other"]
        )
        self._packing, self._positions = packing, 0
        self._slots = {}  # {width: targets} of packed rows

    # ---- Text to tokens --------------------------------------------------------------------------

    def encode(self, requests: Iterable[tuple[str, str]]) -> list[Encoded]:
        """The tokens of each (context, continuation), encoded together, as in lm-eval: white space at the
        end of the context belongs to the continuation, whose tokens are those after as many as the
        context alone has."""
        pairs = []
        for context, continuation in requests:
            kept = context.rstrip()
            pairs.append((kept, context[len(kept) :] + continuation))
        whole = self.tokenizer.encode_batch([a + b for a, b in pairs])
        contexts = {a: 0 for a, _ in pairs if a}
        counts = map(len, self.tokenizer.encode_batch(list(contexts)))
        contexts = dict(zip(contexts, counts, strict=True))
        return [
            Encoded(ids, min(contexts.get(a, 0), max(len(ids) - 1, 0)), a + b, len(a))
            for ids, (a, b) in zip(whole, pairs, strict=True)
        ]

    def windows(self, encoded: Encoded) -> Iterator[tuple[int, int, int]]:
        """(start, first, end): the window tokens[start:end], in which tokens[first:end] are scored. Each
        token of the continuation is scored once. A text that one row takes has one window, without the
        first tokens of the context if it is too long. Otherwise each window after the first one scores
        `stride` tokens, as in the computation of perplexity in transformers' documentation."""
        limits, total = self.limits, len(encoded.tokens)
        end = scored = encoded.first
        both = limits.both + limits.unread
        if total - scored <= min(limits.scored + limits.unread, both):
            if total > scored:
                yield max(0, total - both, scored - limits.context), scored, total
            return
        while scored < total:
            is_first = end == encoded.first
            step = limits.scored if is_first and not end else self.stride
            end = end + min(step, limits.scored)
            start = max(end - limits.both, scored - limits.context)
            start = max(0, min(start, scored - self._context))
            yield start, scored, min(end, total)
            scored = min(end, total)

    # ---- Scores ----------------------------------------------------------------------------------

    def score(self, requests: Iterable[tuple[str, str]]) -> list[np.ndarray]:
        """float64[n] of each (context, continuation): the natural log-probability of each of the n tokens
        of the continuation, after the context; NaN where nothing predicts a token."""
        return [each.log_probs for each in self.score_encoded(self.encode(requests))]

    def score_encoded(self, encoded: list[Encoded]) -> list[TokenScores]:
        """The scores of the texts, in their order. Raises FloatingPointError if the model computes a NaN,
        which means "nothing predicts it" in the scores."""
        found = [
            (np.full(len(e.tokens) - e.first, np.nan), np.zeros(len(e.tokens) - e.first, bool))
            for e in encoded
        ]
        cut = [0] * len(encoded)
        rows = []
        places = []  # of each row: [(request, index in the continuation)] of its targets
        known = {}
        for request, each in enumerate(encoded):
            for number, (start, first, end) in enumerate(self.windows(each)):
                cut[request] = cut[request] or start * (number == 0)
                window = each.tokens[start:end], first - start
                for row, index in self.way.rows(*window):
                    targets = [(request, i) for i in (index + start - each.first).tolist()]
                    if self.way.is_per_token:
                        rows.append(row)
                        places.append(targets)
                        continue
                    key = (row.tokens.tobytes(), row.decoder_tokens.tobytes(), row.prefix)
                    at = known.setdefault(key, len(rows))  # choices of one token are one row
                    if at == len(rows):
                        rows.append(row)
                        places.append(targets)
                    else:
                        rows[at] = _joined(rows[at], row)
                        places[at] = places[at] + targets
        for bins, log_probs, hits in self._batches(rows):
            for numbers, values, greedy in zip(
                bins, log_probs.tolist(), hits.tolist(), strict=True
            ):
                targets = [target for row in numbers for target in places[row]]
                for (request, index), value, hit in zip(targets, values, greedy, strict=False):
                    if math.isnan(value):
                        raise FloatingPointError(
                            f"the model's log-probability of a token of {encoded[request].text[:40]!r} is "
                            "NaN: score another checkpoint (RUN@STEP), or import the model again"
                        )
                    found[request][0][index], found[request][1][index] = value, hit > 0
        self.num_cut += sum(each > 0 for each in cut)
        self.num_unpredicted += sum(int(np.isnan(log_probs).sum()) for log_probs, _ in found)
        return [
            TokenScores(log_probs, greedy, self._start(each, log_probs), lost)
            for each, (log_probs, greedy), lost in zip(encoded, found, cut, strict=True)
        ]

    def _start(self, encoded, log_probs):
        if not len(log_probs) or not np.isnan(log_probs[0]):
            return 0
        ((_, offsets),) = self.tokenizer.encode_with_offsets([encoded.text])
        return int(offsets[encoded.first, 1]) - encoded.boundary

    # ---- Batches ---------------------------------------------------------------------------------

    def num_rows(self, encoded: Encoded) -> int:
        """How many rows score a text."""
        if self.way.is_per_token:
            return len(encoded.tokens) - encoded.first
        return sum(1 for _ in self.windows(encoded))

    def plan(self, encoded: list[Encoded]) -> None:
        """Chooses the shapes of the programs for these texts; others that fit use them too."""
        lengths = []  # of the first row of each window: the others of a window are as long
        for each in encoded[:: max(1, len(encoded) // _SAMPLE)]:
            for start, first, end in self.windows(each):
                rows = self.way.rows(each.tokens[start:end], first - start)
                lengths += [_lengths(row) for row, _ in itertools.islice(rows, 1)]
        if lengths:
            total = sum(len(each.tokens) * self.num_rows(each) for each in encoded)
            self._choose_shapes(np.array(lengths), total)

    def _choose_shapes(self, lengths, total):
        """The shape of each width that rows of lengths int[N, 2] need; `total` positions in all."""
        widths = self._widths(lengths[:, 0])
        self._positions = max(self._positions, bucket(int(total)))
        for width in np.unique(widths).tolist():
            of_width = lengths[widths == width]
            share = of_width[:, 1].sum() / of_width[:, 0].sum() * _SLACK
            slots = max(int(of_width[:, 1].max()), min(width, round(width * share)))
            self._slots[width] = max(self._slots.get(width, 0), -(-slots // _STEP) * _STEP)

    def _widths(self, lengths):
        """The width of the row that each length is packed into: the smallest that holds it."""
        ladder = [min(_WIDTH, self.max_len)]
        while ladder[-1] < self.max_len:
            ladder.append(min(4 * ladder[-1], self.max_len))
        return np.array(ladder)[np.searchsorted(ladder, lengths)]

    def _batches(self, rows):
        """Yields (bins of row numbers, log-probabilities [B, N], hits [B, N]) of each batch. The targets of
        a bin are the targets of its rows, one after another."""
        if not rows:
            return
        lengths = np.array([_lengths(row) for row in rows])
        widths = self._widths(lengths[:, 0])
        for width in np.unique(widths).tolist():
            if lengths[widths == width, 1].max() > self._slots.get(width, 0):
                self._choose_shapes(lengths[widths == width], lengths[:, 0].sum())
        waiting = []  # the device computes a batch while the host prepares the next one
        for shape, bins in self._packed(lengths, widths).items():
            size = self._batch_size(shape)
            for at in range(0, len(bins), size):
                chosen = bins[at : at + size]
                arrays = _arrays(
                    [[rows[n] for n in each] for each in chosen], shape, size, self._has_decoder
                )
                waiting.append((chosen, self._compute(self._place(arrays))))
                if len(waiting) > 1:
                    yield _fetched(*waiting.pop(0))
        for each in waiting:
            yield _fetched(*each)

    def _packed(self, lengths, widths):
        """{shape: [[number of a row, ...] of each packed row]}: the longest first, where there is place."""
        found, places = {}, []  # places: [free positions, free targets, numbers] of packed rows
        for number in np.lexsort((-lengths[:, 1], -lengths[:, 0])).tolist():
            length, slots = lengths[number].tolist()
            place = next((p for p in places if p[0] >= length and p[1] >= slots), None)
            if place is None:
                shape = (int(widths[number]), self._slots[int(widths[number])])
                place = [*shape, []]
                found.setdefault(shape, []).append(place[2])
                if self._packing:
                    places = [*places[-_OPEN:], place]
            place[0], place[1] = place[0] - length, place[1] - slots
            place[2].append(number)
        return found

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(positions, targets) of a packed row, for each program."""
        return sorted(self._slots.items())

    @property
    def _has_decoder(self):
        return self.model.config.architecture == "encoder_decoder"

    def _compute(self, batch):
        return _score_rows(self.model, self.way.attention, self.params, batch)

    def _batch_size(self, shape):
        width = shape[0] + shape[1] * self._has_decoder
        size = max(1, min(self._batch_tokens, self._positions // self._divisor) // width)
        return self._divisor * (bucket(size + 1) // 2)


def _lengths(row: Row):
    """(positions, targets or positions of the decoder) of a row."""
    return len(row.tokens), max(len(row.decoder_tokens), len(row.targets))


def _joined(row: Row, other: Row) -> Row:
    """A row with the targets of both."""
    return dataclasses.replace(
        row,
        targets=np.concatenate([row.targets, other.targets]),
        positions=np.concatenate([row.positions, other.positions]),
    )


def _arrays(bins, shape, size, has_decoder):
    """The arrays of a batch of packed rows, each a segment: tokens, segment ids and prefix int32[size,
    shape[0]]; tokens and segment ids of the decoder [size, shape[1]] (or [size, 0]); positions and targets
    int32[size, shape[1]]."""
    width, slots = shape
    tokens, segments, prefix = np.zeros((3, size, width), np.int32)
    decoder_tokens, decoder_segments = np.zeros((2, size, slots * has_decoder), np.int32)
    positions, targets = np.zeros((2, size, slots), np.int32)
    for number, rows in enumerate(bins):
        at = at_decoder = at_target = 0
        for segment, row in enumerate(rows, 1):
            end = at + len(row.tokens)
            tokens[number, at:end], segments[number, at:end] = row.tokens, segment
            prefix[number, at : at + row.prefix] = 1
            first = at_decoder if has_decoder else at  # of the hidden states that predict
            end_decoder = at_decoder + len(row.decoder_tokens)
            decoder_tokens[number, at_decoder:end_decoder] = row.decoder_tokens
            decoder_segments[number, at_decoder:end_decoder] = segment
            end_target = at_target + len(row.targets)
            positions[number, at_target:end_target] = row.positions + first
            targets[number, at_target:end_target] = row.targets
            at, at_decoder, at_target = end, end_decoder, end_target
    return tokens, segments, prefix, decoder_tokens, decoder_segments, positions, targets


def _fetched(bins, outputs):
    log_probs, hits = (np.asarray(each)[: len(bins)] for each in outputs)
    return bins, log_probs.astype(np.float64), hits
