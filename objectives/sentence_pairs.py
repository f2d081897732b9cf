"""next_sentence and sentence_order: does the second text follow the first? (BERT, ALBERT)
Objectives of the registry for an encoder, by default added to masked LM over the same pair.
Both texts come from one raw row, twice as long as what is read: a pair is a function of its row.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from models.config import knob
from models.sequence import Sequence, sequence_of
from objectives.base import Objective, Setting, Shapes, all_states, predicting
from objectives.batch import Batch
from objectives.heads import PairHead, with_head
from objectives.noise import check_shares, masked_pieces, noise_count
from objectives.segments import documents, runs

FRAME = 3  # [CLS] and two [SEP]
IN_ORDER, NOT = 0, 1  # labels, numbered as BERT's are


@dataclass(frozen=True)
class SentencePairs(Objective):
    """What the two objectives share: the cut, the frame, the head and the losses.

    A row is cut between two pieces of one document, each such place as likely; what lies before it
    and what lies behind it are the two texts, of random lengths that fill the room there is (BERT's
    "sentence" is any span of text, too). With T 8, a cut before 23, and a second text that
    next_sentence takes from elsewhere:

        row               [ 2, 21, 22, 23, 24, 3, 2, 31, 32, 33, 3, 2, 41, 3, 0, 0 ]
        inputs.tokens     [ 2, 21, 22, 3, 5, 33, 3, 0 ]
        inputs.segments   [ 1,  1,  1, 1, 1,  1, 1, 0 ]
        inputs.types      [ 0,  0,  0, 0, 1,  1, 1, 0 ]
        labels            [ 1 ]
        indices           [ 4 ]
        targets           [ 32 ]
        weights           [ 1 ]

    A row in which there is no pair, such as one of padding, has label -1.
    """

    architectures: ClassVar[tuple[str, ...]] = ("encoder",)
    unfit: ClassVar[dict[str, str]] = {
        "decoder": "a decoder's first state, which would tell, has seen nothing; use causal_lm",
        "encoder_decoder": "its encoder's rows have no [CLS] to tell from; use span_corruption",
    }
    irreversible: ClassVar[str] = "of its row it reads two texts and not what lies around them"
    token_types: ClassVar[int] = 2

    masked_lm: float = knob(1.0, "coefficient of masked LM over the pair; 0: none", min=0.0)
    noise_density: float = knob(0.15, "share of the pieces it predicts", min=0.001, max=1.0)
    random: float = knob(0.1, "share of these that show a random piece", min=0.0, max=1.0)
    keep: float = knob(0.1, "share that show themselves; the rest [MASK]", min=0.0, max=1.0)
    short: float = knob(0.1, "share of the pairs with less room, at random", min=0.0, max=1.0)

    def __post_init__(self):
        check_shares(self.random, self.keep)

    def shapes(self, setting: Setting) -> Shapes:
        if self.masked_lm:
            setting.require("mask")
        T = setting.length
        if T < FRAME + 2:
            raise ValueError(
                f"length {T} is too short for {self.name}: expected room for [CLS], two [SEP] and "
                f"a piece of each text; make it {FRAME + 2} or more"
            )
        return Shapes(raw=2 * T, inputs=T, targets=self._noise(T - FRAME), overlap=1)

    def _noise(self, pieces: int) -> int:
        """Pieces that masked LM predicts among so many."""
        return noise_count(self.noise_density, pieces) if self.masked_lm else 0

    def targets_expected(self, setting: Setting) -> float:
        return 1 + self._noise(setting.length - FRAME)

    def describe(self, setting: Setting) -> str:
        shapes = self.shapes(setting)
        return (
            f"{self.name}: {shapes.raw} raw tokens a row, a pair of texts in {shapes.inputs} read, "
            f"its label and {shapes.targets} pieces predicted"
        )

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        pair_key, mask_key = jax.random.split(key)
        texts, label = self._pair(setting, pair_key, row)
        pair = framed(setting, row, texts)
        shown, targets, indices, filled = masked_pieces(
            mask_key,
            pair.tokens,
            setting.vocabulary,
            self._noise,
            self.shapes(setting).targets,
            self.random,
            self.keep,
        )
        return Batch(
            inputs=pair.replace(tokens=shown),
            decoder=None,
            targets=targets,
            weights=filled.astype(jnp.float32),
            indices=indices,
            labels=label,
        )

    def _pair(self, setting, key, row):
        """-> (two texts (start, length) of row int32[raw] in the order of reading, label int32[])."""
        vocabulary = setting.vocabulary
        cut_key, short_key, room_key, length_key, label_key, other_key = jax.random.split(key, 6)
        segments = documents(row, vocabulary, setting.architecture)
        text = (segments > 0) & (row != vocabulary.cls) & (row != vocabulary.sep)
        start, end = runs(text)
        index = jnp.arange(row.shape[0], dtype=jnp.int32)
        cuts = text & (index > start)
        cut = one_of(cut_key, cuts)

        most = setting.length - FRAME
        room = jax.random.randint(room_key, (), 2, most + 1)
        room = jnp.where(jax.random.uniform(short_key) < self.short, room, most)
        drawn = jax.random.randint(length_key, (), 1, room)
        before, behind = cut - start[cut], end[cut] - cut
        behind = jnp.minimum(behind, self._longest(text, segments, cut, end))
        first = jnp.minimum(before, jnp.maximum(drawn, room - behind))
        second = jnp.minimum(behind, room - first)
        texts, usable = self._alternative(
            other_key, text, segments, end, (cut - first, first), (cut, second)
        )
        in_order, not_in_order = texts
        label = jax.random.bernoulli(label_key).astype(jnp.int32)
        chosen = jax.tree.map(
            lambda a, b: jnp.where((label == NOT) & usable, b, a), in_order, not_in_order
        )
        some = cuts.any()
        chosen = jax.tree.map(lambda x: jnp.where(some, x, jnp.zeros_like(x)), chosen)
        return chosen, jnp.where(some & usable, label, jnp.int32(-1))

    def _longest(self, text, segments, cut, end):
        """How long the second text may be at most, besides what follows the cut: int32[].

        bool[raw] text: 1 = neither [CLS] nor [SEP] nor padding; int32[raw] segments, and end: the
        first position behind the text that a position is in; int32[] cut: where the second begins.
        """
        raise NotImplementedError

    def _alternative(self, key, text, segments, end, first, second):
        """-> ((the pair in order, the pair that is not), bool[]: there is such a pair); first and
        second are the (start, length) of the texts around the cut, the others as in `_longest`."""
        raise NotImplementedError

    # ---- losses ----------------------------------------------------------------------------------

    def initialise(self, model, key: jax.Array, batch: Batch) -> dict:
        trunk_key, head_key = jax.random.split(key)
        method = "initialise" if self.masked_lm else "__call__"
        params = model.init(trunk_key, batch.inputs, method=method)["params"]
        return with_head(params, "pair", PairHead(model.config), head_key)

    def networks(self, config, params, batch: Batch) -> tuple:
        return ((config, params, {"lm": batch.targets.shape[-1], "pair": 1}),)

    def coefficients(self) -> dict[str, float]:
        lm = {"lm": self.masked_lm} if self.masked_lm else {}
        return {"pair": 1.0, **lm}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        lm = {"lm": batch.weights.sum()} if self.masked_lm else {}
        return {"pair": (batch.labels >= 0).sum(dtype=jnp.float32), **lm}

    def answers(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """`pair`: 0 or 1 of each row int32[B]; `lm`: the pieces int32[B,N]; and their weights."""
        lm = {"lm": (batch.targets, batch.weights)} if self.masked_lm else {}
        known = batch.labels >= 0
        pair = jnp.where(known, batch.labels, jnp.int32(0)), known.astype(jnp.float32)
        return {"pair": pair, **lm}

    def losses(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        states = all_states(model, params, batch, key)
        head = {"params": params["heads"]["pair"]}
        logits = PairHead(model.config).apply(head, states[:, 0])
        labels, weights = self.answers(model, params, batch, key)["pair"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = (logits.argmax(-1).astype(jnp.int32) == labels).astype(jnp.float32)
        sums = {
            "pair": ((losses * weights).sum(), weights.sum()),
            "pair_accuracy": ((hits * weights).sum(), weights.sum()),
        }
        if not self.masked_lm:
            return sums
        return {**sums, **self.scores(model, params, predicting(states, batch), batch)}


@dataclass(frozen=True)
class NextSentence(SentencePairs):
    """BERT's next-sentence prediction (Devlin et al. 2019, section 3.1 and appendix A.1): half of
    the second texts follow the first, half come from elsewhere.

    Elsewhere is another document of the raw row, or, where that holds one document alone, a part
    of it that is neither the first text nor what follows it. How long the texts are does not tell:
    the second one is no longer than either source allows, whichever it is taken from.
    """

    name: ClassVar[str] = "next_sentence"

    def _longest(self, text, segments, cut, end):
        index = jnp.arange(text.shape[0], dtype=jnp.int32)
        others = text & (segments != segments[cut])
        longest = jnp.where(others, end - index, jnp.zeros_like(end)).max()
        return jnp.where(others.any(), longest, jnp.int32(text.shape[0]))

    def _alternative(self, key, text, segments, end, first, second):
        index = jnp.arange(text.shape[0], dtype=jnp.int32)
        others = text & (segments != segments[second[0]])
        left = text & (index < first[0])
        right = text & (index >= second[0] + second[1])
        elsewhere = jnp.where(others.any(), others, left | right)
        end = jnp.where(left & ~others, jnp.minimum(end, first[0]), end)
        length = jnp.where(elsewhere, end - index, jnp.zeros_like(end))
        size = jnp.minimum(second[1], length.max())
        usable = size > 0
        other = one_of(key, elsewhere & (length >= size))
        size = jnp.where(usable, size, second[1])
        follows, foreign = (second[0], size), (other, size)
        return ((first, follows), (first, foreign)), usable


@dataclass(frozen=True)
class SentenceOrder(SentencePairs):
    """ALBERT's sentence-order prediction (Lan et al. 2020, section 3.1): two consecutive texts of one
    document, in half of the rows in exchanged order."""

    name: ClassVar[str] = "sentence_order"

    def _longest(self, text, segments, cut, end):
        return jnp.int32(text.shape[0])

    def _alternative(self, key, text, segments, end, first, second):
        return ((first, second), (second, first)), jnp.bool_(True)


def one_of(key: jax.Array, eligible: jax.Array) -> jax.Array:
    """int32: one of the eligible positions of bool[L], each as likely; 0 if there is none."""
    scores = jnp.where(eligible, jax.random.uniform(key, eligible.shape), jnp.float32(-1))
    return scores.argmax().astype(jnp.int32)


def framed(setting: Setting, row: jax.Array, texts) -> Sequence:
    """[CLS] A [SEP] B [SEP] as a Sequence of T places: one segment, whose token types are 0 up to
    the first [SEP] and 1 behind it (Devlin et al. 2019, figure 2). texts: two (start, length), int32[]
    each, of row int32[raw]; both of no length: padding.
    """
    (first, before), (second, behind) = texts
    vocabulary = setting.vocabulary
    place = jnp.arange(setting.length, dtype=jnp.int32)
    middle, last = before + 1, before + behind + 2
    source = jnp.where(place <= middle, first + place - 1, second + place - middle - 1)
    tokens = row[jnp.clip(source, 0, row.shape[0] - 1)]
    tokens = jnp.where((place == middle) | (place == last), vocabulary.sep, tokens)
    tokens = jnp.where(place == 0, vocabulary.cls, tokens)
    real = (place <= last) & (before + behind > 0)
    return sequence_of(
        jnp.where(real, tokens, vocabulary.pad),
        real.astype(jnp.int32),
        types=(real & (place > middle)).astype(jnp.int32),
    )
