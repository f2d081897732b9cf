"""replaced_token_detection: an encoder finds replaced tokens (ELECTRA; Clark et al. 2020).
A small generator is trained by masked LM, and its samples replace the masks. The model, called the
discriminator, predicts for each token whether it was replaced.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models import build
from models.config import ModelConfig, option
from models.inputs import make_inputs
from objectives.base import Objective, ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.document_ids import document_ids, in_ranges
from objectives.heads import DiscriminatorHead, with_head
from objectives.lm_loss import TrainingLoss, last_hidden_states, lm_sums, target_hidden_states
from objectives.loss import sample_tokens
from objectives.noise import mask_tokens, noise_count


@dataclass(frozen=True)
class ReplacedTokenDetection(Objective, TrainingLoss):
    """ELECTRA (section 2): the loss is the generator's loss plus `discriminator_loss_weight` times the
    discriminator's loss. The discriminator classifies all regular tokens. A sample that equals the
    original token counts as original.

    Parameters: the discriminator's at the usual paths, `heads/discriminator`, and `generator`, a
    narrower model without its own `embed`, because both models share the embeddings (section 3.2).
    `corrupt` draws one uniform number per masked token, from which the generator's token is sampled,
    in evaluation too. No gradient flows through the samples. The Batch is the same as for masked_lm:

        row                 [ 2, 21, 22, 23, 3, 0 ]
        inputs.tokens       [ 2, 21,  5, 23, 3, 0 ]    the generator's input
        inputs.segment_ids  [ 1,  1,  1,  1, 1, 0 ]
        targets             [ 22 ]
        loss_weights        [ 1 ]
        target_positions    [ 2 ]

    and `sampling_uniforms`, one number for the 22. If the generator's sample is 31, the
    discriminator reads 2 21 31 23 3, and the classes of its three regular tokens are 0 1 0.
    """

    name: ClassVar[str] = "replaced_token_detection"
    unsupported: ClassVar[dict[str, str]] = {
        "decoder": "a decoder does not see the tokens after a token; use causal_lm",
        "encoder_decoder": "the decoder would have no task; use span_corruption",
    }

    noise_density: float = option(
        0.15, "share of tokens that the generator predicts", min=0.001, max=1.0
    )
    keep_token_prob: float = option(
        0.0, "share of predicted tokens left unchanged; the rest become [MASK]", min=0.0, max=1.0
    )
    generator_size: float = option(
        0.25,
        "generator: share of the discriminator's emb_dim, num_heads, mlp_dim",
        min=0.01,
        max=1.0,
    )
    discriminator_loss_weight: float = option(
        50.0, "weight of the discriminator's loss; the generator's loss has weight 1", min=0.0
    )

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        spec.require("mask")
        T = spec.seq_len
        return SequenceLengths(raw=T, inputs=T, targets=self._num_noise(T), overlap=1)

    def _num_noise(self, tokens: int) -> int:
        return noise_count(self.noise_density, tokens)

    def expected_num_targets(self, spec: ObjectiveSpec) -> float:
        """Number of tokens that the generator predicts plus those that the discriminator classifies."""
        tokens = spec.seq_len - 2  # [CLS] and [SEP]
        return self._num_noise(tokens) + tokens

    def describe(self, spec: ObjectiveSpec) -> str:
        lengths, tokens = self.lengths(spec), spec.seq_len - 2
        return (
            f"{self.name}: {lengths.raw} raw tokens per row, {lengths.inputs} input tokens, "
            f"{self._num_noise(tokens)} predicted in {lengths.targets} slots, {tokens} classified"
        )

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        vocabulary, size = spec.vocabulary, self.lengths(spec).targets
        mask_rng, sample_rng = jax.random.split(rng)
        masked, targets, positions, filled = mask_tokens(
            mask_rng, row, vocabulary, self._num_noise, size, 0.0, self.keep_token_prob
        )
        return Batch(
            inputs=make_inputs(masked, document_ids(row, vocabulary, spec.architecture)),
            targets=targets,
            loss_weights=filled.astype(jnp.float32),
            target_positions=positions,
            sampling_uniforms=jax.random.uniform(sample_rng, positions.shape),
            regular_token_ranges=vocabulary.regular_token_ranges,
        )

    def reconstruct(self, spec: ObjectiveSpec, batch: Batch) -> np.ndarray:
        return np.asarray(fill_targets(batch, batch.targets))

    # ---- Parameters ------------------------------------------------------------------------------

    def generator_config(self, config: ModelConfig) -> ModelConfig:
        """The generator's config, derived from the discriminator's: same depth and embedding size,
        `generator_size` times the width."""
        num_heads = max(1, round(config.num_heads * self.generator_size))
        multiple = 1 if config.head_dim else 2 * num_heads  # so that head_dim is even
        num_kv_heads = math.gcd(config.num_kv_heads, num_heads) if config.num_kv_heads else 0
        return replace(
            config,
            embedding_size=config.resolved_embedding_size,
            emb_dim=max(1, round(config.emb_dim * self.generator_size / multiple)) * multiple,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            mlp_dim=max(1, round(config.mlp_dim * self.generator_size)),
        )

    def init(self, model, rng: jax.Array, batch: Batch) -> dict:
        rngs = jax.random.split(rng, 3)
        params = model.init(rngs[0], batch.inputs)["params"]
        generator = build(self.generator_config(model.config))
        generator_params = generator.init(rngs[1], batch.inputs, method="init_all")["params"]
        params = {
            **params,
            "generator": {k: v for k, v in generator_params.items() if k != "embed"},
        }
        return with_head(params, "discriminator", DiscriminatorHead(model.config), rngs[2])

    def flops_spec(self, config, params, batch: Batch) -> tuple:
        discriminator = {name: part for name, part in params.items() if name != "generator"}
        return (
            (self.generator_config(config), params["generator"], {"lm": batch.targets.shape[-1]}),
            (config, discriminator, {"discriminator": batch.inputs.tokens.shape[-1]}),
        )

    # ---- Losses ----------------------------------------------------------------------------------

    def loss_coefficients(self) -> dict[str, float]:
        return {"lm": 1.0, "discriminator": self.discriminator_loss_weight}

    def loss_denominators(self, batch: Batch) -> dict[str, jax.Array]:
        num_regular = self._is_regular(batch).sum(dtype=jnp.float32)
        return {"lm": batch.loss_weights.sum(), "discriminator": num_regular}

    def target_classes(self, model, params, batch: Batch, rng: jax.Array | None) -> dict:
        """`lm`: the masked tokens int32[B,N]; `discriminator`: int32[B,T], 1 = replaced, from the
        generator's samples."""
        corrupted, _ = self._generate(model, params, batch, rng)
        return {
            "lm": (batch.targets, batch.loss_weights),
            "discriminator": self._replaced(batch, corrupted),
        }

    def losses(self, model, params, batch: Batch, dropout_rng: jax.Array | None) -> dict:
        """The generator's `lm` and `accuracy`; `discriminator`, the loss of the discriminator, with its
        accuracy, and its precision and recall for replaced tokens; and `replaced`, the share of
        replaced tokens (always predicting "original" has the accuracy 1 - `replaced`)."""
        corrupted, sums = self._generate(model, params, batch, dropout_rng)
        replaced, regular = self._replaced(batch, corrupted)
        replaced = replaced.astype(jnp.float32)
        batch = batch.replace(inputs=batch.inputs.replace(tokens=corrupted))
        states = last_hidden_states(model, params, batch, _fold_in(dropout_rng, 1))
        head = {"params": params["heads"]["discriminator"]}
        logits = DiscriminatorHead(model.config).apply(head, states)
        losses = optax.sigmoid_binary_cross_entropy(logits, replaced)
        predicted = (logits > 0).astype(jnp.float32)
        correct = (predicted == replaced).astype(jnp.float32)
        true_positives, total = (predicted * replaced * regular).sum(), regular.sum()
        return {
            **sums,
            "discriminator": ((losses * regular).sum(), total),
            "discriminator_accuracy": ((correct * regular).sum(), total),
            "precision": (true_positives, (predicted * regular).sum()),
            "recall": (true_positives, (replaced * regular).sum()),
            "replaced": ((replaced * regular).sum(), total),
        }

    def _generate(self, model, params, batch, rng):
        """-> (int32[B,T]: the inputs with the generator's samples; its `lm` and `accuracy` sums)."""
        generator = build(self.generator_config(model.config), loop=model.loop)
        params = {**params["generator"], "embed": params["embed"]}
        hidden = target_hidden_states(generator, params, batch, _fold_in(rng, 0))
        features = generator.apply({"params": params}, hidden, method="lm_features")
        table, bias = generator.apply({"params": params}, method="output_embedding")
        samples = sample_tokens(
            features, table, bias, batch.sampling_uniforms, batch.regular_token_ranges,
            generator.config.final_logit_softcap,
        )  # fmt: skip
        corrupted = jax.vmap(fill_targets)(batch, samples)
        return corrupted, lm_sums(generator, params, hidden, batch, self.z_loss)

    def _replaced(self, batch, corrupted):
        """(int32[B,T]: 1 = differs from the original token; float32[B,T]: 1 = a regular token)."""
        replaced = corrupted != jax.vmap(fill_targets)(batch, batch.targets)
        return replaced.astype(jnp.int32), self._is_regular(batch).astype(jnp.float32)

    def _is_regular(self, batch):
        """bool[B,T]: 1 = the original token is a regular token."""
        original = jax.vmap(fill_targets)(batch, batch.targets)
        return in_ranges(original, batch.regular_token_ranges)


def fill_targets(batch: Batch, tokens: jax.Array) -> jax.Array:
    """int32[T]: the input tokens of one row, with `tokens` int32[N] at the target positions."""
    length = batch.inputs.tokens.shape[0]
    written = jnp.where(batch.loss_weights > 0, batch.target_positions, jnp.int32(length))
    return jnp.asarray(batch.inputs.tokens).at[written].set(tokens, mode="drop")


def _fold_in(rng, number):
    return None if rng is None else jax.random.fold_in(rng, number)
