"""Training losses of a Batch: the protocol, and its default, cross entropy over the vocabulary.
The train step uses `loss_of(objective)` and never branches on the objective.
Objectives with heads or losses of their own implement TrainingLoss and reuse the functions below.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from objectives.base import Objective
from objectives.batch import Batch
from objectives.loss import chunked_cross_entropy, token_losses
from objectives.packing import apply_packed


@runtime_checkable
class TrainingLoss(Protocol):
    """The losses of a Batch. All methods use the same names for the same losses."""

    def init(self, model, rng: jax.Array, batch: Batch) -> dict:
        """Initial parameters; only the shapes of `batch` matter. An additional head is at
        `heads/NAME/...`, an additional model at `NAME/...`. Finetuning drops parameters that match
        PRETRAINING_HEADS in training/init_from.py, unless the task has them."""

    def losses(self, model, params, batch: Batch, dropout_rng: jax.Array | None) -> dict:
        """{name: (sum, weight)} of losses and metrics, float32[] each. dropout_rng=None: no dropout."""

    def loss_coefficients(self) -> dict[str, float]:
        """{name: coefficient} of the losses whose means are minimized; other names in `losses` are
        metrics."""

    def loss_denominators(self, batch: Batch) -> dict[str, jax.Array]:
        """{name: float32[]}: the denominator of each minimized loss, from the batch alone. The train
        step computes it once for the whole batch, so that microbatches add up."""

    def target_classes(self, model, params, batch: Batch, rng: jax.Array | None) -> dict:
        """{name: (class int32[...], weight float32[...])}: the targets of each minimized loss. Their
        entropy is the loss of a model that knows only their frequencies. `params` and `rng` are used
        only if samples from the model define the targets."""

    def flops_spec(self, config, params, batch: Batch) -> tuple:
        """((ModelConfig, params, {head: number of positions it reads}), ...): one entry for each model
        that a row runs through, for counting FLOPs. `params` and `batch` may be abstract."""


@dataclass(frozen=True)
class LMLoss:
    """Cross entropy of the targets under the language-modeling head."""

    z_loss: float = 0.0

    def init(self, model, rng: jax.Array, batch: Batch) -> dict:
        inputs = batch.inputs, batch.decoder_inputs
        return model.init(rng, *inputs, method="init_all")["params"]

    def losses(self, model, params, batch: Batch, dropout_rng: jax.Array | None) -> dict:
        hidden = target_hidden_states(model, params, batch, dropout_rng)
        return lm_sums(model, params, hidden, batch, self.z_loss)

    def loss_coefficients(self) -> dict[str, float]:
        return {"lm": 1.0}

    def loss_denominators(self, batch: Batch) -> dict[str, jax.Array]:
        return {"lm": batch.loss_weights.sum()}

    def target_classes(self, model, params, batch: Batch, rng: jax.Array | None) -> dict:
        return {"lm": (batch.targets, batch.loss_weights)}

    def flops_spec(self, config, params, batch: Batch) -> tuple:
        num_slots = batch.targets.shape[-1]
        if batch.slot_shares:
            num_slots = sum(number * share for number, share in batch.slot_shares)
        return ((config, params, {"lm": num_slots}),)


def loss_of(objective: Objective) -> TrainingLoss:
    """The objective itself if it defines its own loss, else LMLoss."""
    return objective if isinstance(objective, TrainingLoss) else LMLoss(objective.z_loss)


def lm_sums(
    model,
    params,
    hidden: jax.Array,
    batch: Batch,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> dict:
    """{'lm': (sum, weight), 'accuracy': (sum, weight)} of the targets, from the hidden states [B,N,D]
    that predict them. Where the batches of a mixture have fewer targets than slots, the LM head reads only
    the slots that a component uses."""

    def head_sums(num_slots=None):
        return chunked_cross_entropy(
            *_lm_head(model, params, hidden[:, :num_slots]),
            batch.targets[:, :num_slots],
            batch.loss_weights[:, :num_slots],
            model.config.vocab_size,
            z_loss,
            model.config.final_logit_softcap,
            label_smoothing,
        )

    if len(batch.slot_shares) > 1:
        sizes = [num_slots for num_slots, _ in batch.slot_shares]
        longer = [(batch.loss_weights[:, num_slots:] > 0).any() for num_slots in sizes[:-1]]
        branches = [partial(head_sums, num_slots) for num_slots in sizes]
        total, weight, correct = jax.lax.switch(jnp.stack(longer).sum(dtype=jnp.int32), branches)
    else:
        total, weight, correct = head_sums()
    return {"lm": (total, weight), "accuracy": (correct, weight)}


def lm_token_losses(model, params, hidden: jax.Array, targets) -> tuple[jax.Array, jax.Array]:
    """(-log p(target), 1 for a correct prediction) float32[B,N] of targets int32[B,N], from the hidden
    states [B,N,D] that predict them; no gradient."""
    head = _lm_head(model, params, hidden)
    config = model.config
    return token_losses(*head, targets, config.vocab_size, config.final_logit_softcap)


def _lm_head(model, params, hidden):
    """(features [B,N,E], output embedding [V,E], bias [V] or None): logits are their product."""
    features = model.apply({"params": params}, hidden, method="lm_features")
    return features, *model.apply({"params": params}, method="output_embedding")


def target_hidden_states(model, params, batch: Batch, dropout_rng: jax.Array | None) -> jax.Array:
    """Hidden states [B,N,D] at the target positions, so that the LM head reads no others."""
    return select_target_positions(last_hidden_states(model, params, batch, dropout_rng), batch)


def last_hidden_states(model, params, batch: Batch, dropout_rng: jax.Array | None) -> jax.Array:
    """Hidden states [B,T,D] of the decoder, or of the encoder if there is no decoder."""
    apply = partial(
        model.apply,
        {"params": params},
        deterministic=dropout_rng is None,
        rngs={} if dropout_rng is None else {"dropout": dropout_rng},
    )
    return apply_packed(apply, batch)


def select_target_positions(hidden: jax.Array, batch: Batch) -> jax.Array:
    """hidden [B,T,D] -> the hidden states [B,N,D] at the target positions."""
    if batch.target_positions is None:
        return hidden
    return jnp.take_along_axis(hidden, batch.target_positions[:, :, None], axis=1, mode="clip")
