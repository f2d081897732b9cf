"""prefix_lm: the beginning of each document is given, the rest is typed (Liu et al. 2018; T5).
An objective of the registry, for the two architectures that type.
The split of each document is drawn uniformly, as in T5 (Raffel et al. 2020, section 3.2.3).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import knob
from models.sequence import sequence_of
from objectives.assemble import compact, padded, sides, typed
from objectives.base import Objective, Setting, Shapes
from objectives.batch import Batch
from objectives.noise import count_of
from objectives.segments import documents, lengths


@dataclass(frozen=True)
class PrefixLM(Objective):
    """Of a document's n tokens in the row the first ones are its prefix, the others targets: 1 to
    n - 1, each number as likely; or fewer, so that they are `noise_density` of it on average. A
    document of one token has no target.

    A decoder reads the row as it is, seeing all of a prefix from everywhere in its document. The
    encoder of an encoder-decoder reads every prefix, each closed by [EOS] as its inputs are in
    finetuning; the decoder types every rest. Both sides have T static places, since a split may
    fall anywhere: half of them are padding on average. With T 8 and documents of two tokens:

        row               [ 21, 4, 31, 4, 41, 42, 0, 0 ]
        inputs.tokens     [ 21, 4, 31, 4, 41,  4, 0, 0 ]
        inputs.segments   [  1, 1,  2, 2,  3,  3, 0, 0 ]
        decoder.tokens    [  6, 6,  6, 0,  0,  0, 0, 0 ]
        decoder.segments  [  1, 2,  3, 0,  0,  0, 0, 0 ]
        targets           [  4, 4, 42, 0,  0,  0, 0, 0 ]
        weights           [  1, 1,  1, 0,  0,  0, 0, 0 ]
    """

    name: ClassVar[str] = "prefix_lm"
    architectures: ClassVar[tuple[str, ...]] = ("decoder", "encoder_decoder")
    unfit: ClassVar[dict[str, str]] = {
        "encoder": "an encoder types nothing; use masked_lm",
    }

    noise_density: float = knob(
        0.5, "share of a document that is typed, on average", min=0.001, max=0.5
    )

    def shapes(self, setting: Setting) -> Shapes:
        T = setting.length
        if setting.architecture == "decoder":  # reads all but the last token, as causal_lm does
            return Shapes(raw=T + 1, inputs=T, targets=T, overlap=1)
        return Shapes(raw=T, inputs=T, targets=T, overlap=0)

    def targets_expected(self, setting: Setting) -> float:
        return self.shapes(setting).raw * self.noise_density

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        vocabulary, shapes = setting.vocabulary, self.shapes(setting)
        segments = documents(row, vocabulary, setting.architecture)
        place = sequence_of(row, segments).positions
        whole = lengths(segments)
        most = count_of(
            whole, row.shape[0], lambda n: max(1, round(2 * self.noise_density * n) - 1)
        )
        rest = jax.random.randint(key, whole.shape, 1, most + 1)
        split = jnp.maximum(whole - rest, 1)[segments]
        real = segments > 0
        rest, shown = real & (place >= split), row
        if setting.architecture == "decoder":  # the token that is not read is never given
            rest = rest.at[-1].set(real[-1])
        given = real & ~rest
        if setting.architecture == "encoder_decoder":  # where the rest begins there is room
            shown = jnp.where(given, row, vocabulary.eos)
            given = real & (place <= split)
        return typed(
            setting,
            compact(given, shapes.inputs, shown, segments, vocabulary.pad),
            compact(rest, shapes.targets, row, segments, vocabulary.pad),
        )

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        pad = setting.vocabulary.pad
        if setting.architecture == "encoder_decoder":
            row = []
            for given, rest in sides(setting, batch):
                row += given[:-1] + rest if rest else given
            return padded(row, setting.length, pad)
        row = np.append(batch.inputs.tokens, np.int32(pad))
        # The token that was not read is the last target: of a document, or (weight 0) a first one.
        filled = np.flatnonzero(batch.targets != pad)
        unread = (batch.indices == setting.length - 1) | (batch.weights == 0)
        if filled.size and unread[filled[-1]]:
            row[-1] = batch.targets[filled[-1]]
        return row
