"""next_sentence and sentence_order: predict whether one text follows another (BERT, ALBERT).
For encoders; by default combined with masked LM on the same pair. Both texts come from one raw row,
which is twice as long as the inputs, so a pair is a function of its row and rng.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from models.config import option
from models.inputs import ModelInputs, make_inputs
from objectives.base import Objective, ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.document_ids import document_ids, runs
from objectives.heads import PairHead, with_head
from objectives.lm_loss import TrainingLoss, last_hidden_states, lm_sums, select_target_positions
from objectives.noise import check_token_probs, mask_tokens, noise_count

NUM_SPECIAL = 3  # [CLS] and two [SEP]
IN_ORDER, NOT_IN_ORDER = 0, 1  # labels, numbered as in BERT


@dataclass(frozen=True)
class SentencePairs(Objective, TrainingLoss):
    """The common part of both objectives: the cut, the special tokens, the head and the losses.

    The row is cut at a uniform random position within a document. The texts before and after the cut
    form the pair; their lengths are random and fill the input as far as possible (BERT's "sentence"
    is an arbitrary span of text, too). With T 8, a cut before 23, and a second text that next_sentence
    takes from another document:

        row                    [ 2, 21, 22, 23, 24, 3, 2, 31, 32, 33, 3, 2, 41, 3, 0, 0 ]
        inputs.tokens          [ 2, 21, 22, 3, 5, 33, 3, 0 ]
        inputs.segment_ids     [ 1,  1,  1, 1, 1,  1, 1, 0 ]
        inputs.token_type_ids  [ 0,  0,  0, 0, 1,  1, 1, 0 ]
        labels                 [ 1 ]
        target_positions       [ 4 ]
        targets                [ 32 ]
        loss_weights           [ 1 ]

    A row has label -1, and no pair loss, if it has no pair (for example a row of padding), or if it has no
    text for a pair that is not in order. Masked LM still trains on rows of the second kind.
    """

    unsupported: ClassVar[dict[str, str]] = {
        "decoder": "the pair head reads a decoder's first state, which sees no text; use causal_lm",
        "encoder_decoder": "its rows have no [CLS] for the pair head; use span_corruption",
    }
    not_invertible_because: ClassVar[str] = "the batch has two texts of the row, not all of it"
    num_token_types: ClassVar[int] = 2

    mlm_loss_weight: float = option(1.0, "weight of the masked LM loss; 0: no masked LM", min=0.0)
    noise_density: float = option(
        0.15, "share of tokens that masked LM predicts", min=0.001, max=1.0
    )
    random_token_prob: float = option(
        0.1, "share of predicted tokens replaced by random tokens", min=0.0, max=1.0
    )
    keep_token_prob: float = option(
        0.1, "share of predicted tokens left unchanged; the rest become [MASK]", min=0.0, max=1.0
    )
    short_seq_prob: float = option(
        0.1, "share of pairs whose total length is random", min=0.0, max=1.0
    )

    def __post_init__(self):
        check_token_probs(self.random_token_prob, self.keep_token_prob)

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        if self.mlm_loss_weight:
            spec.require("mask")
        T = spec.seq_len
        if T < NUM_SPECIAL + 2:
            raise ValueError(
                f"seq_len {T} is too short for {self.name}: [CLS], two [SEP] and a token of each "
                f"text need {NUM_SPECIAL + 2} or more; raise it"
            )
        num_targets = self._num_noise(T - NUM_SPECIAL)
        return SequenceLengths(raw=2 * T, inputs=T, targets=num_targets, overlap=1)

    def _num_noise(self, tokens: int) -> int:
        return noise_count(self.noise_density, tokens) if self.mlm_loss_weight else 0

    def expected_num_targets(self, spec: ObjectiveSpec) -> float:
        return 1 + self._num_noise(spec.seq_len - NUM_SPECIAL)

    def describe(self, spec: ObjectiveSpec) -> str:
        lengths = self.lengths(spec)
        return (
            f"{self.name}: {lengths.raw} raw tokens per row, {lengths.inputs} input tokens (a pair "
            f"of texts), its label and {lengths.targets} tokens predicted"
        )

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        pair_rng, mask_rng = jax.random.split(rng)
        texts, label = self._draw_pair(spec, pair_rng, row)
        pair = make_pair(spec, row, texts)
        size, probs = self.lengths(spec).targets, (self.random_token_prob, self.keep_token_prob)
        masked, targets, positions, filled = mask_tokens(
            mask_rng, pair.tokens, spec.vocabulary, self._num_noise, size, *probs
        )
        return Batch(
            inputs=pair.replace(tokens=masked),
            targets=targets,
            loss_weights=filled.astype(jnp.float32),
            target_positions=positions,
            labels=label,
        )

    def _draw_pair(self, spec, rng, row):
        """-> (two texts (start, length) of row int32[raw] in reading order, label int32[])."""
        vocabulary = spec.vocabulary
        cut_rng, short_rng, max_rng, length_rng, label_rng, other_rng = jax.random.split(rng, 6)
        doc = document_ids(row, vocabulary, spec.architecture)
        text = (doc > 0) & (row != vocabulary.cls) & (row != vocabulary.sep)
        start, end = runs(text)
        index = jnp.arange(row.shape[0], dtype=jnp.int32)
        cuts = text & (index > start)
        cut = draw_position(cut_rng, cuts)

        max_tokens = spec.seq_len - NUM_SPECIAL
        max_length = jax.random.randint(max_rng, (), 2, max_tokens + 1)
        is_short = jax.random.uniform(short_rng) < self.short_seq_prob
        max_length = jnp.where(is_short, max_length, max_tokens)
        drawn = jax.random.randint(length_rng, (), 1, max_length)
        before, after = cut - start[cut], end[cut] - cut  # tokens on either side of the cut
        after = jnp.minimum(after, self._max_second_length(text, doc, cut, end))
        first_length = jnp.minimum(before, jnp.maximum(drawn, max_length - after))
        second_length = jnp.minimum(after, max_length - first_length)
        first, second = (cut - first_length, first_length), (cut, second_length)
        pairs, usable = self._candidate_pairs(other_rng, text, doc, end, first, second)
        in_order, not_in_order = pairs
        label = jax.random.bernoulli(label_rng).astype(jnp.int32)
        chosen = jax.tree.map(
            lambda a, b: jnp.where((label == NOT_IN_ORDER) & usable, b, a), in_order, not_in_order
        )
        has_cut = cuts.any()
        chosen = jax.tree.map(lambda x: jnp.where(has_cut, x, jnp.zeros_like(x)), chosen)
        return chosen, jnp.where(has_cut & usable, label, jnp.int32(-1))

    def _max_second_length(self, text, doc, cut, end) -> jax.Array:
        """int32[]: an upper bound of the length of the second text, besides the end of its document.

        Args:
          text: bool[raw], whether a token is not [CLS], [SEP] or padding.
          doc: int32[raw], document ids.
          cut: int32[], the start of the second text.
          end: int32[raw], the end of the run of text at each position.
        """
        raise NotImplementedError

    def _candidate_pairs(self, rng, text, doc, end, first, second) -> tuple:
        """((the pair in order, the pair not in order), bool[]: whether the second one exists). first,
        second: (start, length) of each text; a pair is a tuple of two. Other arguments as in
        `_max_second_length`."""
        raise NotImplementedError

    # ---- Losses ----------------------------------------------------------------------------------

    def init(self, model, rng: jax.Array, batch: Batch) -> dict:
        model_rng, head_rng = jax.random.split(rng)
        method = "init_all" if self.mlm_loss_weight else "__call__"
        params = model.init(model_rng, batch.inputs, method=method)["params"]
        return with_head(params, "pair", PairHead(model.config), head_rng)

    def losses(self, model, params, batch: Batch, dropout_rng: jax.Array | None) -> dict:
        states = last_hidden_states(model, params, batch, dropout_rng)
        head = {"params": params["heads"]["pair"]}
        logits = PairHead(model.config).apply(head, states[:, 0])
        labels, weights = self.target_classes(model, params, batch, dropout_rng)["pair"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = (logits.argmax(-1).astype(jnp.int32) == labels).astype(jnp.float32)
        sums = {
            "pair": ((losses * weights).sum(), weights.sum()),
            "pair_accuracy": ((hits * weights).sum(), weights.sum()),
        }
        if not self.mlm_loss_weight:
            return sums
        hidden = select_target_positions(states, batch)
        return {**sums, **lm_sums(model, params, hidden, batch, self.z_loss)}

    def loss_coefficients(self) -> dict[str, float]:
        lm = {"lm": self.mlm_loss_weight} if self.mlm_loss_weight else {}
        return {"pair": 1.0, **lm}

    def loss_denominators(self, batch: Batch) -> dict[str, jax.Array]:
        lm = {"lm": batch.loss_weights.sum()} if self.mlm_loss_weight else {}
        return {"pair": (batch.labels >= 0).sum(dtype=jnp.float32), **lm}

    def target_classes(self, model, params, batch: Batch, rng: jax.Array | None) -> dict:
        """`pair`: the label int32[B] of each row; `lm`: the masked tokens int32[B,N]."""
        lm = {"lm": (batch.targets, batch.loss_weights)} if self.mlm_loss_weight else {}
        has_label = batch.labels >= 0
        labels = jnp.where(has_label, batch.labels, jnp.int32(0))
        return {"pair": (labels, has_label.astype(jnp.float32)), **lm}

    def flops_spec(self, config, params, batch: Batch) -> tuple:
        return ((config, params, {"lm": batch.targets.shape[-1], "pair": 1}),)


@dataclass(frozen=True)
class NextSentence(SentencePairs):
    """BERT's next-sentence prediction (Devlin et al. 2019, section 3.1 and appendix A.1): half of
    the second texts follow the first, and half are random texts.

    A random text comes from another document of the raw row. In a row with only one document it is
    another part of that document, outside the pair. Text lengths do not reveal the label: the second
    text is never longer than either alternative allows.
    """

    name: ClassVar[str] = "next_sentence"

    def _max_second_length(self, text, doc, cut, end):
        index = jnp.arange(text.shape[0], dtype=jnp.int32)
        others = text & (doc != doc[cut])
        longest = jnp.where(others, end - index, jnp.zeros_like(end)).max()
        return jnp.where(others.any(), longest, jnp.int32(text.shape[0]))

    def _candidate_pairs(self, rng, text, doc, end, first, second):
        index = jnp.arange(text.shape[0], dtype=jnp.int32)
        others = text & (doc != doc[second[0]])
        left = text & (index < first[0])
        right = text & (index >= second[0] + second[1])
        elsewhere = jnp.where(others.any(), others, left | right)
        end = jnp.where(left & ~others, jnp.minimum(end, first[0]), end)
        length = jnp.where(elsewhere, end - index, jnp.zeros_like(end))
        size = jnp.minimum(second[1], length.max())
        usable = size > 0
        start = draw_position(rng, elsewhere & (length >= size))
        size = jnp.where(usable, size, second[1])
        return ((first, (second[0], size)), (first, (start, size))), usable


@dataclass(frozen=True)
class SentenceOrder(SentencePairs):
    """ALBERT's sentence-order prediction (Lan et al. 2020, section 3.1): two consecutive texts of one
    document, swapped in half of the rows."""

    name: ClassVar[str] = "sentence_order"

    def _max_second_length(self, text, doc, cut, end):
        return jnp.int32(text.shape[0])

    def _candidate_pairs(self, rng, text, doc, end, first, second):
        return ((first, second), (second, first)), jnp.bool_(True)


def draw_position(rng: jax.Array, eligible: jax.Array) -> jax.Array:
    """int32[]: a uniform random position of the ones in eligible bool[L]; 0 if there are none."""
    scores = jnp.where(eligible, jax.random.uniform(rng, eligible.shape), jnp.float32(-1))
    return scores.argmax().astype(jnp.int32)


def make_pair(spec: ObjectiveSpec, row: jax.Array, texts) -> ModelInputs:
    """[CLS] A [SEP] B [SEP] as ModelInputs [T] with one segment. Token types are 0 up to the first
    [SEP] and 1 after it (Devlin et al. 2019, figure 2). texts: the (start, length) int32[] of A and
    of B in row int32[raw]; if both lengths are 0, the result is padding.
    """
    (first, before), (second, after) = texts
    vocabulary = spec.vocabulary
    position = jnp.arange(spec.seq_len, dtype=jnp.int32)
    middle, last = before + 1, before + after + 2
    index = jnp.where(position <= middle, first + position - 1, second + position - middle - 1)
    tokens = row[jnp.clip(index, 0, row.shape[0] - 1)]
    tokens = jnp.where((position == middle) | (position == last), vocabulary.sep, tokens)
    tokens = jnp.where(position == 0, vocabulary.cls, tokens)
    real = (position <= last) & (before + after > 0)
    return make_inputs(
        jnp.where(real, tokens, vocabulary.pad),
        real.astype(jnp.int32),
        token_type_ids=(real & (position > middle)).astype(jnp.int32),
    )
