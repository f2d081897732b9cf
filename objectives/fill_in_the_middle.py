"""fill_in_the_middle: a decoder generates the text between a prefix and a suffix (Bavarian et al. 2022).
It moves the middle of a document to the end and then trains a causal LM on all tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import option
from objectives.base import ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.causal_lm import CausalLM
from objectives.document_ids import document_ids
from objectives.seq2seq import pad_row


@dataclass(frozen=True)
class FillInTheMiddle(CausalLM):
    """Cuts a share `fim_rate` of the documents at two uniform random positions into prefix, middle and
    suffix. A share `spm_rate` of these has the suffix first (SPM), the others the prefix (PSM;
    section 3):

        PSM   [PRE] prefix [SUF] suffix [MID] middle [EOS]
        SPM   [PRE] [SUF] suffix [MID] prefix middle [EOS]

    With T 11 and [PRE] 10, [SUF] 11, [MID] 12, PSM for the first document, SPM for the second:

        row                 [ 21, 22, 23, 4, 31, 32, 4, 41, 42, 43, 44, 45 ]
        inputs.tokens       [ 10, 21, 11, 23, 12, 22, 4, 10, 11, 32, 12 ]
        inputs.segment_ids  [  1,  1,  1,  1,  1,  1, 1,  2,  2,  2,  2 ]
        targets             [ 21, 11, 23, 12, 22, 4, 10, 11, 32, 12, 31 ]
        loss_weights        [  1,  1,  1,  1,  1,  1,  0,  1,  1,  1,  1 ]

    The special tokens need space, so text is cut from the end of the row, before anything is moved
    ("context level", section 3.2): prefix and suffix are always complete. Documents are split at token
    boundaries, not characters, because rows are already tokenized.
    """

    name: ClassVar[str] = "fill_in_the_middle"
    unsupported: ClassVar[dict[str, str]] = {
        "encoder": "an encoder sees the middle; use masked_lm",
        "encoder_decoder": "an encoder reads both sides at once; use text_infilling",
    }
    is_likelihood: ClassVar[bool] = False

    fim_rate: float = option(0.5, "share of the documents that are rearranged", min=0.0, max=1.0)
    spm_rate: float = option(0.5, "share of these with the suffix first", min=0.0, max=1.0)

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        if len(spec.vocabulary.infill) != 3:
            raise ValueError(
                f"{self.name}: the tokenizer has no [PRE], [SUF] and [MID]: train a tokenizer with "
                "this project, or use causal_lm"
            )
        return super().lengths(spec)

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        return super().corrupt(spec, rng, self.rearrange(spec, rng, row))

    def rearrange(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> jax.Array:
        """row int32[L] -> int32[L] with its documents rearranged."""
        vocabulary, L = spec.vocabulary, row.shape[0]
        rngs = jax.random.split(rng, 4)
        doc = document_ids(row, vocabulary, spec.architecture)
        index, closes = jnp.arange(L, dtype=jnp.int32), row == vocabulary.eos

        def per_document(values, reduce=jax.ops.segment_sum):  # [L] -> [L + 1]
            return reduce(values.astype(jnp.int32), doc, num_segments=L + 1)

        # Per document: whether it is rearranged, how many of its tokens fit, its old and new start.
        drawn = jax.random.uniform(rngs[0], (L + 1,)) < self.fim_rate
        moved = drawn & (per_document((doc > 0) & ~closes) > 0)
        num_inserted = 3 * jnp.cumsum(moved, dtype=jnp.int32)
        kept = (doc > 0) & (index + num_inserted[doc] < L)
        size = per_document(kept & ~closes)
        first = per_document(index, jax.ops.segment_min)
        start = first + num_inserted - 3 * moved.astype(jnp.int32)

        cuts = [jax.random.randint(r, (L + 1,), 0, size + 1) for r in rngs[1:3]]
        a, b = jnp.minimum(*cuts), jnp.maximum(*cuts)  # the middle is tokens a..b-1
        spm = jax.random.uniform(rngs[3], (L + 1,)) < self.spm_rate
        # Per document: the offsets of [SUF] and [MID] from its start, which has [PRE].
        suf = 1 + jnp.where(spm, jnp.zeros_like(a), a)
        mid = suf + 1 + size - b
        # Per token: p, its old offset in its document; new, its new offset (after the last
        # line, its new index in the row).
        p = index - first[doc]
        after_mid = p + mid[doc] + 1 - jnp.where(spm, 0, a)[doc]  # middle; in SPM prefix and middle
        after_suf = p - b[doc] + suf[doc] + 1  # suffix
        new = jnp.where(p < b[doc], after_mid, after_suf)
        new = jnp.where((p < a[doc]) & ~spm[doc], p + 1, new)  # prefix in PSM
        new = jnp.where(closes, p + 3, new)
        new = start[doc] + jnp.where(moved[doc], new, p)

        out = jnp.full_like(row, vocabulary.pad)
        out = out.at[jnp.where(kept, new, jnp.int32(L))].set(row, mode="drop")
        has_text = moved & (size > 0)
        for token, offset in zip(vocabulary.infill, (jnp.zeros_like(suf), suf, mid), strict=True):
            out = out.at[jnp.where(has_text, start + offset, jnp.int32(L))].set(token, mode="drop")
        return out

    def reconstruct(self, spec: ObjectiveSpec, batch: Batch) -> np.ndarray:
        """The row without the text that `corrupt` cut from its end."""
        vocabulary, row, document = spec.vocabulary, [], []
        tokens = super().reconstruct(spec, batch).tolist()
        for token, following in zip(tokens, [*tokens[1:], vocabulary.pad], strict=True):
            document.append(token)
            if vocabulary.eos == token or vocabulary.pad in (token, following):
                row += _restore(document, vocabulary)
                document = []
        return pad_row(row, len(tokens), vocabulary.pad)


def _restore(document, vocabulary):
    """prefix + middle + suffix of a rearranged document; others unchanged."""
    pre, suf, mid = vocabulary.infill
    if document[0] != pre:
        return document
    body = document[:-1] if document[-1] == vocabulary.eos else document
    at_suf, at_mid = body.index(suf), body.index(mid)
    prefix, suffix, middle = body[1:at_suf], body[at_suf + 1 : at_mid], body[at_mid + 1 :]
    return prefix + middle + suffix + document[len(body) :]
