"""fill_in_the_middle: a decoder learns to write what stands between two texts (Bavarian et al. 2022).
An objective of the registry: a document's middle is moved to its end, then it is a causal LM.
Every token is a target, as in the paper: what is asked for is text, in another order.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import knob
from objectives.assemble import padded
from objectives.base import Setting, Shapes
from objectives.batch import Batch
from objectives.causal_lm import CausalLM
from objectives.segments import documents


@dataclass(frozen=True)
class FillInTheMiddle(CausalLM):
    """`rate` of the documents are cut at two places, each as likely as any other, into prefix,
    middle and suffix; `spm` of those are written suffix first (section 3):

        PSM   [PRE] prefix [SUF] suffix [MID] middle [EOS]
        SPM   [PRE] [SUF] suffix [MID] prefix middle [EOS]

    With T 11 and [PRE] 10, [SUF] 11, [MID] 12, PSM for the first document, SPM for the second:

        row               [ 21, 22, 23, 4, 31, 32, 4, 41, 42, 43, 44, 45 ]
        inputs.tokens     [ 10, 21, 11, 23, 12, 22, 4, 10, 11, 32, 12 ]
        inputs.segments   [  1,  1,  1,  1,  1,  1, 1,  2,  2,  2,  2 ]
        targets           [ 21, 11, 23, 12, 22, 4, 10, 11, 32, 12, 31 ]
        weights           [  1,  1,  1,  1,  1,  1,  0,  1,  1,  1,  1 ]

    What the three tokens leave no room for is cut off from the end of the row before anything is
    moved ("context level", section 3.2), so that prefix and suffix are always complete.
    The places are between pieces, not between characters: rows are tokenised before they are cut.
    """

    name: ClassVar[str] = "fill_in_the_middle"
    unfit: ClassVar[dict[str, str]] = {
        "encoder": "an encoder sees the middle; use masked_lm",
        "encoder_decoder": "an encoder reads both sides at once; use text_infilling",
    }
    likelihood: ClassVar[bool] = False

    rate: float = knob(0.5, "share of the documents that are rearranged", min=0.0, max=1.0)
    spm: float = knob(0.5, "share of those that are written suffix first", min=0.0, max=1.0)

    def shapes(self, setting: Setting) -> Shapes:
        if len(setting.vocabulary.infill) != 3:
            raise ValueError(
                f"{self.name}: the tokenizer has no [PRE], [SUF] and [MID]: "
                "use one that was trained here, or causal_lm"
            )
        return super().shapes(setting)

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        return super().corrupt(setting, key, self.rearranged(setting, key, row))

    def rearranged(self, setting: Setting, key: jax.Array, row: jax.Array) -> jax.Array:
        """row int32[L] -> int32[L] with the middles of its documents moved."""
        vocabulary, L = setting.vocabulary, row.shape[0]
        keys = jax.random.split(key, 4)
        segments = documents(row, vocabulary, setting.architecture)
        index, closes = jnp.arange(L, dtype=jnp.int32), row == vocabulary.eos

        def of_each(values, combine=jax.ops.segment_sum):  # [L] -> one for each document, [L + 1]
            return combine(values.astype(jnp.int32), segments, num_segments=L + 1)

        # Which documents are moved, how much of them there is room for, and where each begins.
        drawn = jax.random.uniform(keys[0], (L + 1,)) < self.rate
        moved = drawn & (of_each((segments > 0) & ~closes) > 0)
        marks = 3 * jnp.cumsum(moved, dtype=jnp.int32)
        kept = (segments > 0) & (index + marks[segments] < L)
        size = of_each(kept & ~closes)
        first = of_each(index, jax.ops.segment_min)
        begin = first + marks - 3 * moved.astype(jnp.int32)

        cuts = [jax.random.randint(k, (L + 1,), 0, size + 1) for k in keys[1:3]]
        a, b = jnp.minimum(*cuts), jnp.maximum(*cuts)  # the middle is a..b-1 of its document
        spm = jax.random.uniform(keys[3], (L + 1,)) < self.spm
        # Of each document: where [SUF] and [MID] go, counted from its beginning, which is [PRE].
        suf = 1 + jnp.where(spm, jnp.zeros_like(a), a)
        mid = suf + 1 + size - b
        # Of each token: p, its place in document s before, and `place`, that in the row afterwards.
        p, s = index - first[segments], segments
        behind_mid = p + mid[s] + 1 - jnp.where(spm, 0, a)[s]  # the middle; SPM: the prefix as well
        behind_suf = p - b[s] + suf[s] + 1
        place = jnp.where(p < b[s], behind_mid, behind_suf)
        place = jnp.where((p < a[s]) & ~spm[s], p + 1, place)  # PSM: the prefix
        place = jnp.where(closes, p + 3, place)
        place = begin[s] + jnp.where(moved[s], place, p)

        out = jnp.full_like(row, vocabulary.pad)
        out = out.at[jnp.where(kept, place, jnp.int32(L))].set(row, mode="drop")
        there = moved & (size > 0)
        for token, offset in zip(vocabulary.infill, (jnp.zeros_like(suf), suf, mid), strict=True):
            out = out.at[jnp.where(there, begin + offset, jnp.int32(L))].set(token, mode="drop")
        return out

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        """The beginning of the row: what there was room for."""
        vocabulary, row, document = setting.vocabulary, [], []
        tokens = super().inverse(setting, batch).tolist()
        for token, following in zip(tokens, [*tokens[1:], vocabulary.pad], strict=True):
            document.append(token)
            if vocabulary.eos == token or vocabulary.pad in (token, following):
                row += _restored(document, vocabulary)
                document = []
        return padded(row, len(tokens), vocabulary.pad)


def _restored(document, vocabulary):
    """prefix + middle + suffix of a document in either order; others as they are."""
    pre, suf, mid = vocabulary.infill
    if document[0] != pre:
        return document
    body = document[:-1] if document[-1] == vocabulary.eos else document
    at, to = body.index(suf), body.index(mid)
    prefix, suffix, middle = body[1:at], body[at + 1 : to], body[to + 1 :]
    return prefix + middle + suffix + document[len(body) :]
