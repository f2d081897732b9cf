"""Attention: self- and cross-, multi-head and grouped-query, by one module and one function.
A layer of models/stack.py calls it; the mask comes as two Sequences, not as an array.
`attend` is the plain path, the one place that makes the mask dense.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.axes import constrain
from models.config import ModelConfig
from models.layers import Dense, Norm
from models.positions import rotate
from models.sequence import Sequence, allowed

# Far below any score, and finite: a row without a visible key (padding) averages its values
# instead of dividing zero by zero.
HIDDEN = -1e30


class Attention(nn.Module):
    """x[B,T,D] attends to y[B,S,D] (self-attention: y is x) -> [B,T,D].

    Parameters: query [D,HK], key and value [D,GK], out [HK,D] (G key heads serve H query heads;
    Ainslie et al. 2023). With qk_norm each head's query and key are normalised over K before they
    are turned, so that scores cannot grow without bound (Henry et al. 2020; Dehghani et al. 2023,
    section 2); the scales [K] are shared by the heads. Rotary positions turn cross-attention too,
    each side by its own positions: what is typed lies near what is read, and without that a decoder
    has to find it by content.
    """

    config: ModelConfig
    depth: int  # of the stack, for the initial size of `out`
    cross: bool = False
    layer: int = 0  # of the stack: some layers see, and turn, otherwise than others

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        y: jax.Array,
        queries: Sequence,
        keys: Sequence,
        bias: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        config = self.config
        size, groups = config.size_of_head, config.key_value_heads
        biases = config.biases or config.query_key_value_biases
        q = Dense(config, config.heads * size, kind="query", bias=biases, name="query")(x)
        k = Dense(config, groups * size, bias=biases, name="key")(y)
        v = Dense(config, groups * size, bias=biases, name="value")(y)
        q = q.reshape(*q.shape[:2], config.heads, size)  # [B,T,H,K]
        k = k.reshape(*k.shape[:2], groups, size)  # [B,S,G,K]
        v = v.reshape(*v.shape[:2], groups, size)
        if config.qk_norm:
            q, k = Norm(config, name="query_norm")(q), Norm(config, name="key_norm")(k)
        if config.positions == "rotary":
            base = config.rotary_base if self.cross else config.rotary_base_of(self.layer)
            q = rotate(q, queries.positions, base)
            k = rotate(k, keys.positions, base)
        # Crossing over, every query sees all of the other sequence's segment.
        mask = allowed(
            queries.segments,
            keys.segments,
            visibility="all" if self.cross else keys.visibility,
            prefix=None if self.cross else keys.prefix,
            window=0 if self.cross else (config.window_of(self.layer) or keys.window),
        )
        dropout = nn.Dropout(config.attention_dropout, name="dropout")
        out = attend(
            q,
            k,
            v,
            mask,
            bias=bias,
            scale=size**-0.5 if config.attention_scale else 1.0,
            dropout=lambda probabilities: dropout(probabilities, deterministic=deterministic),
        )
        out = out.reshape(*out.shape[:2], config.heads * size)
        return Dense(config, config.width, kind="residual", depth=self.depth, name="out")(out)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    bias: jax.Array | None = None,
    scale: float = 1.0,
    dropout: Callable[[jax.Array], jax.Array] = lambda probabilities: probabilities,
) -> jax.Array:
    """softmax(q k + bias) v: q[B,T,H,K], k[B,S,G,K], v[B,S,G,K], mask[B,T,S] -> [B,T,H,K].

    bias float32[H,T,S] is added to the scores. Scores and softmax are float32. Heads move before
    positions ahead of the products: as batch axes in front of a plain matrix product they run
    several times faster than as strided inner axes.
    """
    B, T, H, K = q.shape
    S, G = k.shape[1], k.shape[2]
    # The scale goes onto q: on the scores it would be one more pass over [T,S], and backwards too.
    q = constrain((q * scale).transpose(0, 2, 1, 3), "BHTK")
    k = constrain(k.transpose(0, 2, 1, 3), "BHSK")
    v = constrain(v.transpose(0, 2, 1, 3), "BHSK")
    # The query heads of one key head follow each other, as if they were more queries of it.
    q = q.reshape(B, G, -1, K)
    scores = jnp.einsum("BGTK,BGSK->BGTS", q, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(B, H, T, S)
    if bias is not None:
        scores = scores + bias[None]
    scores = jnp.where(mask[:, None], scores, jnp.float32(HIDDEN))
    probabilities = dropout(jax.nn.softmax(scores, axis=-1)).astype(v.dtype)
    out = jnp.einsum("BGTS,BGSK->BGTK", probabilities.reshape(B, G, -1, S), v)
    out = constrain(out.reshape(B, H, T, K), "BHTK")
    return out.transpose(0, 2, 1, 3)
