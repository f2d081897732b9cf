"""skip_gram: word vectors from neighbors and negative samples (word2vec; Mikolov et al. 2013,
arXiv:1310.4546). For the model `WordVectors`. Two matrix products score all pairs of a row: its center
vectors with its context vectors, and with the context vectors of its negative samples.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import option
from models.inputs import make_inputs
from objectives.base import ARCHITECTURES, EMBEDDINGS, Objective, ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.document_ids import document_ids
from objectives.lm_loss import TrainingLoss
from objectives.noise import select_positions
from objectives.unigram import sample_by_weight


@dataclass(frozen=True)
class SkipGram(Objective, TrainingLoss):
    """Skip-gram with negative sampling (section 2.2) and subsampling (section 2.3).

    Subsampling removes frequent tokens from the row at random. As in word2vec.c, this happens before
    windows are applied. Each center token draws its window size from 1..`window_size` (Mikolov et al.
    2013, arXiv:1301.3781, section 3.2) and forms a pair with each neighbor in its window and its document.
    Slots are ordered by offset, then by center. With window_size 2, where the second token drew 1 and
    the others 2 (four slots for each of the offsets -2, -1, 1, 2):

        inputs.tokens     [ 21, 22, 23, 31 ]     segment_ids [ 1, 1, 1, 2 ]
        targets           [ 0, 0, 21, 22,   0, 21, 22, 23,   22, 23, 31, 0,   23, 31, 0, 0 ]
        loss_weights      [ 0, 0, 1, 0,     0, 1, 1, 0,      1, 1, 0, 0,      1, 0, 0, 0 ]
        target_positions  [ 0, 1, 2, 3,     0, 1, 2, 3,      0, 1, 2, 3,      0, 1, 2, 3 ]

    All pairs of a row share its negative samples (Ji et al. 2016, arXiv:1604.04661). Each of the
    `num_shared_negatives` samples has weight num_negatives / num_shared_negatives in each pair. The expected
    loss is the same as with `num_negatives` samples per pair (equation 4), at the cost of one matrix product.
    """

    name: ClassVar[str] = "skip_gram"
    architectures: ClassVar[tuple[str, ...]] = (EMBEDDINGS,)
    unsupported: ClassVar[dict[str, str]] = dict.fromkeys(
        ARCHITECTURES, "it scores pairs of words by their dot product, without a Transformer"
    )
    not_invertible_because: ClassVar[str] = "the batch lacks the tokens that subsampling removed"

    window_size: int = option(
        5, "maximum window size; each center token draws from 1 to this", min=1, max=64
    )
    num_negatives: int = option(5, "negative samples per pair (k in the paper)", min=1)
    num_shared_negatives: int = option(32, "negative samples shared by all pairs of a row", min=1)
    subsample_threshold: float = option(
        1e-4, "relative frequency above which tokens are subsampled; 0: none", min=0, max=1
    )
    ns_exponent: float = option(
        0.75, "negative samples are drawn by frequency to this power", min=0, max=1
    )

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        """Subsampling keeps T of `raw` tokens on average; tokens beyond T are not read."""
        T = spec.seq_len
        probs = _unigram(spec).shares * _is_regular(spec) * self._keep_probs(spec)
        raw = max(T, round(T / float(probs.sum())))
        return SequenceLengths(raw=raw, inputs=T, targets=T * 2 * self.window_size, overlap=0)

    def expected_num_targets(self, spec: ObjectiveSpec) -> float:
        return spec.seq_len * (self.window_size + 1)

    def describe(self, spec: ObjectiveSpec) -> str:
        lengths, k = self.lengths(spec), self.num_negatives
        entropy = np.log1p(k) + k * np.log1p(1 / k)
        return (
            f"{self.name}: subsampling keeps {lengths.inputs} of {lengths.raw} raw tokens per row, "
            f"{self.expected_num_targets(spec):.4g} pairs with {k} negative samples each; the loss "
            f"of vectors that carry no information is {entropy:.3f}"
        )

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        """Draws 32 bits per raw token and per negative sample. The upper 20 bits of a raw token decide
        whether it is kept; the lower 12 bits of the first T tokens give the window sizes."""
        T, w, vocabulary = spec.seq_len, self.window_size, spec.vocabulary
        raw = row.shape[0]
        bits = jax.random.bits(rng, (raw + self.num_shared_negatives,), jnp.uint32)
        keep_probs = np.round(self._keep_probs(spec) * _is_regular(spec) * 2**20)
        kept = bits[:raw] >> 12 < jnp.asarray(keep_probs, jnp.uint32)[row]
        window = 1 + ((bits[:T] & 0xFFF) * w >> 12).astype(jnp.int32)
        positions, filled = select_positions(kept, T)
        segment_ids = document_ids(row, vocabulary, spec.architecture)[positions]
        segment_ids = jnp.where(filled, segment_ids, jnp.zeros_like(segment_ids))
        tokens = jnp.where(filled, row[positions], jnp.full_like(segment_ids, vocabulary.pad))
        targets, pairs = [], []
        for offset in (*range(-w, 0), *range(1, w + 1)):
            targets.append(shift(tokens, offset))
            same = (segment_ids > 0) & (shift(segment_ids, offset) == segment_ids)
            pairs.append(same & (abs(offset) <= window))
        shares = _unigram(spec).shares
        noise = np.where(shares > 0, shares**self.ns_exponent, 0.0) * _is_regular(spec)
        return Batch(
            inputs=make_inputs(tokens, segment_ids),
            targets=jnp.concatenate(targets),
            loss_weights=jnp.concatenate(pairs).astype(jnp.float32),
            target_positions=jnp.asarray(np.tile(np.arange(T, dtype=np.int32), 2 * w)),
            negatives=sample_by_weight(bits[raw:], noise),
        )

    def init(self, model, rng: jax.Array, batch: Batch) -> dict:
        return model.init(rng, batch.inputs, method="init_all")["params"]

    def losses(self, model, params, batch: Batch, dropout_rng: jax.Array | None) -> dict:
        """`skip_gram`: the negative of equation 4 per pair; `accuracy`: the share of scores with the
        correct sign. All targets are tokens of the row, so their scores are a band of one matrix
        product."""

        def context_vectors(ids):
            return model.apply({"params": params}, ids, method="context_vectors")

        centers = model.apply({"params": params}, batch.inputs)  # [B,T,D]
        weights = batch.loss_weights.reshape(len(centers), 2 * self.window_size, -1)  # [B,2w,T]
        positive = band(centers, context_vectors(batch.inputs.tokens), self.window_size)
        negatives = context_vectors(batch.negatives)
        negative = jnp.einsum(
            "BTD,BND->BTN", centers, negatives, preferred_element_type=jnp.float32
        )
        pairs, share = weights.sum(1), self.num_negatives / self.num_shared_negatives
        total = (weights * jax.nn.softplus(-positive)).sum()
        total += (pairs * jax.nn.softplus(negative).sum(-1)).sum() * share
        hits = jnp.where(positive > 0, weights, jnp.zeros_like(weights)).sum()
        hits += (pairs * (negative <= 0).sum(-1, dtype=jnp.float32)).sum() * share
        weight = pairs.sum()
        return {
            "skip_gram": (total, weight),
            "accuracy": (hits, weight * (1 + self.num_negatives)),
        }

    def loss_coefficients(self) -> dict[str, float]:
        return {"skip_gram": 1.0}

    def loss_denominators(self, batch: Batch) -> dict[str, jax.Array]:
        return {"skip_gram": batch.loss_weights.sum()}

    def target_classes(self, model, params, batch: Batch, rng: jax.Array | None) -> dict:
        """Per pair: one neighbor (class 1) and `num_negatives` negative samples (class 0)."""
        pairs = batch.loss_weights.sum()
        weights = jnp.stack([pairs, pairs * self.num_negatives])
        return {"skip_gram": (jnp.array([1, 0], jnp.int32), weights)}

    def flops_spec(self, config, params, batch: Batch) -> tuple:
        return ((config, params, {}),)

    def _keep_probs(self, spec):
        return _unigram(spec).keep_probs(self.subsample_threshold)


def shift(x: jax.Array, offset: int) -> jax.Array:
    """[T], with the dtype of x: x[t + offset] for each t; 0 beyond the row."""
    T, w = x.shape[0], abs(offset)
    return jnp.pad(x, w)[w + offset : w + offset + T]


def band(x: jax.Array, y: jax.Array, window_size: int) -> jax.Array:
    """x, y [B,T,D] -> float32[B,2w,T]: x[t] . y[t + o] for the offsets o = -w..-1, 1..w, where w is
    `window_size`; 0 beyond the row.

    Computes the whole product and reads its diagonals: reshaped to rows that are one entry longer, each
    diagonal is a column.
    """
    B, T, _ = x.shape
    w = window_size
    y = jnp.pad(y, ((0, 0), (w, w), (0, 0)))
    scores = jnp.einsum("BTD,BSD->BTS", x, y, preferred_element_type=jnp.float32)
    scores = jnp.pad(scores.reshape(B, -1), ((0, 0), (0, T))).reshape(B, T, T + 2 * w + 1)
    scores = jnp.concatenate([scores[:, :, :w], scores[:, :, w + 1 : 2 * w + 1]], axis=-1)
    return scores.swapaxes(1, 2)


def _unigram(spec):
    if spec.unigram is None:
        raise ValueError(
            "skip_gram samples words by frequency, but ObjectiveSpec.unigram is missing: give "
            "ObjectiveSpec(unigram=Unigram(counts)), as tasks/pretraining.py does"
        )
    return spec.unigram


def _is_regular(spec):
    """float64[V]: 1 = a regular token."""
    regular = np.zeros(len(_unigram(spec).shares))
    for low, high in spec.vocabulary.regular_token_ranges:
        regular[low:high] = 1
    return regular
