"""Scores of the vocabulary, made in chunks, so that [B,N,V] never exists: cross entropy, samples.
Objectives call it with features and unembedding of a model; it gives sums and weights, or pieces.
The loss's gradient is made beside its value: each chunk's product with the table is run once.
"""

from functools import partial

import jax
import jax.numpy as jnp

from objectives.segments import among

MASKED = -1e30  # the logit of an id beyond the vocabulary: finite, so that nothing is 0 x inf
# Logits of a chunk on one device: 16 MB of float32, near the caches of a CPU; but not fewer than
# 512 rows, or reading and writing the table's gradient for each chunk costs an accelerator more
# than the products do.
CHUNK_LOGITS = 2**22
CHUNK_ROWS = 2**9


def chunked_cross_entropy(
    features: jax.Array,
    table: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    vocabulary_size: int,
    z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-> (sum of weight * (-log p(target) + z_loss * log(Z)^2), sum of weights, sum of weights where
    p is highest); Z = sum of exp(logits), the softmax's normaliser.

    features [B,N,E] or [N,E], in the compute dtype of the product; table [V,E] and bias [V] or
    None, float32, of which ids >= vocabulary_size count as impossible; targets int32 and weights
    float32 [B,N] or [N]; a target whose weight is 0 may be any id. Logits, softmax and sums are
    float32. Of equally high pieces the first is the guess, as in argmax. z_loss, a number of the
    program, keeps log Z near 0 (Chowdhery et al. 2022, PaLM, section 5: 1e-4); at 0 it costs nothing,
    and elsewhere nothing of the order of a product.

    Value and gradient come out of one pass over chunks of positions: a chunk's logits give its
    part of the sum and, while they are at hand, its part of the gradients of features and table,
    which the backward pass only scales. So no product is run twice, and what is kept is as large
    as features and table, never as the logits (cf. Wijmans et al. 2024, Hsu et al. 2024). Without
    differentiation only the value is computed. Like models.layers.project it has no forward mode.

    On a mesh: chunks are cut along N, never along B, so that the batch stays where it is sharded;
    a chunk is [B,n,V], each device holding its own rows (and its own pieces if V is sharded: then
    the maximum, the normaliser and the target's logit are reduced over [B,n] alone). The size of a
    chunk is counted over the whole mesh. The table's gradient is a sum over devices as well as
    over chunks; XLA moves that reduction out of the loop on accelerators.
    """
    if features.ndim == 2:
        features, targets, weights = features[None], targets[None], weights[None]
    if features.ndim != 3 or targets.shape != features.shape[:2] or weights.shape != targets.shape:
        raise ValueError(
            f"features {features.shape}, targets {targets.shape}, weights {weights.shape}: "
            "expected [B,N,E], [B,N], [B,N]"
        )
    if not 0 < vocabulary_size <= table.shape[0]:
        raise ValueError(
            f"vocabulary_size {vocabulary_size} with a table of {table.shape[0]} rows: "
            "expected at most as many pieces as rows"
        )
    chunks = number_of_chunks(*targets.shape, table.shape[0])
    settings = (vocabulary_size, chunks, z_loss)
    return _cross_entropy(features, table, bias, targets, weights, settings)


def number_of_chunks(rows: int, positions: int, vocabulary: int) -> int:
    """How many chunks of positions give each device the logits of a chunk (see CHUNK_LOGITS)."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size
    chunk = max(CHUNK_LOGITS, CHUNK_ROWS * vocabulary) * devices
    chunks = -(-rows * positions * vocabulary // chunk)
    return min(max(chunks, 1), max(positions, 1))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _cross_entropy(features, table, bias, targets, weights, settings):
    vocabulary_size, chunks, z_loss = settings
    work = partial(_chunk, table, bias, vocabulary_size, z_loss)
    sums = [jnp.zeros((), jnp.float32)] * 2
    pieces = _cut(chunks, features, targets, weights)

    def step(sums, piece):
        loss, correct, _, _ = work(*piece)
        return [sums[0] + loss, sums[1] + correct], None

    sums, _ = _loop(step, sums, pieces)
    return sums[0], weights.sum(), sums[1]


def _forward(features, table, bias, targets, weights, settings):
    vocabulary_size, chunks, z_loss = settings
    kernel = table.astype(features.dtype)
    work = partial(_chunk, table, bias, vocabulary_size, z_loss)
    zero = jnp.zeros((), jnp.float32)
    # The table's gradient is summed as [E,V]: so the large operand of its product, the gradient of
    # the logits, is read as it lies; as [V,E] it would be transposed first, chunk by chunk.
    sums = [zero, zero, jnp.zeros(table.shape[::-1], jnp.float32)]
    if bias is not None:
        sums.append(jnp.zeros(bias.shape, jnp.float32))

    def step(sums, piece):
        loss, correct, losses, gradient = work(*piece)
        d_logits = gradient()
        low = d_logits.astype(features.dtype)
        d_features = jnp.einsum("BNV,VE->BNE", low, kernel)
        d_table = jnp.einsum("BNE,BNV->EV", piece[0], low, preferred_element_type=jnp.float32)
        new = [sums[0] + loss, sums[1] + correct, sums[2] + d_table]
        if bias is not None:
            new.append(sums[3] + d_logits.sum((0, 1)))
        return new, (d_features, *losses)

    sums, (d_features, *losses) = _loop(step, sums, _cut(chunks, features, targets, weights))
    d_features, *losses = (_join(x, targets.shape[1]) for x in (d_features, *losses))
    # The chunks' parts are complete for a cotangent of 1: a weight's own gradient is its token's.
    d_table = jax.lax.optimization_barrier(sums[2]).T  # or the order above is undone again
    saved = (d_features, d_table.astype(table.dtype), sums[3:], losses)
    return (sums[0], weights.sum(), sums[1]), saved


def _backward(settings, saved, cotangents):
    d_features, d_table, d_bias, (losses, hits) = saved
    by_sum, by_weight, by_correct = cotangents
    return (
        d_features * by_sum.astype(d_features.dtype),
        d_table * by_sum,
        d_bias[0] * by_sum if d_bias else None,
        None,
        losses * by_sum + by_weight + hits * by_correct,
    )


_cross_entropy.defvjp(_forward, _backward)


def _chunk(table, bias, vocabulary_size, z_loss, features, targets, weights):
    """One chunk: (weighted loss, weighted hits, [losses, hits] by token, gradient of logits)."""
    logits = jnp.einsum(
        "BNE,VE->BNV", features, table.astype(features.dtype), preferred_element_type=jnp.float32
    )
    piece = jnp.arange(table.shape[0], dtype=jnp.int32)[None, None]
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)[None, None]
    if vocabulary_size < table.shape[0]:
        logits = jnp.where(piece < vocabulary_size, logits, jnp.float32(MASKED))
    highest = logits.max(-1, keepdims=True)
    exponentials = jnp.exp(logits - highest)
    normaliser = exponentials.sum(-1, keepdims=True)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    log_z = jnp.log(normaliser[..., 0]) + highest[..., 0]
    losses = log_z - target
    if z_loss:
        losses = losses + z_loss * jnp.square(log_z)
    first = jnp.where(logits == highest, piece, jnp.int32(table.shape[0])).min(-1)
    hits = (first == targets).astype(jnp.float32)

    def gradient():
        # d log(Z) / d logits is p, which -log p(target) and log(Z)^2 both come down to.
        by_log_z = weights * (1 + 2 * z_loss * log_z) if z_loss else weights
        scaled = exponentials * (by_log_z[..., None] / normaliser)
        return scaled - jnp.where(piece == targets[..., None], weights[..., None], jnp.float32(0))

    return (losses * weights).sum(), (hits * weights).sum(), [losses, hits], gradient


def _cut(chunks, *arrays):
    """[B,N,...] -> [chunks,B,n,...], N filled up with zeros (of weight zero)."""
    cut = []
    for x in arrays:
        size = -(-x.shape[1] // chunks)
        x = jnp.pad(x, [(0, 0), (0, size * chunks - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
        cut.append(jnp.moveaxis(x.reshape(x.shape[0], chunks, size, *x.shape[2:]), 1, 0))
    return tuple(cut)


def _join(x, positions):
    """[chunks,B,n,...] -> [B,N,...], the inverse of _cut."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :positions]


def _loop(step, carry, pieces):
    """lax.scan, without a loop around a single chunk."""
    if pieces[0].shape[0] == 1:
        carry, out = step(carry, tuple(x[0] for x in pieces))
        return carry, jax.tree.map(lambda x: x[None], out)
    return jax.lax.scan(step, carry, pieces)


def sampled_pieces(
    features: jax.Array,
    table: jax.Array,
    bias: jax.Array | None,
    draws: jax.Array,
    ordinary: tuple[tuple[int, int], ...],
) -> jax.Array:
    """int32[B,N]: a piece for each position, from the softmax over the ordinary pieces; no gradient.

    features, table and bias as above; draws float32[B,N] in [0, 1), one uniform number a sample;
    ordinary: half-open ranges of ids. A sample is the piece at which the cumulated probability
    passes its number, found among sums of 128 pieces and then within one: the same whatever the
    chunks and the other rows are, and a V-th of the random numbers that Gumbel noise would take.
    """
    features, table, bias = jax.lax.stop_gradient((features, table, bias))
    kernel = table.astype(features.dtype)
    allowed = among(jnp.arange(table.shape[0], dtype=jnp.int32), ordinary)[None, None]
    lanes = 128 if table.shape[0] % 128 == 0 else table.shape[0]

    def step(carry, cut):
        features, draws = cut
        logits = jnp.einsum("BNE,VE->BNV", features, kernel, preferred_element_type=jnp.float32)
        if bias is not None:
            logits = logits + bias.astype(jnp.float32)[None, None]
        logits = jnp.where(allowed, logits, jnp.float32(MASKED))
        p = jnp.exp(logits - logits.max(-1, keepdims=True))
        p = p.reshape(*draws.shape, -1, lanes)
        blocks = p.sum(-1).cumsum(-1)
        passed, block = _passed(blocks, draws * blocks[..., -1])
        within = jnp.take_along_axis(p, block[..., None, None], axis=2)[:, :, 0].cumsum(-1)
        _, place = _passed(within, draws * blocks[..., -1] - passed)
        return carry, block * lanes + place

    chunks = number_of_chunks(*draws.shape, table.shape[0])
    _, pieces = _loop(step, None, _cut(chunks, features, draws))
    return _join(pieces, draws.shape[1])


def _passed(sums, mark):
    """Of ascending sums [B,N,K]: the last one at or below mark [B,N] (0 if there is none), and the
    index behind it, at which something was added. The mark counts as just below the last sum."""
    last = sums[..., -1] * jnp.float32(1 - 2**-23)
    below = sums <= jnp.clip(mark, jnp.zeros_like(last), last)[..., None]
    index = below.sum(-1, dtype=jnp.int32)
    return jnp.where(below, sums, jnp.zeros_like(sums)).max(-1), index
