"""Sampling: truncations of the next token's distribution, and draws with a key per row.
The truncations follow transformers' classes, in the same order; of equally likely tokens at a limit, all
are kept.
"""

import jax
import jax.numpy as jnp


def truncate(scores: jax.Array, values: dict, top_k: int) -> jax.Array:
    """scores float32[R,V] -> scores / temperature, -inf for tokens that are not sampled."""
    scores = scores / values["temperature"]
    if 0 < top_k < scores.shape[1]:
        least = jax.lax.top_k(scores, top_k)[0][:, -1:]
        scores = _keep(scores, scores >= least)
    if "top_p" in values:
        ascending = jnp.sort(scores, axis=1)
        kept = jnp.cumsum(jax.nn.softmax(ascending, axis=1), axis=1) > 1 - values["top_p"]
        kept = kept.at[:, -1].set(True)
        least = jnp.where(kept, ascending, jnp.inf).min(axis=1, keepdims=True)
        scores = _keep(scores, scores >= least)
    if "min_p" in values:
        probabilities = jax.nn.softmax(scores, axis=1)
        most = probabilities.max(axis=1, keepdims=True)
        scores = _keep(scores, probabilities >= values["min_p"] * most)
    if "typical_p" in values:
        scores = _keep(scores, _typical(scores, values["typical_p"]))
    return scores


def _keep(scores, kept):
    return jnp.where(kept, scores, -jnp.inf)


def _typical(scores, mass):
    """bool[R,V]: the tokens whose information is closest to the entropy, until they have the mass."""
    log_probs = jax.nn.log_softmax(scores, axis=1)
    probabilities = jnp.exp(log_probs)
    terms = jnp.where(probabilities > 0, log_probs * probabilities, jnp.float32(0))
    distance = jnp.abs(-log_probs + terms.sum(axis=1, keepdims=True))
    order = jnp.argsort(distance, axis=1)
    cumulative = jnp.cumsum(jnp.take_along_axis(probabilities, order, axis=1), axis=1)
    last = jnp.minimum((cumulative < mass).sum(axis=1), scores.shape[1] - 1)
    farthest = jnp.take_along_axis(distance, order, axis=1)
    return distance <= jnp.take_along_axis(farthest, last[:, None], axis=1)


def row_keys(seeds, numbers) -> jax.Array:
    """A key per row, from its seed uint32[R] and the number int32[R] of the sample of its prompt."""
    return jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))(seeds, numbers)


def sample(scores: jax.Array, keys: jax.Array, count) -> jax.Array:
    """int32[R]: a token of softmax(scores[R,V]) for each row, from its key and the number of its tokens
    alone."""
    rngs = jax.vmap(jax.random.fold_in, (0, None))(keys, count)
    return jax.vmap(jax.random.categorical)(rngs, scores).astype(jnp.int32)
