"""skip_gram: each word tells its neighbours from noise (word2vec; Mikolov et al. 2013, 1310.4546).
An objective of the registry, for the model `WordVectors`; the row comes out shorter than it went in.
Everything is a matrix product: scores of a row against itself, and against its own noise words.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import knob
from models.sequence import sequence_of
from objectives.base import ARCHITECTURES, EMBEDDINGS, Objective, Setting, Shapes
from objectives.batch import Batch
from objectives.noise import slots
from objectives.segments import documents
from objectives.unigram import sampled


@dataclass(frozen=True)
class SkipGram(Objective):
    """Skip-gram with negative sampling (section 2.2) and subsampling (section 2.3).

    Of a row, frequent pieces are thrown away by chance and what is left moves together, as in the
    published program: windows reach over the gaps. Each centre then draws its window from
    1..`window` (Mikolov et al. 2013, 1301.3781, section 3.2); its neighbours within it, in its own
    document, are pairs. With window 2, where the second piece drew 1 and the others 2, slots being
    all centres' at the offset -2, then at -1, 1 and 2:

        inputs.tokens    [ 21, 22, 23, 31 ]     segments [ 1, 1, 1, 2 ]
        targets          [ 0, 0, 21, 22,   0, 21, 22, 23,   22, 23, 31, 0,   23, 31, 0, 0 ]
        weights          [ 0, 0, 1, 0,     0, 1, 1, 0,      1, 1, 0, 0,      1, 0, 0, 0 ]
        indices          [ 0, 1, 2, 3,     0, 1, 2, 3,      0, 1, 2, 3,      0, 1, 2, 3 ]

    The noise words of equation 4 are drawn once for a row and shared by its pairs (Ji et al. 2016,
    1604.04661): a pair meets each of `noise_words` with weight negatives / noise_words, which has
    the expectation of drawing `negatives` for it alone, and is a matrix product.
    """

    name: ClassVar[str] = "skip_gram"
    architectures: ClassVar[tuple[str, ...]] = (EMBEDDINGS,)
    unfit: ClassVar[dict[str, str]] = dict.fromkeys(
        ARCHITECTURES, "it scores single words by their dot product, with no network above them"
    )
    irreversible: ClassVar[str] = "what subsampling throws away is nowhere in the batch"

    window: int = knob(5, "furthest neighbour; each centre draws from 1 to this", min=1, max=64)
    negatives: int = knob(5, "noise words that a pair counts (k of the paper)", min=1)
    noise_words: int = knob(32, "noise words drawn for a row, shared by its pairs", min=1)
    subsampling: float = knob(1e-4, "share above which pieces are thinned; 0: never", min=0, max=1)
    power: float = knob(0.75, "of the frequency, for drawing noise words", min=0, max=1)

    def shapes(self, setting: Setting) -> Shapes:
        """T = setting.length pieces are left of as many raw ones as are needed on average; what
        is left beyond T is not read."""
        T = setting.length
        raw = max(T, round(T / self._kept_share(setting)))
        return Shapes(raw=raw, inputs=T, targets=T * 2 * self.window, overlap=0)

    def targets_expected(self, setting: Setting) -> float:
        return setting.length * (self.window + 1)

    def describe(self, setting: Setting) -> str:
        shapes, k = self.shapes(setting), self.negatives
        level = np.log1p(k) + k * np.log1p(1 / k)
        return (
            f"{self.name}: of {shapes.raw} raw tokens a row {shapes.inputs} are left by subsampling, "
            f"{self.targets_expected(setting):.4g} pairs with {k} noise words each; a loss of "
            f"{level:.3f} tells no word from another"
        )

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        """One draw of 32 bits for each raw piece: its upper 20 say whether it stays, the lower 12 of
        the first T how far the centres reach; and one for each noise word."""
        T, w, vocabulary = setting.length, self.window, setting.vocabulary
        raw = row.shape[0]
        draws = jax.random.bits(key, (raw + self.noise_words,), jnp.uint32)
        kept = np.round(_unigram(setting).kept(self.subsampling) * _ordinary(setting) * 2**20)
        stays = draws[:raw] >> 12 < jnp.asarray(kept, jnp.uint32)[row]
        reach = 1 + ((draws[:T] & 0xFFF) * w >> 12).astype(jnp.int32)
        places, filled = slots(stays, T)
        segments = documents(row, vocabulary, setting.architecture)[places]
        segments = jnp.where(filled, segments, jnp.zeros_like(segments))
        tokens = jnp.where(filled, row[places], jnp.full_like(segments, vocabulary.pad))
        targets, pairs = [], []
        for offset in offsets(w):
            targets.append(beside(tokens, offset))
            same = (segments > 0) & (beside(segments, offset) == segments)
            pairs.append(same & (abs(offset) <= reach))
        return Batch(
            inputs=sequence_of(tokens, segments),
            decoder=None,
            targets=jnp.concatenate(targets),
            weights=jnp.concatenate(pairs).astype(jnp.float32),
            indices=jnp.asarray(np.tile(np.arange(T, dtype=np.int32), 2 * w)),
            noise=sampled(draws[raw:], self._noise_weights(setting)),
        )

    def coefficients(self) -> dict[str, float]:
        return {"skip_gram": 1.0}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"skip_gram": batch.weights.sum()}

    def answers(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """Of each pair: one word that is near (class 1), and `negatives` that are noise (class 0)."""
        pairs = batch.weights.sum()
        return {
            "skip_gram": (jnp.array([1, 0], jnp.int32), jnp.stack([pairs, pairs * self.negatives]))
        }

    def losses(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """{name: (sum, pairs)}: equation 4 negated, and how often a score has the right sign.

        A row is its own context: targets are read out of its tokens, as a band of one product.
        """

        def contexts(ids):
            return model.apply({"params": params}, ids, method="contexts")

        centres = model.apply({"params": params}, batch.inputs)  # [B,T,D]
        weights = batch.weights.reshape(len(centres), 2 * self.window, -1)  # [B,2w,T]
        near = band(centres, contexts(batch.inputs.tokens), self.window)
        far = jnp.einsum(
            "BTD,BND->BTN", centres, contexts(batch.noise), preferred_element_type=jnp.float32
        )
        pairs, share = weights.sum(1), self.negatives / self.noise_words
        total = (weights * jax.nn.softplus(-near)).sum()
        total += (pairs * jax.nn.softplus(far).sum(-1)).sum() * share
        hits = jnp.where(near > 0, weights, jnp.zeros_like(weights)).sum()
        hits += (pairs * (far <= 0).sum(-1, dtype=jnp.float32)).sum() * share
        weight = pairs.sum()
        return {
            "skip_gram": (total, weight),
            "accuracy": (hits, weight * (1 + self.negatives)),
        }

    def _kept_share(self, setting: Setting) -> float:
        """The part of the corpus that subsampling leaves."""
        unigram, real = _unigram(setting), _ordinary(setting)
        return float((unigram.shares * real * unigram.kept(self.subsampling)).sum())

    def _noise_weights(self, setting: Setting) -> np.ndarray:
        """Weights float64[V] of noise words: unigram^power over ordinary pieces that occur."""
        shares = _unigram(setting).shares
        return np.where(shares > 0, shares**self.power, 0.0) * _ordinary(setting)


def offsets(window: int) -> list[int]:
    """-window..-1, 1..window: where the neighbours stand."""
    return [*range(-window, 0), *range(1, window + 1)]


def beside(x: jax.Array, offset: int) -> jax.Array:
    """[T], as x: what stands `offset` to the right of each position; 0 beyond the row."""
    T, w = x.shape[0], abs(offset)
    return jnp.pad(x, w)[w + offset : w + offset + T]


def band(x: jax.Array, y: jax.Array, window: int) -> jax.Array:
    """x, y [B,T,D] -> float32[B,2w,T]: x[t] . y[t + o] for o of `offsets`; 0 beyond the row.

    The whole product is made, then read along its diagonals: in rows that are one entry longer than
    the product's, a diagonal stands upright.
    """
    B, T, _ = x.shape
    w = window
    y = jnp.pad(y, ((0, 0), (w, w), (0, 0)))
    scores = jnp.einsum("BTD,BSD->BTS", x, y, preferred_element_type=jnp.float32)
    scores = jnp.pad(scores.reshape(B, -1), ((0, 0), (0, T))).reshape(B, T, T + 2 * w + 1)
    scores = jnp.concatenate([scores[:, :, :w], scores[:, :, w + 1 : 2 * w + 1]], axis=-1)
    return scores.swapaxes(1, 2)


def _unigram(setting):
    if setting.unigram is None:
        raise ValueError(
            "skip_gram draws words by how often they occur: give Setting(unigram=Unigram(counts)), "
            "as train.py does from its token store"
        )
    return setting.unigram


def _ordinary(setting):
    """float64[V]: 1 = an ordinary piece."""
    real = np.zeros(len(_unigram(setting).shares))
    for low, high in setting.vocabulary.ordinary:
        real[low:high] = 1
    return real
