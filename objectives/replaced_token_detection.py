"""replaced_token_detection: which tokens did a generator put there? (ELECTRA; Clark et al. 2020)
An objective of the registry for an encoder: a small generator does masked LM, its samples fill the
masks, and the network itself, the discriminator, says of every token whether it was replaced.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models import build
from models.config import ModelConfig, knob
from models.sequence import sequence_of
from objectives.base import Objective, Setting, Shapes, all_states, hidden_states
from objectives.batch import Batch
from objectives.heads import DiscriminatorHead, with_head
from objectives.loss import sampled_pieces
from objectives.noise import masked_pieces, noise_count
from objectives.segments import among, documents


@dataclass(frozen=True)
class ReplacedTokenDetection(Objective):
    """ELECTRA, section 2: the generator's loss plus `coefficient` times the discriminator's, over
    all ordinary pieces, of which those that a sample restored count as original.

    Parameters: the discriminator's where any encoder has them, `heads/discriminator`, and
    `generator`, a network of a share of its size without an `embed` of its own: both read with the
    same tables (section 3.2). Samples are drawn by numbers that `corrupt` makes, one for each
    masked piece, in evaluation too; no gradient goes through them. The batch is masked_lm's and:

        row               [ 2, 21, 22, 23, 3, 0 ]
        inputs.tokens     [ 2, 21,  5, 23, 3, 0 ]    what the generator reads
        inputs.segments   [ 1,  1,  1,  1, 1, 0 ]
        targets           [ 22 ]
        weights           [ 1 ]
        indices           [ 2 ]

    with `draws`, one number for the 22. If the generator says 31, the discriminator reads 2 21 31
    23 3 and is to say 0 1 0 of the three pieces.
    """

    name: ClassVar[str] = "replaced_token_detection"
    architectures: ClassVar[tuple[str, ...]] = ("encoder",)
    unfit: ClassVar[dict[str, str]] = {
        "decoder": "a decoder does not see what stands behind a token; use causal_lm",
        "encoder_decoder": "it would leave the decoder without a task; use span_corruption",
    }

    noise_density: float = knob(0.15, "share of the pieces predicted", min=0.001, max=1.0)
    keep: float = knob(0.0, "share of these that show themselves, not [MASK]", min=0.0, max=1.0)
    generator_size: float = knob(
        0.25, "width, heads and MLP of the generator, by the discriminator's", min=0.01, max=1.0
    )
    coefficient: float = knob(50.0, "of the discriminator's loss; the generator's has 1", min=0.0)

    def shapes(self, setting: Setting) -> Shapes:
        setting.require("mask")
        T = setting.length
        return Shapes(raw=T, inputs=T, targets=self._noise(T), overlap=1)

    def _noise(self, pieces: int) -> int:
        """Pieces that the generator predicts among so many."""
        return noise_count(self.noise_density, pieces)

    def targets_expected(self, setting: Setting) -> float:
        """Pieces that the generator predicts and pieces that the discriminator judges."""
        pieces = setting.length - 2  # [CLS] and [SEP]
        return self._noise(pieces) + pieces

    def describe(self, setting: Setting) -> str:
        shapes, pieces = self.shapes(setting), setting.length - 2
        return (
            f"{self.name}: {shapes.raw} raw tokens a row, {shapes.inputs} read, "
            f"{self._noise(pieces)} predicted in {shapes.targets} slots, {pieces} judged"
        )

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        vocabulary, size = setting.vocabulary, self.shapes(setting).targets
        mask_key, draw_key = jax.random.split(key)
        shown, targets, indices, filled = masked_pieces(
            mask_key, row, vocabulary, self._noise, size, 0.0, self.keep
        )
        return Batch(
            inputs=sequence_of(shown, documents(row, vocabulary, setting.architecture)),
            decoder=None,
            targets=targets,
            weights=filled.astype(jnp.float32),
            indices=indices,
            draws=jax.random.uniform(draw_key, indices.shape),
            ordinary=vocabulary.ordinary,
        )

    def inverse(self, setting: Setting, batch: Batch) -> np.ndarray:
        return np.asarray(filled_in(batch, batch.targets))

    # ---- parameters ------------------------------------------------------------------------------

    def generator(self, config: ModelConfig) -> ModelConfig:
        """The generator of a discriminator: as deep, `generator_size` as wide, the same tables."""
        heads = max(1, round(config.heads * self.generator_size))
        step = 1 if config.head_size else 2 * heads  # a head has an even number of entries
        return replace(
            config,
            embedding_size=config.size_of_embedding,
            width=max(1, round(config.width * self.generator_size / step)) * step,
            heads=heads,
            kv_heads=math.gcd(config.kv_heads, heads) if config.kv_heads else 0,
            mlp_size=max(1, round(config.mlp_size * self.generator_size)),
        )

    def initialise(self, model, key: jax.Array, batch: Batch) -> dict:
        keys = jax.random.split(key, 3)
        params = model.init(keys[0], batch.inputs)["params"]
        generator = build(self.generator(model.config))
        own = generator.init(keys[1], batch.inputs, method="initialise")["params"]
        params = {**params, "generator": {k: v for k, v in own.items() if k != "embed"}}
        return with_head(params, "discriminator", DiscriminatorHead(model.config), keys[2])

    def networks(self, config, params, batch: Batch) -> tuple:
        rest = {name: part for name, part in params.items() if name != "generator"}
        return (
            (self.generator(config), params["generator"], {"lm": batch.targets.shape[-1]}),
            (config, rest, {"discriminator": batch.inputs.tokens.shape[-1]}),
        )

    # ---- losses ----------------------------------------------------------------------------------

    def coefficients(self) -> dict[str, float]:
        return {"lm": 1.0, "discriminator": self.coefficient}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        judged = self._judged(batch).sum(dtype=jnp.float32)
        return {"lm": batch.weights.sum(), "discriminator": judged}

    def _judged(self, batch):
        """bool[B,T]: 1 = an ordinary piece of the text."""
        return among(jax.vmap(filled_in)(batch, batch.targets), batch.ordinary)

    def answers(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """`lm`: the pieces int32[B,N]; `discriminator`: 0 or 1 of each token int32[B,T], which the
        generator's samples decide; and their weights."""
        corrupted, _ = self._generated(model, params, batch, key)
        return {
            "lm": (batch.targets, batch.weights),
            "discriminator": self._replaced(batch, corrupted),
        }

    def _generated(self, model, params, batch, key):
        """-> (int32[B,T] with the generator's samples in it, the sums of its loss)."""
        generator = build(self.generator(model.config))
        own = {**params["generator"], "embed": params["embed"]}
        key = None if key is None else jax.random.fold_in(key, 0)
        hidden = hidden_states(generator, own, batch, key)
        features = generator.apply({"params": own}, hidden, method="readout")
        table, bias = generator.apply({"params": own}, method="unembedding")
        samples = sampled_pieces(features, table, bias, batch.draws, batch.ordinary)
        return jax.vmap(filled_in)(batch, samples), self.scores(generator, own, hidden, batch)

    def _replaced(self, batch, corrupted):
        """(int32[B,T] 1 = replaced, and by another piece; float32[B,T] 1 = judged)."""
        replaced = corrupted != jax.vmap(filled_in)(batch, batch.targets)
        return replaced.astype(jnp.int32), self._judged(batch).astype(jnp.float32)

    def losses(self, model, params, batch: Batch, key: jax.Array | None) -> dict:
        """The generator's `lm` and `accuracy`; the discriminator's loss and accuracy, precision and
        recall of its finding replaced pieces, and `replaced`, their share: what it would be right
        of without looking is the rest."""
        corrupted, sums = self._generated(model, params, batch, key)
        replaced, judged = self._replaced(batch, corrupted)
        replaced = replaced.astype(jnp.float32)
        read = batch.replace(inputs=batch.inputs.replace(tokens=corrupted))
        states = all_states(
            model, params, read, None if key is None else jax.random.fold_in(key, 1)
        )
        head = {"params": params["heads"]["discriminator"]}
        logits = DiscriminatorHead(model.config).apply(head, states)
        losses = optax.sigmoid_binary_cross_entropy(logits, replaced)
        found = (logits > 0).astype(jnp.float32)
        right = (found == replaced).astype(jnp.float32)
        both, number = (found * replaced * judged).sum(), judged.sum()
        return {
            **sums,
            "discriminator": ((losses * judged).sum(), number),
            "discriminator_accuracy": ((right * judged).sum(), number),
            "precision": (both, (found * judged).sum()),
            "recall": (both, (replaced * judged).sum()),
            "replaced": ((replaced * judged).sum(), number),
        }


def filled_in(batch: Batch, pieces: jax.Array) -> jax.Array:
    """int32[T]: what one row reads, with pieces int32[N] where its targets were taken from."""
    length = batch.inputs.tokens.shape[0]
    taken = jnp.where(batch.weights > 0, batch.indices, jnp.int32(length))
    return jnp.asarray(batch.inputs.tokens).at[taken].set(pieces, mode="drop")
