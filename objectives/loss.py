"""Cross entropy and sampling with logits in chunks, so that [B,N,V] never exists.
Inputs are the features and the output embedding of a model; results are sums and weights, or tokens.
The forward pass also computes the gradient, so each chunk's logits are computed only once.
"""

from functools import partial

import jax
import jax.numpy as jnp

from models.layers import MASKED_LOGIT, lm_logits
from models.logical_axes import mesh_axes_size, with_logical_constraint
from objectives.document_ids import in_ranges

# Logits per chunk and device: 16 MB of float32, about a CPU's cache. At least 512 positions per chunk: with
# fewer, an accelerator would, by estimate, spend more time on updating the gradient of the output embedding
# than on matrix products.
CHUNK_LOGITS = 2**22
MIN_CHUNK_POSITIONS = 2**9


def chunked_cross_entropy(
    features: jax.Array,
    output_embedding: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    vocab_size: int,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-> float32[] each: (sum of weight * (-log p(target) + z_loss * log(Z)^2), sum of weights, sum of
    weights of correctly predicted targets); Z = sum of exp(logits), the softmax normalizer.

    features [B,N,E] or [N,E] in the compute dtype; output_embedding [V,E] and bias [V] or None, float32; ids
    >= vocab_size have probability 0. targets int32 and weights float32 [B,N] or [N]; a target with
    weight 0 may be any id. Logits, softmax and sums are float32. The prediction is the argmax of the
    logits. z_loss is static and keeps log Z near 0 (Chowdhery et al. 2022, PaLM, section 5: 1e-4).
    label_smoothing is static: -log p(target) becomes -sum_v q_v log p_v with q = (1 - label_smoothing)
    onehot(target) + label_smoothing / vocab_size (Szegedy et al. 2016, section 7).
    softcap is static: the model's final_logit_softcap.

    One pass over chunks of positions computes value and gradient: each chunk's logits give its part
    of the sum and of the gradients of features and output_embedding, which the backward pass only scales. No
    product runs twice, and the residuals have the size of features and output_embedding, not of the logits
    (cf. Wijmans et al. 2024, Hsu et al. 2024). Without differentiation only the value is computed.
    There is no forward-mode derivative, as in models.layers.dense_product.

    On a mesh: chunks split N, never B, so the batch stays sharded; where N is sharded, a chunk has a part
    of each device. A chunk of logits is [B,n,V], sharded over B and n, and over V if the embedding is; the
    maximum, the normalizer and the target logit are then reduced as [B,n]. The chunk size is per device.
    The embedding's gradient is a sum over devices and chunks; on accelerators XLA moves the all-reduce out
    of the loop.
    """
    if features.ndim == 2:
        features, targets, weights = features[None], targets[None], weights[None]
    _check(features, output_embedding, targets, weights, vocab_size)
    chunks = number_of_chunks(*targets.shape, output_embedding.shape[0])
    static = (vocab_size, chunks, z_loss, softcap, label_smoothing)
    return _cross_entropy(features, output_embedding, bias, targets, weights, static)


def token_losses(
    features: jax.Array,
    output_embedding: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    vocab_size: int,
    softcap: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """(-log p(target), 1 for a correct prediction), float32[B,N] each; no gradient. Arguments as in
    chunked_cross_entropy."""
    features, output_embedding, bias = jax.lax.stop_gradient((features, output_embedding, bias))
    ones = jnp.ones(targets.shape, jnp.float32)
    _check(features, output_embedding, targets, ones, vocab_size)

    def step(carry, chunk):
        _, _, per_token, _ = _score_chunk(
            output_embedding, bias, (vocab_size, 0, 0.0, softcap, 0.0), *chunk
        )
        return carry, per_token

    chunks = number_of_chunks(*targets.shape, output_embedding.shape[0])
    _, scores = _scan(step, None, _split(chunks, features, targets, ones))
    losses, hits = (_join(x, targets.shape[1]) for x in scores)
    return losses, hits


def _check(features, output_embedding, targets, weights, vocab_size):
    """Raises ValueError for shapes that do not fit each other."""
    if features.ndim != 3 or targets.shape != features.shape[:2] or weights.shape != targets.shape:
        raise ValueError(
            f"features {features.shape}, targets {targets.shape}, weights {weights.shape}: "
            "expected [B,N,E], [B,N], [B,N]"
        )
    if not 0 < vocab_size <= output_embedding.shape[0]:
        raise ValueError(
            f"vocab_size {vocab_size} with an output embedding of {output_embedding.shape[0]} rows: "
            "expected at most as many tokens as rows"
        )


def number_of_chunks(rows: int, positions: int, vocab_size: int) -> int:
    """The number of chunks of positions (see CHUNK_LOGITS)."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size
    chunk = max(CHUNK_LOGITS, MIN_CHUNK_POSITIONS * vocab_size) * devices
    chunks = -(-rows * positions * vocab_size // chunk)
    return min(max(chunks, 1), max(positions, 1))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _cross_entropy(features, output_embedding, bias, targets, weights, static):
    def step(sums, chunk):
        loss, correct, _, _ = _score_chunk(output_embedding, bias, static, *chunk)
        return [sums[0] + loss, sums[1] + correct], None

    sums = [jnp.zeros((), jnp.float32)] * 2
    sums, _ = _scan(step, sums, _split(static[1], features, targets, weights))
    return sums[0], weights.sum(), sums[1]


def _forward(features, output_embedding, bias, targets, weights, static):
    embedding = output_embedding.astype(features.dtype)
    zero = jnp.zeros((), jnp.float32)
    # The embedding's gradient is summed as [E,V], so that its product reads the large operand, the logits'
    # gradient, in place; a sum as [V,E] would transpose that operand in every chunk.
    sums = [zero, zero, jnp.zeros(output_embedding.shape[::-1], jnp.float32)]
    if bias is not None:
        sums.append(jnp.zeros(bias.shape, jnp.float32))

    def step(sums, chunk):
        loss, correct, per_token, gradient = _score_chunk(output_embedding, bias, static, *chunk)
        d_logits = gradient()
        factor = d_logits.astype(features.dtype)
        d_features = jnp.einsum("BNV,VE->BNE", factor, embedding)
        d_embedding = jnp.einsum(
            "BNE,BNV->EV", chunk[0], factor, preferred_element_type=jnp.float32
        )
        new = [sums[0] + loss, sums[1] + correct, sums[2] + d_embedding]
        if bias is not None:
            new.append(sums[3] + d_logits.sum((0, 1)))
        return new, (d_features, *per_token)

    sums, outputs = _scan(step, sums, _split(static[1], features, targets, weights))
    d_features, *per_token = (_join(x, targets.shape[1]) for x in outputs)
    # These gradients are for a cotangent of 1. The gradient with respect to a weight is its target's loss.
    # The barrier prevents XLA from moving the transposition into the loop.
    d_embedding = jax.lax.optimization_barrier(sums[2]).T
    residuals = (d_features, d_embedding.astype(output_embedding.dtype), sums[3:], per_token)
    return (sums[0], weights.sum(), sums[1]), residuals


def _backward(static, residuals, cotangents):
    d_features, d_embedding, d_bias, (losses, hits) = residuals
    d_loss, d_weight, d_correct = cotangents
    return (
        d_features * d_loss.astype(d_features.dtype),
        d_embedding * d_loss,
        d_bias[0] * d_loss if d_bias else None,
        None,
        losses * d_loss + d_weight + hits * d_correct,
    )


_cross_entropy.defvjp(_forward, _backward)


def _score_chunk(output_embedding, bias, static, features, targets, weights):
    """-> (sum of weighted losses, sum of weighted hits, [losses, hits] float32[B,n] each, function that
    returns the gradient of the logits before the cap, float32[B,n,V]). A hit is 1 for a correct
    prediction."""
    vocab_size, _, z_loss, softcap, smoothing = static
    logits = capped = lm_logits(features, output_embedding, bias, softcap)
    token = jnp.arange(output_embedding.shape[0], dtype=jnp.int32)[None, None]
    if vocab_size < output_embedding.shape[0]:
        logits = jnp.where(token < vocab_size, logits, jnp.float32(MASKED_LOGIT))
    highest = logits.max(-1, keepdims=True)
    exponentials = jnp.exp(logits - highest)
    normalizer = exponentials.sum(-1, keepdims=True)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    log_z = jnp.log(normalizer[..., 0]) + highest[..., 0]
    losses = log_z - target
    if smoothing:
        known = jnp.where(token < vocab_size, logits, jnp.float32(0))
        losses = losses + smoothing * (target - known.sum(-1) / vocab_size)
    if z_loss:
        losses = losses + z_loss * jnp.square(log_z)
    first = jnp.where(logits == highest, token, jnp.int32(output_embedding.shape[0])).min(-1)
    hits = (first == targets).astype(jnp.float32)

    def gradient():
        # The gradient of log(Z) is p; both -log p(target) and log(Z)^2 depend on log(Z).
        by_log_z = weights * (1 + 2 * z_loss * log_z) if z_loss else weights
        scaled = exponentials * (by_log_z[..., None] / normalizer)
        at_target = jnp.where(token == targets[..., None], weights[..., None], jnp.float32(0))
        if smoothing:
            others = jnp.where(
                token < vocab_size, jnp.float32(smoothing / vocab_size), jnp.float32(0)
            )
            at_target = (1 - smoothing) * at_target + others * weights[..., None]
        d_logits = scaled - at_target
        if softcap:  # the derivative of c tanh(x / c) is 1 - tanh^2
            d_logits = d_logits * (1 - jnp.square(capped / softcap))
        return d_logits

    return (losses * weights).sum(), (hits * weights).sum(), [losses, hits], gradient


def _split(chunks, *arrays):
    """[B,N,...] -> [chunks,B,n,...], padded with zeros, whose weight is 0 too. Where devices split N, a chunk
    has positions of each."""
    split, parts = [], mesh_axes_size("N")
    for x in arrays:
        size = -(-x.shape[1] // (chunks * parts))
        padding = size * chunks * parts - x.shape[1]
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        x = with_logical_constraint(x, "BNE"[: x.ndim]) if parts > 1 else x
        x = x.reshape(x.shape[0], parts, chunks, size, *x.shape[2:])
        x = jnp.moveaxis(x, 2, 0).reshape(chunks, x.shape[0], parts * size, *x.shape[4:])
        split.append(x)
    return tuple(split)


def _join(x, positions):
    """[chunks,B,n,...] -> [B,N,...], the inverse of _split."""
    parts = mesh_axes_size("N")
    x = x.reshape(*x.shape[:2], parts, -1, *x.shape[3:])
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(x.shape[0], -1, *x.shape[4:])[:, :positions]


def _scan(step, carry, chunks):
    """lax.scan, without a loop if there is only one chunk."""
    if chunks[0].shape[0] == 1:
        carry, out = step(carry, tuple(x[0] for x in chunks))
        return carry, jax.tree.map(lambda x: x[None], out)
    return jax.lax.scan(step, carry, chunks)


def sample_tokens(
    features: jax.Array,
    output_embedding: jax.Array,
    bias: jax.Array | None,
    uniforms: jax.Array,
    ranges: tuple[tuple[int, int], ...],
    softcap: float = 0.0,
) -> jax.Array:
    """int32[B,N]: one sample per position from the softmax over the ids in `ranges`; no gradient.

    features [B,N,E], output_embedding, bias and softcap as in chunked_cross_entropy; uniforms float32[B,N]
    in [0, 1); ranges: half-open ranges of ids. A sample is the id at which the cumulative probability
    exceeds its uniform number, which needs one random number (Gumbel noise: V numbers). The search finds a
    block of 128 ids, then an id in it. The result does not depend on the chunks or on other rows.
    """
    features, output_embedding, bias = jax.lax.stop_gradient((features, output_embedding, bias))
    allowed = in_ranges(jnp.arange(output_embedding.shape[0], dtype=jnp.int32), ranges)[None, None]
    lanes = 128 if output_embedding.shape[0] % 128 == 0 else output_embedding.shape[0]

    def step(carry, chunk):
        features, uniforms = chunk
        logits = lm_logits(features, output_embedding, bias, softcap)
        logits = jnp.where(allowed, logits, jnp.float32(MASKED_LOGIT))
        p = jnp.exp(logits - logits.max(-1, keepdims=True))
        p = p.reshape(*uniforms.shape, -1, lanes)
        blocks = p.sum(-1).cumsum(-1)
        before, block = _search(blocks, uniforms * blocks[..., -1])
        within = jnp.take_along_axis(p, block[..., None, None], axis=2)[:, :, 0].cumsum(-1)
        _, lane = _search(within, uniforms * blocks[..., -1] - before)
        return carry, block * lanes + lane

    chunks = number_of_chunks(*uniforms.shape, output_embedding.shape[0])
    _, tokens = _scan(step, None, _split(chunks, features, uniforms))
    return _join(tokens, uniforms.shape[1])


def _search(sums, threshold):
    """ascending sums [B,N,K], threshold [B,N] -> (the largest sum <= threshold, or 0 if none; the index
    of the first sum > threshold). A threshold of the last sum or more is lowered to just below it."""
    last = sums[..., -1] * jnp.float32(1 - 2**-23)
    below = sums <= jnp.clip(threshold, jnp.zeros_like(last), last)[..., None]
    index = below.sum(-1, dtype=jnp.int32)
    return jnp.where(below, sums, jnp.zeros_like(sums)).max(-1), index
